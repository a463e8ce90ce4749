package resolver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/logpace"
	"github.com/idloc/idloc/internal/peerid"
)

// Names is the distributed database, as the resolver needs it.
type Names interface {
	// Resolve finds the peer that has a name: below the domain, in lower
	// case, without a final dot ("mars.example.com", or a peer ID's label).
	// canonical is the peer's own name, "" if it has none. The error wraps
	// ErrNotFound if it is certain that nobody has the name; any other means
	// that this could not be found out now.
	Resolve(ctx context.Context, name string) (id peerid.ID, canonical string, err error)
}

// LSIs is the LSI table, as the resolver needs it (*lsi.Table).
type LSIs interface {
	Assign(peerid.ID) (v4, v6 netip.Addr, fresh bool, err error)
	Peer(netip.Addr) (peerid.ID, bool)
}

// ErrNotFound is wrapped by errors of Names.Resolve: nobody has the name.
var ErrNotFound = errors.New("no peer has this name")

// Defaults and limits.
const (
	TTL            = 60 * time.Second        // of answers about the overlay; leases of LSIs must be longer
	NegativeTTL    = 5 * time.Second         // of answers that a name does not exist: it may at any moment
	DefaultTimeout = 4500 * time.Millisecond // stubs give up after 5 s, and should hear why

	maxBusy    = 512 // queries of all sockets that are being answered
	maxConns   = 128 // TCP connections of one listener
	maxPerConn = 16  // queries of one TCP connection that are being answered
	idleConn   = 10 * time.Second
)

// Config is what New needs. Domain, Names and LSIs must be set.
type Config struct {
	Domain   string                                                               // of the overlay, "example.com"
	Names    Names                                                                // names → peers
	LSIs     LSIs                                                                 // peers ↔ LSIs
	NameOf   func(peerid.ID) string                                               // full name of a peer for PTR, "" if it has none; nil: none have
	Prefixes []netip.Prefix                                                       // all LSIs lie in these
	Addr     netip.Addr                                                           // where the server is reached, for the zone's NS; may be invalid
	Upstream func() []netip.AddrPort                                              // DNS servers for other names; nil: none (see System and Static)
	Search   func() []string                                                      // search domains of clients in this process; nil: none (see SystemSearch)
	Dial     func(ctx context.Context, network, address string) (net.Conn, error) // to upstream; nil: net.Dialer
	NoIPv4   bool                                                                 // clients on sockets get no IPv4 LSIs: for hosts whose programs all speak IPv6
	Timeout  time.Duration                                                        // for one question; 0: DefaultTimeout
	Events   event.Sink                                                           // lsi-assigned
	Logger   *slog.Logger                                                         // nil: silent
}

// Server answers DNS. All methods may be called concurrently.
type Server struct {
	cfg     Config
	domain  string // canonical: lower case, with the final dot
	infix   string // "." + domain: where it stands inside a longer name
	serial  uint32
	names   flights
	outside inquiries
	busy    chan struct{} // a token for each query being answered
	context context.Context
	cancel  context.CancelFunc

	mu     sync.Mutex
	closed bool
	socks  map[io.Closer]net.Addr // what Serve and ServeListener read from
	here   map[string]service     // of the domain, by "_sip._udp"
	work   sync.WaitGroup         // everything that runs; Add under mu while not closed
}

// New makes a server that does not listen yet.
func New(cfg Config) (*Server, error) {
	domain := dns.CanonicalName(cfg.Domain)
	if _, ok := dns.IsDomainName(domain); !ok || domain == "." || strings.ContainsAny(domain, `\ `) {
		return nil, fmt.Errorf("resolver: bad domain %q", cfg.Domain)
	}
	if cfg.Names == nil || cfg.LSIs == nil {
		return nil, errors.New("resolver: no database or no LSI table")
	}
	cfg.Timeout = cmp.Or(cfg.Timeout, DefaultTimeout)
	cfg.Logger = logpace.New(cfg.Logger)
	if cfg.NameOf == nil {
		cfg.NameOf = func(peerid.ID) string { return "" }
	}
	if cfg.Upstream == nil {
		cfg.Upstream = Static()
	}
	if cfg.Search == nil {
		cfg.Search = func() []string { return nil }
	}
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	s := &Server{
		cfg:    cfg,
		domain: domain,
		infix:  "." + domain,
		serial: uint32(time.Now().Unix()),
		busy:   make(chan struct{}, maxBusy),
		socks:  make(map[io.Closer]net.Addr),
		here:   make(map[string]service),
	}
	s.context, s.cancel = context.WithCancel(context.Background())
	s.names.server = s
	return s, nil
}

