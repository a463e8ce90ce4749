package lan

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/leaktest"
	"github.com/idloc/idloc/internal/peerid"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// wire is a local network: what one sends all hear, the sender as well.
type wire struct {
	mu    sync.Mutex // guards what follows
	conns map[*wireConn]bool
	sent  [][]byte
}

type wireConn struct {
	wire *wire
	from netip.Addr
	in   chan []byte
	who  chan netip.Addr
	done chan struct{}
	once sync.Once
}

func (w *wire) join(from netip.Addr) *wireConn {
	c := &wireConn{wire: w, from: from, in: make(chan []byte, 1000), who: make(chan netip.Addr, 1000), done: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conns == nil {
		w.conns = map[*wireConn]bool{}
	}
	w.conns[c] = true
	return c
}

func (c *wireConn) Read(b []byte) (int, netip.Addr, error) {
	select {
	case m := <-c.in:
		return copy(b, m), <-c.who, nil
	case <-c.done:
		return 0, netip.Addr{}, net.ErrClosed
	}
}

func (c *wireConn) Send(b []byte) error {
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	c.wire.sent = append(c.wire.sent, slices.Clone(b))
	for to := range c.wire.conns {
		to.who <- c.from
		to.in <- slices.Clone(b)
	}
	return nil
}

func (c *wireConn) Close() error {
	c.once.Do(func() {
		c.wire.mu.Lock()
		defer c.wire.mu.Unlock()
		delete(c.wire.conns, c)
		close(c.done)
	})
	return nil
}

// count says how many questions and announcements were sent.
func (w *wire) count(service string) (questions, announcements int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range w.sent {
		m := parse(b, service)
		if m.asks {
			questions++
		}
		announcements += len(m.sealed)
	}
	return questions, announcements
}

// peer is one that is on a wire.
type peer struct {
	*LAN
	mu      sync.Mutex // guards what follows
	at      netip.Addr
	wanted  bool
	outside bool
	met     map[peerid.ID][]netip.AddrPort
}

var overlayID = [32]byte{1, 2, 3}

// atOnce is how many members a peer of these tests meets at once.
const atOnce = 8

func newPeer(t *testing.T, w *wire, n byte, overlay [32]byte) *peer {
	p := &peer{at: netip.AddrFrom4([4]byte{192, 168, 5, n}), wanted: true, met: map[peerid.ID][]netip.AddrPort{}}
	p.LAN = New(Config{
		Overlay: overlay, Self: peerid.ID{n}, Log: slog.New(slog.DiscardHandler),
		Places: func() []Place {
			p.mu.Lock()
			defer p.mu.Unlock()
			return []Place{{Index: 1, Addr: netip.AddrPortFrom(p.at, 4000+uint16(n)), Net: netip.MustParsePrefix("192.168.5.0/24")}}
		},
		Wanted: func() int {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.wanted {
				return atOnce
			}
			return 0
		},
		Inside: func() bool { p.mu.Lock(); defer p.mu.Unlock(); return !p.outside },
		Met: func(_ context.Context, id peerid.ID, at []netip.AddrPort) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.met[id] = at
		},
	})
	p.listen = func(int, bool) (conn, error) { return w.join(p.at), nil }
	return p
}

// run runs p until the returned function is called.
func (p *peer) run(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); p.Run(ctx) }()
	return func() { cancel(); <-done }
}

func (p *peer) found() map[peerid.ID][]netip.AddrPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.met
	p.met = map[peerid.ID][]netip.AddrPort{}
	return out
}

func (p *peer) set(f func()) { p.mu.Lock(); defer p.mu.Unlock(); f() }

