package null

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/idloc/idloc/internal/netconn"
)

// Report is what one side says of a stream when it goes over to another
// connection. It is a plain value.
type Report struct {
	Taken  uint64 // bytes of the peer's that were taken, all before it included
	Ended  bool   // the peer's end of stream was taken too: there are no more
	Closed bool   // this side has ended its own stream,
	End    uint64 // and there, in bytes from its beginning
	Unread uint32 // how many bytes may lie unread in this side's system

	installs int // of this side's stream when the report was made
}

// Errors of a stream, inside the *net.OpError of its methods.
var (
	// ErrReset: the peer no longer has the stream. A Config.Resume returns
	// it, or an error that wraps it, when the peer itself says so.
	ErrReset = syscall.ECONNRESET
	// ErrLost: no connection could be made in place of one that was lost.
	ErrLost = syscall.ETIMEDOUT
	// ErrCount: the peer asks for bytes that it has confirmed before, or
	// that were never sent.
	ErrCount = errors.New("null: the peer's count is outside what is kept")
	// ErrStale: the stream has gone on since the report was made.
	ErrStale = errors.New("null: the report is out of date")
)

// Config says what a Stream is between. It is read once.
type Config struct {
	Local, Remote net.Addr // what LocalAddr and RemoteAddr return
	// Resume makes a connection in place of the one lost and gives it to
	// Install, with report, before it returns nil. It is called again, after a pause, if it
	// fails; not if the error wraps ErrReset. It must not send a report that is
	// not Fresh. One call at a time. Required.
	Resume func(ctx context.Context, report Report) error
	// Ended is called once, when the stream needs no connection any more. nil
	// is fine. It must not call the Stream.
	Ended func(err error)

	Unread   int           // how many bytes may lie unread here; 0 = MaxUnread
	Patience time.Duration // how long a stream may stand without a connection; 0 = 60 s
	Linger   time.Duration // how long Close goes on in the background; 0 = 30 s
}

const (
	defaultPatience = 60 * time.Second
	defaultLinger   = 30 * time.Second
	// MaxPeerUnread bounds what a peer may announce, and with it the memory
	// of a stream.
	MaxPeerUnread = 8 << 20

	// writePiece is how much is given to the system at a time.
	writePiece = 256 << 10
	// trimEvery is how many bytes go by between two looks at what was
	// acknowledged, which cost a call.
	trimEvery = 256 << 10
)

// Stream is a TCP connection that outlives the connections it is made of. It
// is a net.Conn with CloseRead, CloseWrite and what else of *net.TCPConn makes
// sense, and may be used concurrently like one.
//
//	running ── lost, Pause ─▶ stopping ─▶ paused ── Install ─▶ running
//	   └────────────── fail, abort, end of linger ──▶ ended ◀────┘
type Stream struct {
	cfg    Config
	ctx    context.Context // ends with the stream
	cancel context.CancelFunc
	wg     sync.WaitGroup

	readMu, writeMu sync.Mutex // one Read, one Write at a time

	mu       sync.Mutex    // guards what follows
	changed  chan struct{} // closed and made anew when a waiter should look again
	conn     Conn          // nil: paused or ended
	stopping bool          // conn is being stopped
	dead     bool          // conn is known not to serve any more
	reading  bool          // somebody is inside conn.Read
	writing  bool          // somebody is inside conn.Write, or has the store
	resuming bool          // the goroutine that looks for a connection runs
	err      error         // why the stream failed
	ended    bool          // Config.Ended was or will be called
	installs int           // connections that came after the first
	why      error         // why the last one was lost

	// Receiving.
	taken    uint64 // bytes taken off connections
	pending  []byte // taken when a connection was stopped, not read yet
	eof      bool   // the peer's end was taken
	peerEnd  uint64 // where the peer's stream ends, if endKnown
	endKnown bool
	readShut bool

	// Sending.
	kept       store  // has writing's owner
	trimAt     uint64 // likewise: the offset at which to look again
	sent       uint64 // offset up to which conn was given bytes
	confirmed  uint64 // the peer has taken everything before this
	peerUnread uint64
	behind     bool // somebody is to send what conn lacks before new bytes
	writeShut  bool
	finSent    bool // on conn
	finTaken   bool // the peer has our end

	closed                      bool
	abortive                    bool // SetLinger(0)
	class                       int  // traffic class
	readDeadline, writeDeadline time.Time
	readTimer, writeTimer       *time.Timer
	roomTimer                   *time.Timer
}

var (
	_ net.Conn      = (*Stream)(nil)
	_ io.ReaderFrom = (*Stream)(nil)
	_ io.WriterTo   = (*Stream)(nil)
)

