package nullflow

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/leaktest"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/internal/yardstick"
	icetcp "github.com/idloc/idloc/overlay/ice/tcp"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// patience is for what happens sooner or later; how soon is not the point.
const patience = 5 * time.Minute

// side is one node: its flows, and what it has seen of them.
type side struct {
	t    testing.TB
	id   peerid.ID
	ends *pipe.Endpoint // seals offers and answers
	*Flows

	accepted chan net.Conn           // TCP conns of flows that the peer has opened
	got      chan []byte             // datagrams
	sends    chan func([]byte) error // of UDP flows that the peer has opened
	refuses  atomic.Pointer[error]   // what Handler says instead
	over     atomic.Int32            // flows whose LSIs were released

	mu     sync.Mutex // guards what follows
	addrs  []netip.Addr
	events []event.Kind
	to     *side
	lose   func(l pipe.Local) error // offers that do not arrive
	twice  bool                     // offers that come by two ways
}

// silent is a pipe.Handler that no pipe comes to.
type silent struct{}

func (silent) Data(*pipe.Pipe, []byte, int)   {}
func (silent) Large(*pipe.Pipe, bool, []byte) {}
func (silent) Up(*pipe.Pipe)                  {}
func (silent) Down(*pipe.Pipe, error)         {}
func (silent) Gone(peerid.ID, error)          {}

var (
	lsiOf = map[byte]netip.Addr{1: netip.MustParseAddr("198.18.0.1"), 2: netip.MustParseAddr("198.18.0.2")}
	home  = netip.MustParseAddr("127.0.0.1")
)

func newSide(t testing.TB, seed byte, policy uint8, change ...func(*Config)) *side {
	t.Helper()
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	id, err := peerid.FromPublicKey(key.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	s := &side{t: t, id: id, addrs: []netip.Addr{home},
		accepted: make(chan net.Conn, 8), got: make(chan []byte, 64), sends: make(chan func([]byte) error, 8)}
	if s.ends, err = pipe.NewEndpoint(pipe.Config{Key: key, Overlay: [32]byte{1}, Handler: silent{}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.ends.Close() })
	priv, err := crypto.UnmarshalEd25519PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := libp2ptls.NewIdentity(priv)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Self: id, Identity: identity, Offers: s,
		Chain:  func() []byte { return []byte{'c', seed} },
		Usable: func(cs []wire.Candidate) []wire.Candidate { return cs },
		TCP:    icetcp.Config{Addrs: s.local},
		UDP:    func(context.Context) (UDPChecks, error) { return s.newChecks() },
		Events: func(e event.Event) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.events = append(s.events, e.Kind)
		},
		Handler: Handler{
			Policy: policy,
			Addrs: func(f Flow) (local, remote netip.AddrPort, ended func(), err error) {
				return netip.AddrPortFrom(lsiOf[seed], f.Local), netip.AddrPortFrom(lsiOf[3-seed], f.Remote), func() { s.over.Add(1) }, nil
			},
			TCP: func(Flow) (func(net.Conn) error, error) {
				return func(c net.Conn) error { s.accepted <- c; return nil }, s.refusal()
			},
			UDP: func(f Flow, send func([]byte) error) (func([]byte), func(), error) {
				if err := s.refusal(); err != nil {
					return nil, nil, err
				}
				s.sends <- send
				return func(b []byte) { s.got <- bytes.Clone(b) }, func() { s.over.Add(1) }, nil
			},
		},
	}
	for _, f := range change {
		f(&cfg)
	}
	if s.Flows, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Flows.Close)
	return s
}

// pair is two nodes that reach each other.
func pair(t testing.TB, a, b uint8) (*side, *side) {
	t.Helper()
	x, y := newSide(t, 1, a), newSide(t, 2, b)
	x.to, y.to = y, x
	return x, y
}

func (s *side) refusal() error {
	if err := s.refuses.Load(); err != nil {
		return *err
	}
	return nil
}

func (s *side) local() []netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addrs
}

// move has the node get another address in place of the one it has.
func (s *side) move(to string) {
	s.mu.Lock()
	s.addrs = []netip.Addr{netip.MustParseAddr(to)}
	s.mu.Unlock()
	s.NetworkChanged()
}

// loses has f decide which offers are lost.
func (s *side) loses(f func(l pipe.Local) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lose = f
}

// emitted counts events.
func (s *side) emitted(k event.Kind) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.events {
		if e == k {
			n++
		}
	}
	return n
}

var errVerdict = errors.New("verdict")