// Close ends all serving, closes the sockets given to Serve and
// ServeListener, and waits for every query under way. It is idempotent.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	s.cancel()
	for c := range s.socks {
		c.Close()
	}
	s.mu.Unlock()
	s.work.Wait()
	return nil
}

// begin enters a piece of work that Close waits for.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.work.Add(1)
	return true
}

// adopt makes Close close c.
func (s *Server) adopt(c io.Closer, addr net.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.socks[c] = addr
	s.work.Add(1)
	return true
}

// abandon undoes adopt and closes c.
func (s *Server) abandon(c io.Closer) {
	s.mu.Lock()
	delete(s.socks, c)
	s.mu.Unlock()
	c.Close()
	s.work.Done()
}

// Serve answers queries that arrive on a UDP socket until Close, and then
// returns net.ErrClosed. It closes pc. A socket bound to a wildcard may
// answer from an address that was not asked: bind to one address.
func (s *Server) Serve(pc net.PacketConn) error {
	if !s.adopt(pc, pc.LocalAddr()) {
		pc.Close()
		return net.ErrClosed
	}
	defer s.abandon(pc)
	b := make([]byte, dns.MaxMsgSize)
	for failures := 0; ; {
		n, from, err := pc.ReadFrom(b)
		if err != nil {
			if s.context.Err() != nil || errors.Is(err, net.ErrClosed) {
				return net.ErrClosed
			}
			// An ICMP error for an answer comes out here on some systems.
			if failures++; failures > 16 {
				return err
			}
			continue
		}
		failures = 0
		select {
		case s.busy <- struct{}{}:
		default:
			continue // the client asks again
		}
		if !s.begin() {
			<-s.busy
			return net.ErrClosed
		}
		query := append([]byte(nil), b[:n]...)
		go func() {
			defer s.work.Done()
			defer func() { <-s.busy }()
			if out := s.reply(s.context, query, true); out != nil {
				pc.WriteTo(out, from)
			}
		}()
	}
}

// ServeListener answers queries that arrive on TCP connections until Close,
// and then returns net.ErrClosed. It closes l.
func (s *Server) ServeListener(l net.Listener) error {
	if !s.adopt(l, l.Addr()) {
		l.Close()
		return net.ErrClosed
	}
	defer s.abandon(l)
	slots := make(chan struct{}, maxConns)
	for failures := 0; ; {
		c, err := l.Accept()
		if err != nil {
			if s.context.Err() != nil || errors.Is(err, net.ErrClosed) {
				return net.ErrClosed
			}
			if failures++; failures > 16 {
				return err
			}
			continue
		}
		failures = 0
		select {
		case slots <- struct{}{}:
		default:
			c.Close()
			continue
		}
		if !s.adopt(c, nil) {
			c.Close()
			return net.ErrClosed
		}
		go func() {
			defer func() { <-slots }()
			defer s.abandon(c)
			s.serveConn(c)
		}()
	}
}

// serveConn answers the queries of one TCP connection, each when its answer
// is known, not in order (RFC 7766 §6.2.1.1).
func (s *Server) serveConn(c net.Conn) {
	var (
		writing sync.Mutex
		pending sync.WaitGroup
		slots   = make(chan struct{}, maxPerConn)
	)
	defer pending.Wait()
	var head [2]byte
	for {
		c.SetReadDeadline(time.Now().Add(idleConn))
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return
		}
		query := make([]byte, int(head[0])<<8|int(head[1]))
		if _, err := io.ReadFull(c, query); err != nil {
			return
		}
		select {
		case slots <- struct{}{}:
		case <-s.context.Done():
			return
		}
		pending.Go(func() {
			defer func() { <-slots }()
			out := s.reply(s.context, query, false)
			writing.Lock()
			defer writing.Unlock()
			if out == nil {
				c.Close() // not DNS
				return
			}
			c.SetWriteDeadline(time.Now().Add(idleConn))
			if _, err := c.Write(frame(out)); err != nil {
				c.Close()
			}
		})
	}
}

// frame puts the length that TCP needs before a message (RFC 1035 §4.2.2).
func frame(msg []byte) []byte {
	b := make([]byte, 0, 2+len(msg))
	b = append(b, byte(len(msg)>>8), byte(len(msg)))
	return append(b, msg...)
}