// Two that start at once find each other, and one who starts later both; members of
// another overlay are nobody.
func TestFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		a, b, c, x := newPeer(t, w, 1, overlayID), newPeer(t, w, 2, overlayID), newPeer(t, w, 3, overlayID), newPeer(t, w, 9, [32]byte{9})
		for _, p := range []*peer{a, b, x} {
			defer p.run(t)()
		}
		time.Sleep(2 * answerEvery)
		for _, p := range []struct{ a, b *peer }{{a, b}, {b, a}} {
			got := p.a.found()
			if len(got) != 1 || !slices.Equal(got[p.b.cfg.Self], []netip.AddrPort{p.b.cfg.Places()[0].Addr}) {
				t.Errorf("%v found %v", p.a.at, got)
			}
		}
		a.set(func() { a.wanted = false })
		time.Sleep(time.Hour)
		a.found()
		defer c.run(t)()
		time.Sleep(2 * answerEvery)
		if got := c.found(); len(got) != 2 {
			t.Errorf("one who starts later found %v", got)
		}
		if got := a.found(); len(got) != 0 {
			t.Errorf("one who knows enough members met %v", got)
		}
		if got := x.found(); len(got) != 0 {
			t.Errorf("a member of another overlay met %v", got)
		}
	})
}

// Who has not been let in yet says nothing of itself, and finds those who have.
func TestOutside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		a, b, c := newPeer(t, w, 1, overlayID), newPeer(t, w, 2, overlayID), newPeer(t, w, 3, overlayID)
		b.outside, c.outside = true, true
		for _, p := range []*peer{a, b, c} {
			defer p.run(t)()
		}
		time.Sleep(2 * answerEvery)
		for _, p := range []*peer{b, c} {
			if got := p.found(); len(got) != 1 || got[a.cfg.Self] == nil {
				t.Errorf("%v found %v", p.at, got)
			}
		}
		if got := a.found(); len(got) != 0 {
			t.Errorf("met before it was let in: %v", got)
		}
		b.set(func() { b.outside = false })
		time.Sleep(2 * askMost)
		if got := a.found(); len(got) != 1 || got[b.cfg.Self] == nil {
			t.Errorf("after one was let in: %v", got)
		}
	})
}

// A change of addresses is said at once, and that all are gone is asked about.
func TestChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		a, b := newPeer(t, w, 1, overlayID), newPeer(t, w, 2, overlayID)
		defer a.run(t)()
		defer b.run(t)()
		time.Sleep(time.Hour)
		a.found()
		b.found()
		b.set(func() { b.at = netip.MustParseAddr("192.168.5.77") })
		b.Changed()
		time.Sleep(time.Millisecond)
		if at := a.found()[b.cfg.Self]; len(at) != 1 || at[0].Addr() != b.at {
			t.Errorf("a change is known as %v", at)
		}
		for _, p := range []*peer{a, b} {
			p.set(func() { p.wanted = false })
		}
		time.Sleep(time.Hour)
		a.found()
		a.set(func() { a.wanted = true })
		a.Changed()
		time.Sleep(answerEvery)
		if len(a.found()) != 1 {
			t.Error("nobody answers one who has become alone")
		}
	})
}

// Of a crowd only some answer a question, and one who finds nobody asks less and less.
func TestQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		service := newKeys(overlayID).service
		const crowd = 100
		for i := range byte(crowd) {
			p := newPeer(t, w, 100+i, overlayID)
			p.wanted = false
			defer p.run(t)()
		}
		time.Sleep(time.Minute)
		_, before := w.count(service)
		a := newPeer(t, w, 1, overlayID)
		stop := a.run(t)
		time.Sleep(200 * time.Millisecond)
		_, after := w.count(service)
		if n := after - before - 1; n < enough || n > crowd/4 {
			t.Errorf("%d of %d answered", n, crowd)
		}
		stop()

		lonely := &wire{}
		b := newPeer(t, lonely, 2, overlayID)
		defer b.run(t)()
		time.Sleep(time.Hour)
		if q, _ := lonely.count(service); q < 60 || q > 75 {
			t.Errorf("%d questions in an hour", q)
		}
	})
}

