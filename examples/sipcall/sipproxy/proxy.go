package sipproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/emiago/sipgo/sip"

	"github.com/idloc/idloc/idloc"
)

const (
	defaultPort = 5060
	// callsMax bounds the calls of which messages are worked on, waitingMax the messages of
	// one that wait for those before; what comes beyond is dropped, and sent again by whoever
	// sent it (RFC 3261 §17.1).
	callsMax   = 128
	waitingMax = 16
	// patience bounds the work for one message: a look into the database, mostly.
	patience = 20 * time.Second
	// maxDatagram is what UDP carries.
	maxDatagram = 1 << 16
)

// Config is how a Proxy is to be. The zero one is as it should be.
type Config struct {
	Port uint16       // of UDP; 0: 5060
	Log  *slog.Logger // nil: silent
	// Sent is told the first line of each message that goes out, and to where; nil: nobody.
	Sent func(text string, to netip.AddrPort)
}

// Proxy is a running one. Its methods may be called concurrently.
type Proxy struct {
	node   *idloc.Node
	log    *slog.Logger
	sent   func(string, netip.AddrPort)
	pc     net.PacketConn
	name   string // of the node, "mars.example.com"
	domain string
	self   netip.Addr // its IPv4 LSI
	port   int
	names  translator

	phones    phones
	registrar registrar

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	close  func() error

	mu    sync.Mutex // guards calls
	calls map[string][]arrival
}

// arrival is a message that has come.
type arrival struct {
	m    message
	from netip.AddrPort
	text string
}

// Start begins a proxy on a node's own IPv4 LSI, until Close. The node must outlive it.
func Start(node *idloc.Node, cfg Config) (*Proxy, error) {
	if cfg.Port == 0 {
		cfg.Port = defaultPort
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Sent == nil {
		cfg.Sent = func(string, netip.AddrPort) {}
	}
	name := node.Name()
	_, domain, _ := strings.Cut(name, ".")
	self, _ := node.LSIs()
	pc, err := node.ListenPacket("udp4", netip.AddrPortFrom(self, cfg.Port).String())
	if err != nil {
		return nil, fmt.Errorf("sipproxy: %w", err)
	}
	p := &Proxy{node: node, log: cfg.Log, sent: cfg.Sent, pc: pc, name: name, domain: domain, self: self, port: int(cfg.Port), calls: map[string][]arrival{}}
	p.names = translator{domain: domain, nameOf: p.nameOf, addrOf: p.addrOf}
	p.registrar.users = map[string]*registered{}
	p.phones.seen = map[netip.AddrPort]time.Time{}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.close = sync.OnceValue(func() error {
		p.cancel()
		err := errors.Join(node.OfferSRV("_sip._udp", 0), pc.Close())
		p.wg.Wait()
		return err
	})
	if err := node.OfferSRV("_sip._udp", cfg.Port); err != nil {
		p.close()
		return nil, fmt.Errorf("sipproxy: %w", err)
	}
	p.wg.Go(p.serve)
	return p, nil
}

// Close ends the proxy and waits for what it does. Registrations stand until they expire,
// so that a proxy that begins again at once loses no call but those under way. It is
// idempotent.
func (p *Proxy) Close() error { return p.close() }

// serve reads messages until Close.
func (p *Proxy) serve() {
	b := make([]byte, maxDatagram)
	for {
		n, addr, err := p.pc.ReadFrom(b)
		if errors.Is(err, net.ErrClosed) || p.ctx.Err() != nil {
			return
		}
		from, ok := addrPort(addr)
		if err != nil || !ok || len(bytes.TrimSpace(b[:n])) == 0 { // keep-alives
			continue
		}
		if m := parse(b[:n]); m != nil {
			p.take(arrival{m, from, string(b[:n])})
		}
	}
}

// parse reads a message that has all that each must have; nil: it has not. b is borrowed.
func parse(b []byte) message {
	parsed, err := sip.ParseMessage(bytes.Clone(b))
	m, ok := parsed.(message)
	if err != nil || !ok || m.Via() == nil || m.From() == nil || m.To() == nil || m.CallID() == nil || m.CSeq() == nil {
		return nil
	}
	return m
}

// take has a message worked on after those of its call that have come before, so that they
// leave in this order. One that comes again while it is still here is dropped.
func (p *Proxy) take(a arrival) {
	id := a.m.CallID().Value()
	p.mu.Lock()
	defer p.mu.Unlock()
	queue, running := p.calls[id]
	again := slices.ContainsFunc(queue, func(b arrival) bool { return b.from == a.from && b.text == a.text })
	if again || len(queue) >= waitingMax || !running && len(p.calls) >= callsMax {
		return
	}
	p.calls[id] = append(queue, a)
	if !running {
		p.wg.Go(func() { p.run(id) })
	}
}

// run works on the messages of a call until there are none.
func (p *Proxy) run(id string) {
	for {
		p.mu.Lock()
		a := p.calls[id][0]
		p.mu.Unlock()
		p.handle(a)
		p.mu.Lock()
		p.calls[id] = p.calls[id][1:] // it was there, for those that come again
		done := len(p.calls[id]) == 0
		if done {
			delete(p.calls, id)
		}
		p.mu.Unlock()
		if done {
			return
		}
	}
}

func addrPort(a net.Addr) (netip.AddrPort, bool) {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}, false
	}
	ap := u.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), true
}

// handle takes one message.
func (p *Proxy) handle(a arrival) {
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	switch m := a.m.(type) {
	case *sip.Request:
		p.request(ctx, m, a.from)
	case *sip.Response:
		p.response(ctx, m, a.from)
	}
}

// send writes a message to the next hop.
func (p *Proxy) send(m sip.Message, to netip.AddrPort) {
	text := m.String()
	first, _, _ := strings.Cut(text, "\r\n")
	p.sent(first, to)
	if _, err := p.pc.WriteTo([]byte(text), net.UDPAddrFromAddrPort(to)); err != nil {
		p.log.Debug("not sent", "to", to, "err", err)
	}
}

// local says whether an address is one of this host.
func (p *Proxy) local(a netip.AddrPort) bool { return a.Addr() == p.self }

// nameOf is the name that an IPv4 LSI stands for here; "": none.
func (p *Proxy) nameOf(a netip.Addr) string {
	if a == p.self {
		return p.name
	}
	who, err := p.node.WhoIs(&net.IPAddr{IP: a.AsSlice()})
	if err != nil {
		return ""
	}
	return who.Name
}

// addrOf is the IPv4 LSI that a name has here.
func (p *Proxy) addrOf(ctx context.Context, name string) (netip.Addr, bool) {
	if name == p.name {
		return p.self, true
	}
	at, err := p.node.Resolver().LookupNetIP(ctx, "ip4", name)
	if err != nil || len(at) == 0 {
		return netip.Addr{}, false
	}
	return at[0].Unmap(), true
}

// phones are the addresses of this host that have sent something to the proxy: only to
// those does it give what comes from others. It is safe for concurrent use.
type phones struct {
	mu   sync.Mutex // guards seen
	seen map[netip.AddrPort]time.Time
}

// phonesMax bounds how many phones one host has.
const phonesMax = 256

func (s *phones) note(a netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[a] = time.Now()
	if len(s.seen) <= phonesMax {
		return
	}
	oldest := a
	for b, at := range s.seen {
		if at.Before(s.seen[oldest]) {
			oldest = b
		}
	}
	delete(s.seen, oldest)
}

func (s *phones) has(a netip.AddrPort) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.seen[a]
	return ok
}
