package pipe

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/wire"
)

// network carries datagrams between the endpoints of a test. It delivers
// after latency, which the fake clock of a synctest bubble makes exact; with
// latency zero it delivers within WriteBatch.
type network struct {
	dropping sync.Mutex // held while drop is asked

	mu      sync.Mutex
	at      map[netip.AddrPort]*sender
	latency time.Duration
	// drop is asked for each datagram; it may change it in place.
	drop func(from, to netip.AddrPort, d []byte) bool
	// rewrite changes the addresses on the way, as a NAT does.
	rewrite func(from, to netip.AddrPort) (netip.AddrPort, netip.AddrPort)
	// mark is asked for each run of what may be marked.
	mark func(from, to netip.AddrPort, d []byte) bool
	sent int // datagrams
}

func newNetwork(latency time.Duration) *network {
	return &network{at: make(map[netip.AddrPort]*sender), latency: latency}
}

// sender is one local address of an endpoint.
type sender struct {
	n    *network
	addr netip.AddrPort
	mtu  int            // larger datagrams are refused with EMSGSIZE; 0: none are
	link int            // what the interface takes, with headers; 0: unknown
	tap  func(b []byte) // takes batches of data instead of the network
	ecn  bool           // it tells marks
	e    *Endpoint
}

func (n *network) sender(addr string, e *Endpoint) *sender {
	s := &sender{n: n, addr: netip.MustParseAddrPort(addr), e: e}
	n.mu.Lock()
	n.at[s.addr] = s
	n.mu.Unlock()
	return s
}

func (s *sender) LocalAddr() netip.AddrPort { return s.addr }

func (s *sender) LinkMTU() int { return s.link }

func (s *sender) Marks() bool { return s.ecn }

func (s *sender) WriteBatch(b []byte, seg int, to netip.AddrPort) error {
	return s.WriteClass(b, seg, to, 0)
}

func (s *sender) WriteClass(b []byte, seg int, to netip.AddrPort, class uint8) error {
	if s.mtu > 0 && seg > s.mtu {
		return syscall.EMSGSIZE
	}
	n := s.n
	n.mu.Lock()
	if s.tap != nil && b[0] != wire.TypeCtrl {
		s.tap(b)
		n.mu.Unlock()
		return nil
	}
	from := s.addr
	if n.rewrite != nil {
		from, to = n.rewrite(from, to)
	}
	drop, latency, target := n.drop, n.latency, n.at[to]
	ecn := class & 3
	if ecn != 0 && n.mark != nil && n.mark(from, to, b) {
		ecn = ecnCE
	}
	n.sent += (len(b) + seg - 1) / seg
	n.mu.Unlock()
	if target == nil {
		return nil
	}
	var run []byte
	for b := bytes.Clone(b); len(b) > 0; {
		d := b[:min(seg, len(b))]
		b = b[len(d):]
		if drop != nil && n.drops(drop, from, to, d) {
			if len(run) > 0 {
				target.deliver(from, run, seg, latency, ecn)
				run = nil
			}
			continue
		}
		run = append(run, d...)
	}
	if len(run) > 0 {
		target.deliver(from, run, seg, latency, ecn)
	}
	return nil
}

func (s *sender) deliver(from netip.AddrPort, b []byte, seg int, latency time.Duration, ecn uint8) {
	if latency == 0 {
		s.e.ReceiveMarked(s, from, b, seg, ecn)
		return
	}
	time.AfterFunc(latency, func() { s.e.ReceiveMarked(s, from, b, seg, ecn) })
}

// divert has s's data go to a buffer that holds the last batch.
func (s *sender) divert() *[]byte {
	last := new([]byte)
	s.n.mu.Lock()
	s.tap = func(b []byte) { *last = append((*last)[:0], b...) }
	s.n.mu.Unlock()
	return last
}

// drops asks drop, one datagram at a time: it may keep a record.
func (n *network) drops(drop func(from, to netip.AddrPort, d []byte) bool, from, to netip.AddrPort, d []byte) bool {
	n.dropping.Lock()
	defer n.dropping.Unlock()
	return drop(from, to, d)
}

func (n *network) setDrop(drop func(from, to netip.AddrPort, d []byte) bool) {
	n.mu.Lock()
	n.drop = drop
	n.mu.Unlock()
}

func (n *network) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sent
}

// recorder is a Handler that opens everything and keeps what it saw.
type recorder struct {
	mu     sync.Mutex
	plain  [][]byte
	seen   map[uint64]int // by the number in numbered plaintexts
	large  [][]byte
	ups    int
	downs  []error
	gone   []error
	opens  int
	fails  int
	onUp   func(*Pipe)
	onGone func()
	onData func(*Pipe, []byte)
}