// Of a crowd that looks for members at once only some ask.
func TestCrowdAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		const crowd = 100
		for i := range byte(crowd) {
			p := newPeer(t, w, 100+i, overlayID)
			p.outside = true
			defer p.run(t)()
		}
		time.Sleep(time.Minute)
		const rounds = 9 // 250 ms, doubled
		if q, _ := w.count(newKeys(overlayID).service); q < rounds || q > rounds*crowd/8 {
			t.Errorf("%d questions of %d in a minute", q, crowd)
		}
	})
}

// Who asks without end is answered once a second.
func TestQuestionsWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		a := newPeer(t, w, 1, overlayID)
		a.wanted = false
		defer a.run(t)()
		time.Sleep(time.Minute)
		_, before := w.count(a.keys.service)
		q, err := question(a.keys.service)
		if err != nil {
			t.Fatal(err)
		}
		asker := w.join(netip.MustParseAddr("192.168.5.200"))
		defer asker.Close()
		go func() {
			for {
				select {
				case <-asker.in:
					<-asker.who
				case <-asker.done:
					return
				}
			}
		}()
		for range 1000 {
			if err := asker.Send(q); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if _, after := w.count(a.keys.service); after-before > 11 {
			t.Errorf("%d announcements in ten seconds", after-before)
		}
	})
}

// What comes from another network, or says what only members can and is changed, leads
// to nobody.
func TestNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		a := newPeer(t, w, 1, overlayID)
		defer a.run(t)()
		time.Sleep(time.Second)
		say := func(from, sealed string) {
			b, err := announcement(a.keys.service, "x", sealed, 1)
			if err != nil {
				t.Fatal(err)
			}
			c := w.join(netip.MustParseAddr(from))
			defer c.Close()
			if err := c.Send(b); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		good := a.keys.seal(peerid.ID{7}, []netip.AddrPort{netip.MustParseAddrPort("192.168.5.7:7")})
		say("10.0.0.7", good)
		say("192.168.5.7", newKeys([32]byte{8}).seal(peerid.ID{7}, []netip.AddrPort{netip.MustParseAddrPort("192.168.5.7:7")}))
		say("192.168.5.7", good[:len(good)-1])
		say("192.168.5.7", strings.ToUpper(good))
		say("192.168.5.7", a.keys.seal(a.cfg.Self, []netip.AddrPort{netip.MustParseAddrPort("192.168.5.7:7")}))
		say("192.168.5.7", a.keys.seal(peerid.ID{7}, []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:7"), netip.MustParseAddrPort("224.0.0.1:7")}))
		if got := a.found(); len(got) != 0 {
			t.Errorf("met %v", got)
		}
		say("192.168.5.7", good)
		if got := a.found(); len(got) != 1 {
			t.Errorf("met %v", got)
		}
	})
}

// One host that makes members up takes nobody else's turn, and an announcement that is
// replayed silences nobody.
func TestOneHostLies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		a := newPeer(t, w, 1, overlayID)
		met := map[peerid.ID]bool{}
		a.cfg.Met = func(ctx context.Context, id peerid.ID, _ []netip.AddrPort) {
			a.set(func() { met[id] = true })
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Second):
			}
		}
		defer a.run(t)()
		time.Sleep(time.Minute)
		say := func(from string, id peerid.ID) {
			at := []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr(from), 7)}
			b, err := announcement(a.keys.service, "x", a.keys.seal(id, at), 1)
			if err != nil {
				t.Fatal(err)
			}
			c := w.join(netip.MustParseAddr(from))
			defer c.Close()
			if err := c.Send(b); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		const minute = 600
		for i := range minute {
			say("192.168.5.66", peerid.ID{66, byte(i), byte(i >> 8)})
			time.Sleep(time.Minute / minute)
		}
		say("192.168.5.7", peerid.ID{7})
		a.set(func() {
			if !met[peerid.ID{7}] {
				t.Error("one host has taken all turns")
			}
			if n := len(met) - 1; n < meetBurst || n > meetBurst+int(time.Minute/meetEvery)+1 {
				t.Errorf("%d members that one host has made up were met in a minute", n)
			}
			a.wanted = false
		})

		time.Sleep(time.Minute)
		_, before := w.count(a.keys.service)
		q, err := question(a.keys.service)
		if err != nil {
			t.Fatal(err)
		}
		asker := w.join(netip.MustParseAddr("192.168.5.200"))
		if err := asker.Send(q); err != nil {
			t.Fatal(err)
		}
		asker.Close()
		const replays = 2 * enough
		for range replays {
			say("192.168.5.66", peerid.ID{7})
		}
		time.Sleep(time.Second)
		if _, after := w.count(a.keys.service); after-before != replays+1 {
			t.Errorf("%d announcements after a question, %d of them replayed", after-before, replays)
		}
	})
}