// Ask implements Offers: offer and answer are sealed and read as between nodes.
func (s *side) Ask(ctx context.Context, p peerid.ID, l pipe.Local) (pipe.Remote, error) {
	s.mu.Lock()
	to, lose, twice := s.to, s.lose, s.twice
	s.mu.Unlock()
	if lose != nil {
		if err := lose(l); err != nil {
			return pipe.Remote{}, err
		}
	}
	if to == nil || to.id != p {
		return pipe.Remote{}, errors.New("no way")
	}
	offer, err := s.ends.NewOffer(p, l)
	if err != nil {
		return pipe.Remote{}, err
	}
	defer offer.Cancel()
	answers := make([]Answer, 1)
	if twice {
		answers = make([]Answer, 2)
	}
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() {
			in, err := to.ends.ReadOffer(offer.Bytes())
			if err != nil {
				s.t.Errorf("ReadOffer: %v", err)
				return
			}
			answers[i] = to.Answer(in)
		})
	}
	wg.Wait()
	for _, a := range answers[1:] {
		if a.Verdict != answers[0].Verdict || !bytes.Equal(a.Sealed, answers[0].Sealed) {
			s.t.Errorf("the same offer was answered with %v and %v", answers[0], a)
		}
	}
	a := answers[0]
	if a.Verdict != Answered {
		return pipe.Remote{}, fmt.Errorf("%w %d", errVerdict, a.Verdict)
	}
	session, err := offer.Finish(a.Sealed)
	if err != nil {
		return pipe.Remote{}, err
	}
	defer session.Cancel()
	return session.Remote(), nil
}

// checks are UDPChecks without ICE: one socket, whose first candidate works.
type checks struct {
	s    *side
	conn *net.UDPConn
	once sync.Once
	done chan struct{} // closed when reading has ended

	mu      sync.Mutex // guards what follows
	to      netip.AddrPort
	receive func([]byte)
	early   [][]byte
	answer  func() // is told that a check was answered
	retired bool
}

var _ UDPChecks = (*checks)(nil)

// What the sockets of two checks say to each other beside the application's
// datagrams.
const question, consent = "\x00?", "\x00!"

func (s *side) newChecks() (*checks, error) {
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.local()[0], 0)))
	if err != nil {
		return nil, err
	}
	c := &checks{s: s, conn: conn, done: make(chan struct{})}
	go c.read()
	return c, nil
}

func (c *checks) Credentials() (ufrag, pwd string) {
	pwd = "0123456789abcdefghijklmnopqrst+/"
	return wire.Ufrag(pwd), pwd
}

func (c *checks) Candidates() []wire.Candidate {
	return []wire.Candidate{{Type: wire.Host, Addr: c.conn.LocalAddr().(*net.UDPAddr).AddrPort(), Priority: 1, Foundation: "1"}}
}

func (c *checks) Run(_ context.Context, _ bool, remote pipe.Remote) (local, to netip.AddrPort, err error) {
	if len(remote.Candidates) == 0 {
		return local, to, errors.New("no candidate")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.to = remote.Candidates[0].Addr
	return c.conn.LocalAddr().(*net.UDPAddr).AddrPort(), c.to, nil
}

func (c *checks) read() {
	defer close(c.done)
	b := make([]byte, 2048)
	for {
		n, from, err := c.conn.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		c.mu.Lock()
		receive, answer := c.receive, c.answer
		switch d := bytes.Clone(b[:n]); {
		case string(d) == question:
			_, _ = c.conn.WriteToUDPAddrPort([]byte(consent), from)
		case string(d) == consent:
			if answer != nil {
				answer()
			}
		case receive == nil:
			c.early = append(c.early, d)
		default:
			c.mu.Unlock()
			receive(d)
			continue
		}
		c.mu.Unlock()
	}
}

func (c *checks) Receive(f func([]byte)) {
	c.mu.Lock()
	c.receive = f
	early := c.early
	c.early = nil
	c.mu.Unlock()
	for _, d := range early {
		f(d)
	}
}

func (c *checks) Send(b []byte) error {
	c.mu.Lock()
	to := c.to
	c.mu.Unlock()
	_, err := c.conn.WriteToUDPAddrPort(b, to)
	return err
}

func (c *checks) Check(answered func()) (forget func()) {
	c.mu.Lock()
	c.answer = answered
	c.mu.Unlock()
	_ = c.Send([]byte(question))
	return func() {
		c.mu.Lock()
		c.answer = nil
		c.mu.Unlock()
	}
}

func (c *checks) Retire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.retired = true
}

func (c *checks) Close() {
	c.once.Do(func() { _ = c.conn.Close() })
	<-c.done
}

// dialTCP opens a flow from a to b, and returns both ends.
func dialTCP(t testing.TB, a, b *side) (net.Conn, net.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	x, err := a.DialTCP(ctx, Flow{Peer: b.id, Local: 4000, Remote: 80}, func() { a.over.Add(1) })
	if err != nil {
		t.Fatalf("DialTCP: %v", err)
	}
	return x, wait(t, b.accepted)
}

func wait[T any](t testing.TB, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatal("it did not come")
	}
	return v
}

// eventually waits for what flows do by themselves.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	const within = 30 * time.Second
	if !yardstick.Await(within, ok) {
		t.Fatalf("not within %v: %s", within, what)
	}
}

// talk sends something each way.
func talk(t testing.TB, x, y net.Conn) {
	t.Helper()
	for _, c := range [][2]net.Conn{{x, y}, {y, x}} {
		msg := []byte(fmt.Sprintf("from %v to %v", c[0].LocalAddr(), c[0].RemoteAddr()))
		if _, err := c[0].Write(msg); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(msg))
		_ = c[1].SetReadDeadline(time.Now().Add(patience))
		if _, err := io.ReadFull(c[1], got); err != nil || !bytes.Equal(got, msg) {
			t.Fatalf("read %q, %v", got, err)
		}
	}
}