func (r *recorder) Data(p *Pipe, b []byte, seg int) {
	for len(b) > 0 {
		d := b[:min(seg, len(b))]
		b = b[len(d):]
		plain, err := p.Open(nil, d)
		r.mu.Lock()
		if err != nil {
			r.fails++
		} else {
			r.opens++
			if len(plain) == 9 {
				if r.seen == nil {
					r.seen = make(map[uint64]int)
				}
				r.seen[binary.BigEndian.Uint64(plain[1:])]++
			} else {
				r.plain = append(r.plain, plain)
			}
		}
		f := r.onData
		r.mu.Unlock()
		if err == nil && f != nil {
			f(p, plain)
		}
	}
}

func (r *recorder) Large(p *Pipe, v6 bool, plain []byte) {
	r.mu.Lock()
	r.large = append(r.large, bytes.Clone(plain))
	r.mu.Unlock()
}

func (r *recorder) Up(p *Pipe) {
	r.mu.Lock()
	r.ups++
	f := r.onUp
	r.mu.Unlock()
	if f != nil {
		f(p)
	}
}

func (r *recorder) Down(p *Pipe, err error) {
	r.mu.Lock()
	r.downs = append(r.downs, err)
	r.mu.Unlock()
}

func (r *recorder) Gone(_ peerid.ID, err error) {
	r.mu.Lock()
	r.gone = append(r.gone, err)
	f := r.onGone
	r.mu.Unlock()
	if f != nil {
		f()
	}
}

func (r *recorder) wentAway() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.gone)
}

func (r *recorder) lastDown() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.downs) == 0 {
		return nil
	}
	return r.downs[len(r.downs)-1]
}

// host is an endpoint with one address.
type host struct {
	*Endpoint
	r  *recorder
	s  *sender
	id peerid.ID
}

func testKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func newHost(t testing.TB, n *network, seed byte, addr string, change ...func(*Config)) *host {
	t.Helper()
	r := &recorder{}
	cfg := Config{Key: testKey(seed), Overlay: [32]byte{1, 2, 3}, Handler: r}
	for _, f := range change {
		f(&cfg)
	}
	e, err := NewEndpoint(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return &host{Endpoint: e, r: r, s: n.sender(addr, e), id: e.id.ID}
}

func (h *host) path(to *host) Path { return Path{h.s, to.s.addr} }

// testPwd is ICE's, of a peer that shows any.
const testPwd = "0123456789abcdefghijklmnopqrst+/"

// sessions runs offer and answer out of band and returns both sessions.
func sessions(t testing.TB, a, b *host) (sa, sb *Session) {
	t.Helper()
	return sessionsOf(t, a, b, 1472)
}

// sessionsOf is sessions of ends that take datagrams of mtu bytes.
func sessionsOf(t testing.TB, a, b *host, mtu uint16) (sa, sb *Session) {
	t.Helper()
	offer, err := a.NewOffer(b.id, Local{MTU: mtu})
	if err != nil {
		t.Fatal(err)
	}
	in, err := b.ReadOffer(offer.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	answer, sb, err := in.Accept(Local{Ufrag: wire.Ufrag(testPwd), Pwd: testPwd, MTU: mtu})
	if err != nil {
		t.Fatal(err)
	}
	sa, err = offer.Finish(answer)
	if err != nil {
		t.Fatal(err)
	}
	return sa, sb
}

// connect makes a pipe from a to b.
func connect(t testing.TB, a, b *host) (pa, pb *Pipe) {
	t.Helper()
	sa, sb := sessions(t, a, b)
	return up(t, a, b, sa, sb)
}

// up takes sessions into use.
func up(t testing.TB, a, b *host, sa, sb *Session) (pa, pb *Pipe) {
	t.Helper()
	pb, err := b.Up(sb, b.path(a))
	if err != nil {
		t.Fatal(err)
	}
	pa, err = a.Up(sa, a.path(b))
	if err != nil {
		t.Fatal(err)
	}
	return pa, pb
}

// inUse returns two hosts and the ends of a pipe between them, over which a has
// sent a packet that b has.
func inUse(t testing.TB, n *network) (a, b *host, pa, pb *Pipe) {
	t.Helper()
	a, b = newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
	pa, pb = connect(t, a, b)
	send(pa, packet(100))
	<-pb.Ready()
	return a, b, pa, pb
}

// send seals plaintexts into one batch each.
func send(p *Pipe, plain ...[]byte) error {
	b := p.Batch(false)
	defer b.Free()
	for _, v := range plain {
		room := b.Room(len(v))
		if room == nil {
			return fmt.Errorf("no room for %d bytes", len(v))
		}
		copy(room, v)
		b.Seal()
	}
	return b.Flush()
}

// sendNumber sends a plaintext that recorder counts by n.
func sendNumber(p *Pipe, n uint64) error {
	return send(p, binary.BigEndian.AppendUint64([]byte{17}, n))
}

func packet(n int) []byte {
	b := bytes.Repeat([]byte{0xa5}, n)
	b[0] = 6
	return b
}

var _ Sender = (*sender)(nil)
var _ Handler = (*recorder)(nil)

// settle lets d pass on the bubble's clock and what is due then happen.
func settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