// New returns a stream that begins on c, which it owns from now on; peerUnread
// is what the peer announced.
func New(cfg Config, c Conn, peerUnread int) *Stream {
	if cfg.Unread == 0 {
		cfg.Unread = MaxUnread
	}
	if cfg.Patience == 0 {
		cfg.Patience = defaultPatience
	}
	if cfg.Linger == 0 {
		cfg.Linger = defaultLinger
	}
	s := &Stream{cfg: cfg, conn: c, peerUnread: uint64(min(max(peerUnread, 0), MaxPeerUnread)), changed: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// wakeLocked makes all who wait look again.
func (s *Stream) wakeLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// waitLocked waits for a change; mu is released meanwhile.
func (s *Stream) waitLocked() {
	ch := s.changed
	s.mu.Unlock()
	<-ch
	s.mu.Lock()
}

func passed(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

func (s *Stream) opError(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	if errno, ok := err.(syscall.Errno); ok {
		err = os.NewSyscallError(op, errno)
	}
	return &net.OpError{Op: op, Net: "tcp", Source: s.cfg.Local, Addr: s.cfg.Remote, Err: err}
}

// Read implements net.Conn.
func (s *Stream) Read(b []byte) (int, error) {
	s.readMu.Lock()
	defer s.readMu.Unlock()
	n, err := s.read(b)
	return n, s.opError("read", err)
}

func (s *Stream) read(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.closed:
			return 0, net.ErrClosed
		case passed(s.readDeadline):
			return 0, os.ErrDeadlineExceeded
		case len(b) == 0:
			return 0, nil
		case s.readShut:
			return 0, io.EOF
		case len(s.pending) > 0:
			n := copy(b, s.pending)
			if s.pending = s.pending[n:]; len(s.pending) == 0 {
				s.pending = nil
			}
			return n, nil
		case s.eof:
			return 0, io.EOF
		case s.err != nil:
			return 0, s.err
		case s.conn == nil || s.stopping || s.dead:
			s.waitLocked()
			continue
		}
		// Of an error receiveLocked has taken notice.
		if n, _ := s.receiveLocked(b); n > 0 {
			return n, nil
		}
	}
}

// receiveLocked reads from the connection, without mu meanwhile, and takes
// notice of how that ended. s.conn is not nil.
func (s *Stream) receiveLocked(b []byte) (int, error) {
	c := s.conn
	s.reading = true
	s.mu.Unlock()
	n, err := c.Read(b)
	if err == io.EOF && !c.Ended() {
		err = syscall.ECONNRESET
	}
	s.mu.Lock()
	s.reading = false
	s.taken += uint64(n)
	if s.stopping || s.closed {
		s.wakeLocked()
	}
	switch {
	case err == nil, errors.Is(err, os.ErrDeadlineExceeded):
	case err == io.EOF:
		s.endOfStreamLocked(c)
	default:
		s.lostLocked(c, err)
	}
	return n, err
}

// endOfStreamLocked takes a FIN of the peer. One that comes before the end
// that the peer has told is not the peer's.
func (s *Stream) endOfStreamLocked(c Conn) {
	if s.endKnown && s.taken != s.peerEnd {
		s.lostLocked(c, io.ErrUnexpectedEOF)
		return
	}
	s.eof = true // whom that concerns receiveLocked wakes
}

// Write implements net.Conn. The bytes of one call are not mixed with those of
// another. What it counts as written reaches the peer as long as a connection
// to it can be made at all.
func (s *Stream) Write(b []byte) (int, error) {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	n, err := s.write(b)
	return n, s.opError("write", err)
}

func (s *Stream) write(b []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.closed:
			return n, net.ErrClosed
		case passed(s.writeDeadline):
			return n, os.ErrDeadlineExceeded
		case s.err != nil:
			return n, s.err
		case s.writeShut:
			return n, syscall.EPIPE
		case n == len(b):
			return n, nil
		case s.conn == nil || s.stopping || s.dead || s.behind || s.writing:
			s.waitLocked()
			continue
		}
		k := s.sendLocked(b[n:])
		n += k
	}
}

// sendLocked gives some of b to the connection and keeps what was taken, all
// without mu. It may take nothing.
func (s *Stream) sendLocked(b []byte) int {
	c := s.conn
	s.writing = true
	s.mu.Unlock()

	room := s.limit() - s.kept.len()
	if s.kept.end >= s.trimAt || room < len(b) {
		s.trim(c)
		s.trimAt = s.kept.end + trimEvery
		room = s.limit() - s.kept.len()
	}
	b = b[:min(len(b), max(room, 0), writePiece)]
	n, err := 0, error(nil)
	if len(b) > 0 {
		n, err = c.Write(b)
		s.kept.append(b[:n])
	}

	s.mu.Lock()
	s.sent += uint64(n)
	s.writing = false
	s.wroteLocked(c, err)
	if room <= 0 {
		s.awaitRoomLocked()
	}
	return n
}

