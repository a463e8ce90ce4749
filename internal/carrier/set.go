package carrier

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"maps"
)

const (
	connectFor = 8 * time.Second
	retryMin   = 500 * time.Millisecond
	retryMax   = 5 * time.Second
	knownMax   = 512
)

// Config says how a Set connects. The zero one is good.
type Config struct {
	// Allowed says whether an IP address, found for the host of a carrier, may be
	// connected to; nil: any may. What a proxy connects to is the proxy's business.
	Allowed func(netip.AddrPort) bool
	// OnWire returns the address that one is connected to by, another one where IPv4 is
	// reached by a NAT64; nil: all are their own. A host that is a name DNS64 sees to.
	OnWire func(netip.Addr) netip.Addr
	// Proxy returns the HTTP proxy for an https URL, nil if there is none; nil is
	// those of the environment.
	Proxy func(*url.URL) (*url.URL, error)
	// Roots verify the certificates of wss:// servers; nil is the system's.
	Roots *x509.CertPool
	Log   *slog.Logger // nil is silent
}

// Set is all carriers of a node. It is safe for concurrent use.
type Set struct {
	cfg   Config
	log   *slog.Logger
	epoch time.Time

	out    func(b []byte, seg int, from netip.AddrPort) // set by Start
	ctx    context.Context                              // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	conns atomic.Pointer[map[netip.AddrPort]*conn] // by far end; copied on write under mu

	mu        sync.Mutex // guards the rest, and replacing conns
	started   chan struct{}
	closed    bool
	known     map[netip.AddrPort]*entry
	listeners []net.Listener
	served    map[netip.Addr]int // carriers that came in and that are counted, by network
	serving   int
	greeting  int                // of these in TLS
	greeters  map[netip.Addr]int // the same, by network
	pace      pace               // of handshakes that begin
	opening   int                // carriers that this node opens or has opened
	attempts  attempts
	cert      *tls.Certificate

	opened, accepted, refused, failed, unsent atomic.Uint64
}

// entry is an address that can be written to.
type entry struct {
	address  Address
	failures int
	err      error // of the last attempt; nil: it went well
	next     time.Time
	used     time.Time
}

// ErrClosed is that the Set was closed.
var ErrClosed = fmt.Errorf("carrier: %w", net.ErrClosed)