// No more than are wanted are under way, and each member is met once at a time.
func TestMeetings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		a := newPeer(t, w, 1, overlayID)
		var mu sync.Mutex
		n := 0
		a.cfg.Met = func(ctx context.Context, _ peerid.ID, _ []netip.AddrPort) {
			mu.Lock()
			n++
			mu.Unlock()
			<-ctx.Done()
		}
		defer a.run(t)()
		time.Sleep(time.Second)
		for i := range 100 {
			c := w.join(netip.AddrFrom4([4]byte{192, 168, 5, 100 + byte(i)}))
			b, err := announcement(a.keys.service, "x", a.keys.seal(peerid.ID{7, byte(i / 2)}, []netip.AddrPort{netip.MustParseAddrPort("192.168.5.7:7")}), 1)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Send(b); err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
		time.Sleep(time.Second)
		mu.Lock()
		defer mu.Unlock()
		if n != atOnce {
			t.Errorf("%d are being met", n)
		}
	})
}

// Without an interface to multicast on nothing happens.
func TestNowhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newPeer(t, &wire{}, 1, overlayID)
		a.listen = func(int, bool) (conn, error) { return nil, errors.New("not here") }
		stop := a.run(t)
		time.Sleep(time.Hour)
		stop()
		var none *LAN
		none.Changed()
		none.Run(t.Context())
	})
}

// What is on the wire shows a bystander neither IDs nor addresses of the announcement.
func TestBystander(t *testing.T) {
	k := newKeys(overlayID)
	id := peerid.ID([]byte("0123456789abcdef0123456789abcdef"))
	at := []netip.AddrPort{netip.MustParseAddrPort("192.168.5.7:7"), netip.MustParseAddrPort("[2001:db8::7]:7")}
	b, err := announcement(k.service, "x", k.seal(id, at), 7)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{string(id[:8]), id.String()[:8], string(at[0].Addr().AsSlice()), string(at[1].Addr().AsSlice()), string(overlayID[:3])} {
		if strings.Contains(string(b), secret) {
			t.Errorf("%q is in the clear", secret)
		}
	}
	m := parse(b, k.service)
	if len(m.sealed) != 1 {
		t.Fatalf("read as %+v", m)
	}
	gotID, gotAt, err := k.open(m.sealed[0])
	if err != nil || gotID != id || !slices.Equal(gotAt, at) {
		t.Errorf("%v %v %v", gotID, gotAt, err)
	}
	if n := len(k.seal(id, make([]netip.AddrPort, 2*maxAddrs))); n > 255 {
		t.Errorf("a string of %d bytes does not fit into TXT", n)
	}
	if label, _, _ := strings.Cut(k.service, "."); len(label) != 1+15 {
		t.Errorf("%s: RFC 6335 §5.1 has 15 characters at most", label)
	}
	if one, other := k.seal(id, at), k.seal(id, at); one == other {
		t.Error("two announcements are equal")
	}
}

func FuzzParse(f *testing.F) {
	k := newKeys(overlayID)
	q, _ := question(k.service)
	a, _ := announcement(k.service, "x", k.seal(peerid.ID{1}, nil), 7)
	for _, b := range [][]byte{q, a, nil, a[:len(a)-3], []byte(fmt.Sprint(overlayID))} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, text := range parse(b, k.service).sealed {
			if _, at, err := k.open(text); err == nil && len(at) > maxAddrs {
				t.Errorf("%d addresses", len(at))
			}
		}
	})
}