// wroteLocked is what comes after each use of the connection for writing.
func (s *Stream) wroteLocked(c Conn, err error) {
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		s.lostLocked(c, err)
	}
	if s.stopping || s.closed || s.writeShut {
		s.wakeLocked()
	}
	s.finishLocked()
}

// limit is how many bytes are kept at most: what the peer may ask for when the
// system has taken all it can, and the next piece, for which it may have room
// all the same where it does not tell.
func (s *Stream) limit() int { return int(s.peerUnread) + maxUnacked + writePiece }

// trim forgets what the peer can no longer ask for: all but what its system
// has not acknowledged, and what may lie unread there. Its caller has writing.
func (s *Stream) trim(c Conn) {
	unacked, ok := c.Unacked()
	if !ok {
		unacked = maxUnacked
	}
	keep := uint64(unacked) + s.peerUnread
	if s.sent > keep {
		s.kept.trim(max(s.confirmed, s.sent-keep))
	}
}

// roomEvery is how often a full store is looked at: nobody tells when bytes
// were acknowledged.
const roomEvery = time.Millisecond

func (s *Stream) awaitRoomLocked() {
	s.roomTimer = time.AfterFunc(roomEvery, s.wake)
	s.waitLocked()
	s.roomTimer.Stop()
}

func (s *Stream) wake() {
	s.mu.Lock()
	s.wakeLocked()
	s.mu.Unlock()
}

var copyPool = sync.Pool{New: func() any { return new([writePiece]byte) }}

// ReadFrom implements io.ReaderFrom.
func (s *Stream) ReadFrom(r io.Reader) (n int64, err error) {
	buf := copyPool.Get().(*[writePiece]byte)
	defer copyPool.Put(buf)
	return netconn.Copy(s, r, buf[:])
}

// WriteTo implements io.WriterTo.
func (s *Stream) WriteTo(w io.Writer) (n int64, err error) {
	buf := copyPool.Get().(*[writePiece]byte)
	defer copyPool.Put(buf)
	return netconn.Copy(w, s, buf[:])
}

// LocalAddr implements net.Conn.
func (s *Stream) LocalAddr() net.Addr { return s.cfg.Local }

// RemoteAddr implements net.Conn.
func (s *Stream) RemoteAddr() net.Addr { return s.cfg.Remote }

// SetNoDelay is net.TCPConn's; true is the default, and all there is.
func (s *Stream) SetNoDelay(bool) error { return s.alive() }

// SetDeadline implements net.Conn.
func (s *Stream) SetDeadline(t time.Time) error { return s.setDeadline(t, true, true) }

// SetReadDeadline implements net.Conn. It counts while the stream is paused,
// too.
func (s *Stream) SetReadDeadline(t time.Time) error { return s.setDeadline(t, true, false) }

// SetWriteDeadline implements net.Conn. It counts while the stream is paused,
// too.
func (s *Stream) SetWriteDeadline(t time.Time) error { return s.setDeadline(t, false, true) }

func (s *Stream) setDeadline(t time.Time, read, write bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return s.opError("set", net.ErrClosed)
	}
	if read {
		s.readDeadline = t
		s.readTimer = s.timerLocked(s.readTimer, t)
	}
	if write {
		s.writeDeadline = t
		s.writeTimer = s.timerLocked(s.writeTimer, t)
	}
	s.deadlinesLocked()
	s.wakeLocked()
	return nil
}

func (s *Stream) timerLocked(old *time.Timer, t time.Time) *time.Timer {
	if old != nil {
		old.Stop()
	}
	if t.IsZero() {
		return nil
	}
	return time.AfterFunc(time.Until(t), s.wake)
}

// deadlinesLocked hands the application's deadlines to the connection; what
// makes users leave it comes before them.
func (s *Stream) deadlinesLocked() {
	if s.conn == nil || s.stopping || s.closed {
		return
	}
	if s.readShut {
		_ = s.conn.SetReadDeadline(longAgo)
	} else {
		_ = s.conn.SetReadDeadline(s.readDeadline)
	}
	switch {
	case s.behind:
		_ = s.conn.SetWriteDeadline(time.Time{}) // bytes already counted as written
	case s.writeShut:
		_ = s.conn.SetWriteDeadline(longAgo)
	default:
		_ = s.conn.SetWriteDeadline(s.writeDeadline)
	}
}

// longAgo is a deadline that makes users of a connection leave it.
var longAgo = time.Unix(1, 0)

func (s *Stream) alive() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return s.opError("set", net.ErrClosed)
	}
	return nil
}
