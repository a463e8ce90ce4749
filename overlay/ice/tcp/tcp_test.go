package tcp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/leaktest"
	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/ice/stun"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func listen(t testing.TB, addr string) *Port {
	t.Helper()
	p, err := Listen(Config{Addrs: func() []netip.Addr { return []netip.Addr{netip.MustParseAddr(addr)} }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func session(t testing.TB, p *Port) *Session {
	t.Helper()
	s, err := p.NewSession(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

type result struct {
	c   net.Conn
	err error
}

func start(ctx context.Context, s *Session, controlling bool, peer *Session, candidates []wire.Candidate) <-chan result {
	ufrag, pwd := peer.Credentials()
	ch := make(chan result, 1)
	go func() {
		c, err := s.Run(ctx, controlling, ufrag, pwd, candidates)
		ch <- result{c, err}
	}()
	return ch
}

// talk wants the two ends of one connection, bare from the first byte on.
func talk(t *testing.T, a, b <-chan result) {
	t.Helper()
	x, y := <-a, <-b
	if x.err != nil || y.err != nil {
		t.Fatalf("%v; %v", x.err, y.err)
	}
	defer x.c.Close()
	defer y.c.Close()
	if x.c.LocalAddr().String() != y.c.RemoteAddr().String() {
		t.Fatalf("two connections: %v and %v", x.c.LocalAddr(), y.c.RemoteAddr())
	}
	for _, e := range [][2]net.Conn{{x.c, y.c}, {y.c, x.c}} {
		msg := []byte("\x00\x14\x01\x01 looks like a frame, and is none")
		if _, err := e[0].Write(msg); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(msg))
		_ = e[1].SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := io.ReadFull(e[1], got); err != nil || !bytes.Equal(got, msg) {
			t.Fatalf("%q, %v", got, err)
		}
	}
}

// Whoever connects, the controlling side or the controlled one or both.
func TestRun(t *testing.T) {
	for name, shown := range map[string][2]bool{
		"controlling connects": {false, true}, "controlled connects": {true, false}, "both connect": {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			for range 20 {
				a, b := session(t, listen(t, "127.0.0.1")), session(t, listen(t, "127.0.0.2"))
				var of [2][]wire.Candidate
				for i, s := range []*Session{a, b} {
					if shown[i] {
						of[i] = s.Candidates()
					}
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				talk(t, start(ctx, a, true, b, of[1]), start(ctx, b, false, a, of[0]))
				cancel()
			}
		})
	}
}

// Two sides that connect to each other at the same time from bound ports.
func TestSimultaneousOpen(t *testing.T) {
	worked := 0
	for range 5 {
		pa, pb := listen(t, "127.0.0.1"), listen(t, "127.0.0.2")
		a, b := session(t, pa), session(t, pb)
		var of [2][]wire.Candidate
		for i, s := range []*Session{a, b} {
			at, ok := s.bind([]netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")}[i])
			if !ok {
				t.Skip("this system does not let a listener and a connection share a port")
			}
			of[i] = []wire.Candidate{{Type: wire.Host, TCP: wire.SimOpen, Addr: at, Priority: 1}}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		talk(t, start(ctx, a, true, b, of[1]), start(ctx, b, false, a, of[0]))
		cancel()
		worked++
	}
	t.Logf("%d of 5", worked)
}

// Dead and lying candidates beside a good one do not keep it from being found.
func TestBadCandidates(t *testing.T) {
	a, b := session(t, listen(t, "127.0.0.1")), session(t, listen(t, "127.0.0.2"))
	closed, err := net.Listen("tcp", "127.0.0.3:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	liar, err := net.Listen("tcp", "127.0.0.4:0")
	if err != nil {
		t.Fatal(err)
	}
	defer liar.Close()
	go func() {
		for {
			c, err := liar.Accept()
			if err != nil {
				return
			}
			c.Write([]byte("HTTP/1.0 400 Bad Request\r\n\r\n"))
			defer c.Close()
		}
	}()
	candidates := b.Candidates()
	for _, l := range []net.Listener{closed, liar} {
		candidates = append(candidates, wire.Candidate{Type: wire.Host, TCP: wire.Passive, Addr: addrPort(l.Addr()), Priority: 1 << 31})
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	talk(t, start(ctx, a, true, b, candidates), start(ctx, b, false, a, nil))
}

// A connection whose messages do not verify is not chosen, and ErrNoPair says
// so.
func TestWrongPassword(t *testing.T) {
	a, b := session(t, listen(t, "127.0.0.1")), session(t, listen(t, "127.0.0.2"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	theirs := start(ctx, b, false, a, nil)
	other := strings.Repeat("x", wire.PwdLen)
	c, err := a.Run(ctx, true, wire.Ufrag(other), other, b.Candidates())
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, ErrNoPair) {
		t.Errorf("Run: %v", err)
	}
	if r := <-theirs; !errors.Is(r.err, ErrNoPair) {
		t.Errorf("the other side: %v", r.err)
	}
}

// A stranger gets nothing from the port but the answer of a STUN server.
func TestStranger(t *testing.T) {
	p := listen(t, "127.0.0.1")
	at := net.JoinHostPort("127.0.0.1", "0")
	p.mu.Lock()
	for _, l := range p.listeners {
		at = l.Addr().String()
	}
	p.mu.Unlock()
	ask := func(b []byte) ([]byte, error) {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		got := make([]byte, 2000)
		n, err := c.Read(got)
		return got[:n], err
	}
	m, _, err := stun.Check{Local: "here", Remote: stun.Credentials{Ufrag: "nobody", Pwd: "x"}}.Message()
	if err != nil {
		t.Fatal(err)
	}
	framed := binary.BigEndian.AppendUint16(nil, uint16(len(m)))
	for name, b := range map[string][]byte{
		"HTTP": []byte("GET / HTTP/1.0\r\n\r\n"), "an unknown fragment": append(framed, m...),
		"a short frame": {0, 3, 1, 2, 3}, "a frame that is no STUN": append([]byte{0, 30}, make([]byte, 30)...),
	} {
		if got, err := ask(b); err == nil || len(got) > 0 {
			t.Errorf("%s drew %x, %v", name, got, err)
		}
	}
	m, _ = stun.Question()
	got, err := ask(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...))
	if err != nil {
		t.Fatal(err)
	}
	r, err := readMessage(bytes.NewReader(got))
	if err != nil {
		t.Fatal(err)
	}
	if a, ok := r.Mapped(); !ok || !a.Addr().IsLoopback() {
		t.Errorf("mapped address: %v", a)
	}
}

func TestPriority(t *testing.T) {
	// RFC 6544 §4.2: host before reflexive; of direct ones active before
	// passive before simultaneous open, of others the reverse order begins.
	ordered := []uint32{
		Priority(wire.Host, wire.Active, 0), Priority(wire.Host, wire.Passive, 0), Priority(wire.Host, wire.Passive, 1),
		Priority(wire.Host, wire.SimOpen, 0), Priority(wire.ServerReflexive, wire.SimOpen, 0),
		Priority(wire.ServerReflexive, wire.Active, 0), Priority(wire.ServerReflexive, wire.Passive, 0),
	}
	for i := range ordered[1:] {
		if ordered[i] <= ordered[i+1] {
			t.Errorf("priority %d: %d, the next %d", i, ordered[i], ordered[i+1])
		}
	}
	if got, want := Priority(wire.Host, wire.Active, 0), uint32(126<<24|(6<<13|8191)<<8|255); got != want {
		t.Errorf("%d, want %d", got, want)
	}
}

func FuzzReadMessage(f *testing.F) {
	m, _, err := stun.Check{Local: "b", Remote: stun.Credentials{Ufrag: "a", Pwd: "x"}}.Message()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...))
	f.Add([]byte{0, 20})
	f.Add([]byte{255, 255, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		m, err := readMessage(r)
		if err != nil {
			return
		}
		if n := 2 + int(binary.BigEndian.Uint16(b)); len(b)-r.Len() != n {
			t.Fatalf("%d bytes taken of a frame of %d", len(b)-r.Len(), n)
		}
		_ = verifyRequest(m, stun.Credentials{Ufrag: "a", Pwd: "x"}, stun.Credentials{Ufrag: "b", Pwd: "y"}, true)
		m.Mapped()
	})
}
