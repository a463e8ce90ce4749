package null

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"time"
)

// Conn is a real connection as a Stream uses it. TCP makes one of a
// *net.TCPConn. Once a Stream has it nobody else may use it.
type Conn interface {
	net.Conn
	// CloseWrite sends a FIN after what was written.
	CloseWrite() error
	// Abort ends the connection with a reset, not with a FIN.
	Abort()
	// Unacked returns how many of the bytes written are not acknowledged by
	// the peer's system, an unacknowledged FIN counting as one more. If the
	// system does not tell, ok is false.
	Unacked() (n int, ok bool)
	// Take reads what has come, without waiting: 0 and nil if nothing has.
	Take(b []byte) (int, error)
	// Ended says whether an io.EOF that Read or Take has returned was a FIN of
	// the peer's. Systems tell of a reset once, to one call; whoever comes
	// after it reads an end that is none.
	Ended() bool
	// Silent says whether the connection is broken or the peer's system seems
	// gone: what is sent to it again and again draws no acknowledgement.
	Silent() bool
}

// Buffers of a real connection, asked of the system in bytes; it may give
// less, or as Linux does account twice as much. Both are fixed: a sender has
// to know how much may lie unread at the other end.
const (
	receiveBuffer = 1 << 20
	sendBuffer    = 1 << 20
)

// TCP makes a Conn of c, which it owns from now on, with the options that a
// stream wants.
func TCP(c *net.TCPConn) Conn {
	_ = Prepare(c)
	_ = c.SetKeepAliveConfig(keepAlive)
	return &tcpConn{TCPConn: c}
}

// tcpConn is a real connection of the kernel.
type tcpConn struct {
	*net.TCPConn
	writes atomic.Int32 // calls of Write under way
	broken atomic.Bool  // a call was told of an error
}

var _ Conn = (*tcpConn)(nil)

// note remembers errors that end the connection.
func (c *tcpConn) note(err error) {
	if err != nil && err != io.EOF && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.broken.Store(true)
	}
}

func (c *tcpConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	c.note(err)
	return n, err
}

func (c *tcpConn) Write(b []byte) (int, error) {
	c.writes.Add(1)
	n, err := c.TCPConn.Write(b)
	c.note(err)
	c.writes.Add(-1)
	return n, err
}

// Ended waits for a Write under way if the connection is over, since that one
// may have been told of a reset: it returns soon.
func (c *tcpConn) Ended() bool {
	for end := time.Now().Add(endedPatience); c.writes.Load() > 0 && c.over() && time.Now().Before(end); {
		runtime.Gosched()
	}
	return !c.broken.Load()
}

const endedPatience = 100 * time.Millisecond

func (c *tcpConn) Abort() {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// Addrs returns the real addresses of a connection.
func Addrs(c Conn) (local, remote netip.AddrPort) {
	return addrPort(c.LocalAddr()), addrPort(c.RemoteAddr())
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// Prepare sets the buffers of a connection; a listener's or a dialler's
// control function sets them before the handshake by PrepareFD.
func Prepare(c *net.TCPConn) error {
	return errors.Join(c.SetReadBuffer(receiveBuffer), c.SetWriteBuffer(sendBuffer))
}