// New makes a Set that carries nothing before Start.
func New(cfg Config) *Set {
	s := &Set{cfg: cfg, log: cfg.Log, epoch: time.Now(), started: make(chan struct{}), known: map[netip.AddrPort]*entry{}, served: map[netip.Addr]int{}, greeters: map[netip.Addr]int{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.conns.Store(&map[netip.AddrPort]*conn{})
	return s
}

// Start has what comes in delivered: runs of datagrams, seg bytes each but for the
// last, which may be shorter; b is borrowed. It is called once. out is called by many
// goroutines, must not block, and must not call Close.
func (s *Set) Start(out func(b []byte, seg int, from netip.AddrPort)) {
	s.out = out
	close(s.started)
}

func (s *Set) deliver(b []byte, seg int, from netip.AddrPort) {
	select {
	case <-s.started:
		s.out(b, seg, from)
	default: // nobody listens yet
	}
}

// Local is the near end of all carriers.
func (s *Set) Local() netip.Addr { return Local }

// now is the time since the set began, in ns.
func (s *Set) now() int64 { return int64(time.Since(s.epoch)) + 1 }

// ErrTooLong is a datagram longer than MaxDatagram.
var ErrTooLong = errors.New("carrier: datagram too long")

// Write sends b, datagrams of seg bytes back to back, to a far end. What cannot be
// sent soon is lost, as in a network. One whose address is known is connected to if need
// be; datagrams for another are lost. b is borrowed.
func (s *Set) Write(b []byte, seg int, to netip.AddrPort) error {
	if seg > MaxDatagram {
		return ErrTooLong
	}
	if len(b) == 0 {
		return nil // no frame is empty
	}
	if c := (*s.conns.Load())[to]; c != nil {
		c.send(b, seg)
		return nil
	}
	s.mu.Lock()
	c, _ := s.openLocked(to, false)
	s.mu.Unlock()
	if c == nil {
		s.unsent.Add(1)
		return nil
	}
	c.send(b, seg)
	return nil
}

// Know makes an address one that can be written to, at Address.Remote. Of too many
// the one that was used longest ago makes room.
func (s *Set) Know(a Address) {
	if a.check() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.knowLocked(a)
}

func (s *Set) knowLocked(a Address) *entry {
	at := a.Remote()
	if e := s.known[at]; e != nil {
		return e
	}
	if len(s.known) >= knownMax {
		var oldest netip.AddrPort
		for at, e := range s.known {
			if (*s.conns.Load())[at] == nil && (!oldest.IsValid() || e.used.Before(s.known[oldest].used)) {
				oldest = at
			}
		}
		delete(s.known, oldest)
	}
	e := &entry{address: a, used: time.Now()}
	s.known[at] = e
	return e
}

// Connect makes sure that there is a carrier to an address. The error says why there
// is none; it is that of the last attempt if the time for the next has not come.
func (s *Set) Connect(ctx context.Context, a Address) error {
	if err := a.check(); err != nil {
		return fmt.Errorf("carrier %v: %w", a, err)
	}
	s.mu.Lock()
	s.knowLocked(a)
	c, err := s.openLocked(a.Remote(), true)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case <-c.ready:
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// openLocked returns the carrier to a far end, opening it if that may be tried now. now
// says that somebody waits for it, so that only failures in a row hold it back.
func (s *Set) openLocked(to netip.AddrPort, now bool) (*conn, error) {
	if s.closed {
		return nil, ErrClosed
	}
	if c := (*s.conns.Load())[to]; c != nil {
		return c, nil
	}
	e := s.known[to]
	if e == nil {
		return nil, nil
	}
	e.used = time.Now()
	if e.used.Before(e.next) && !(now && e.failures < 2) {
		return nil, e.err
	}
	if s.opening >= openMax {
		return nil, errTooMany
	}
	s.opening++
	c := s.newConn(to)
	c.address = e.address
	s.putLocked(to, c)
	s.wg.Go(func() { s.open(c, e) })
	return c, nil
}

// putLocked changes who is at a far end; nil: nobody.
func (s *Set) putLocked(at netip.AddrPort, c *conn) {
	next := maps.Clone(*s.conns.Load())
	if c == nil {
		delete(next, at)
	} else {
		next[at] = c
	}
	s.conns.Store(&next)
}

// open opens a carrier and carries until it ends.
func (s *Set) open(c *conn, e *entry) {
	ctx, cancel := context.WithTimeout(s.ctx, connectFor)
	stream, tcp, err := s.dial(ctx, c.address)
	cancel()
	s.mu.Lock()
	if err == nil && s.closed {
		_ = stream.Close()
		err = ErrClosed
	}
	if err != nil {
		err = fmt.Errorf("carrier %v: %w", c.address, err)
		s.failed.Add(1)
		e.err, e.next = err, time.Now().Add(min(retryMin<<min(e.failures, 8), retryMax))
		e.failures++
		c.err = err
		s.putLocked(c.remote, nil)
		s.opening--
		s.mu.Unlock()
		c.end(err)
		c.queue.close()
		close(c.ready)
		s.log.Debug("carrier not opened", "address", c.address, "err", err)
		return
	}
	e.failures, e.err, e.next = 0, nil, time.Time{}
	s.attempts.worked(c.address.Host)
	c.stream, c.tcp = stream, tcp
	if ap, err := netip.ParseAddrPort(stream.RemoteAddr().String()); err == nil {
		c.from = ap
	} else if tcp != nil {
		c.from = tcp.RemoteAddr().(*net.TCPAddr).AddrPort()
	}
	s.attempts.worked("at " + c.from.Addr().Unmap().String())
	s.opened.Add(1)
	close(c.ready) // before Close can miss it
	s.mu.Unlock()
	s.log.Debug("carrier opened", "address", c.address)
	why := c.run()
	s.mu.Lock()
	s.putLocked(c.remote, nil)
	s.opening--
	s.mu.Unlock()
	s.log.Debug("carrier ended", "address", c.address, "why", why)
}

// carry carries on a stream that came in, until it ends; shared says that others come
// from the same address.
func (s *Set) carry(stream net.Conn, from netip.AddrPort, shared bool) {
	c := s.newConn(farEnd(0))
	c.stream, c.from, c.shared = stream, from, shared
	c.tcp, _ = stream.(*net.TCPConn)
	if t, ok := stream.(*tls.Conn); ok {
		c.tcp, _ = t.NetConn().(*net.TCPConn)
	}
	close(c.ready)
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		_ = stream.Close()
		return
	}
	for (*s.conns.Load())[c.remote] != nil || c.remote == farEnd(0) {
		var b [8]byte
		rand.Read(b[:])
		c.remote = farEnd(binary.BigEndian.Uint64(b[:]) | acceptedBit)
	}
	s.putLocked(c.remote, c)
	s.accepted.Add(1)
	s.mu.Unlock()
	why := c.run()
	s.mu.Lock()
	s.putLocked(c.remote, nil)
	s.mu.Unlock()
	s.log.Debug("carrier ended", "from", from, "why", why)
}

// NetworkChanged ends the carriers that this node has opened from a local address that
// it has no more, and lets all be tried again at once.
func (s *Set) NetworkChanged(addrs []netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	for _, e := range s.known {
		e.failures, e.next = 0, time.Time{}
	}
	for _, c := range *s.conns.Load() {
		select {
		case <-c.ready:
		default:
			continue
		}
		if c.address == (Address{}) || c.tcp == nil {
			continue
		}
		if from := c.tcp.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().WithZone(""); !from.IsLoopback() && !slices.Contains(addrs, from) {
			s.wg.Go(func() { c.end(errors.New("the local address is gone")) })
		}
	}
}

// Close ends all carriers and listeners, and waits for them.
func (s *Set) Close() error {
	s.mu.Lock()
	s.closed = true
	s.cancel()
	for _, l := range s.listeners {
		_ = l.Close()
	}
	s.listeners = nil
	for _, c := range *s.conns.Load() {
		select {
		case <-c.ready:
			s.wg.Go(func() { c.end(ErrClosed) }) // WebSocket's farewell waits for an answer
		default: // its dial ends with ctx
		}
	}
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}

// Status is one carrier.
type Status struct {
	Remote   netip.AddrPort // its far end, as paths have it
	Address  string         // that it was opened to; "": it came in
	From     netip.AddrPort // the other end of the connection
	Since    time.Time
	Sent     uint64 // bytes
	Received uint64
	Dropped  uint64 // datagrams that did not get away in time
}

// Status returns the carriers that stand, in no order.
func (s *Set) Status() []Status {
	var out []Status
	for at, c := range *s.conns.Load() {
		select {
		case <-c.ready:
		default:
			continue
		}
		out = append(out, Status{
			Remote: at, Address: c.address.String(), From: c.from, Since: c.since,
			Sent: c.sent.Load(), Received: c.received.Load(), Dropped: c.queue.drops(),
		})
	}
	return out
}

// Name says what is known of the carrier at a far end: the address that it was opened
// to, or where it was opened from; "" if there is none.
func (s *Set) Name(at netip.AddrPort) string {
	if c := (*s.conns.Load())[at]; c != nil && c.address == (Address{}) {
		return c.from.String()
	}
	a, _ := s.Of(at)
	return a.String()
}

// Origin returns the IP address from which the carrier at a far end was opened; the far
// end itself if that says nothing of who has opened it.
func (s *Set) Origin(far netip.Addr) netip.Addr {
	c := (*s.conns.Load())[netip.AddrPortFrom(far, remotePort)]
	if c == nil || c.address != (Address{}) || c.shared || !c.from.IsValid() {
		return far
	}
	return c.from.Addr().Unmap()
}

// Of returns the address of a far end that this node has opened a carrier to, or knows.
func (s *Set) Of(at netip.AddrPort) (Address, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.known[at]; e != nil {
		return e.address, true
	}
	return Address{}, false
}

// Stats counts since New.
type Stats struct {
	Opened   uint64 // carriers to others
	Failed   uint64 // attempts
	Accepted uint64 // carriers of others
	Refused  uint64 // connections of others that were turned away, for bounds or for what they said
	Unsent   uint64 // runs of datagrams for far ends that are not there
}

// Stats returns the counts.
func (s *Set) Stats() Stats {
	return Stats{s.opened.Load(), s.failed.Load(), s.accepted.Load(), s.refused.Load(), s.unsent.Load()}
}
