package mesh

import (
	"bytes"
	"context"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/naming"
	"github.com/idloc/idloc/overlay/p2p"
)

func TestPeersRoundTrip(t *testing.T) {
	t.Parallel()
	list := []listedPeer{
		{id: peerid.ID{1}, server: true, addrs: testAddrs(1), record: []byte("record")},
		{id: peerid.ID{2}, record: []byte{}},
	}
	b := []byte{byte(len(list))}
	for _, p := range list {
		b = p.appendTo(b)
	}
	if got, err := readPeers(b); err != nil || !reflect.DeepEqual(got, list) {
		t.Errorf("%+v, %v", got, err)
	}
	for i := range b {
		if _, err := readPeers(b[:i]); err == nil {
			t.Errorf("%d of %d bytes are enough", i, len(b))
		}
	}
	if _, err := readPeers([]byte{peersMax + 1}); err == nil {
		t.Error("too many peers")
	}
	if _, err := readPeers(append(append([]byte{1}, make([]byte, 33)...), peersAddrs+1)); err == nil {
		t.Error("too many addresses")
	}
}

func FuzzPeers(f *testing.F) {
	f.Add([]byte{0})
	f.Add(append(append([]byte{1}, make([]byte, 32)...), 1, 1, 9, 4, 127, 0, 0, 1, 0x91, 0x02, 0x10, 0x00, 0, 3, 'N', 1, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := readPeers(b)
		if err != nil && list != nil || len(list) > peersMax {
			t.Errorf("%d peers, %v", len(list), err)
		}
		for _, p := range list {
			if len(p.addrs) > peersAddrs || len(p.record) > naming.MaxRecord {
				t.Errorf("%d addresses, a record of %d bytes", len(p.addrs), len(p.record))
			}
		}
	})
}

// Who comes in hears of the others, with their records, and connects to servers
// among them until it knows enough.
func TestAskPeers(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	hub, newcomer := f.launch(), f.launch()
	var servers []*ship
	for range 5 {
		s := f.launch()
		s.mu.Lock()
		s.hello.Server, s.hello.Record = true, []byte("record of "+s.id.String())
		s.mu.Unlock()
		s.meet(hub)
		servers = append(servers, s)
	}
	if newcomer.AskPeers(t.Context()) {
		t.Error("there was somebody to ask")
	}
	newcomer.meet(hub)
	await(t, "enough servers", func() bool { // again, where an answer or a dial was too slow
		if !newcomer.AskPeers(t.Context()) {
			t.Error("there was nobody to ask")
		}
		return len(newcomer.Members()) >= 1+3
	})
	if n := len(newcomer.Members()); n > 1+dialWidth {
		t.Errorf("%d connected", n)
	}
	for _, s := range servers {
		if got := newcomer.known.Addrs(s.id); len(got) == 0 {
			t.Errorf("%v is not known", s.id)
		}
		newcomer.mu.Lock()
		if newcomer.records[s.id] != "record of "+s.id.String() {
			t.Errorf("the record is %q", newcomer.records[s.id])
		}
		newcomer.mu.Unlock()
	}
}

// A server tells those connected of a member whose name is news; a member does not,
// and nobody is told too often.
func TestIntroduce(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	hub, old, newcomer := f.launch(), f.launch(), f.launch()
	hub.mu.Lock()
	hub.serving = true
	hub.mu.Unlock()
	old.meet(hub)
	newcomer.mu.Lock()
	newcomer.hello.Record = []byte("news")
	newcomer.mu.Unlock()
	newcomer.meet(hub)
	await(t, "the older one is told", func() bool {
		old.mu.Lock()
		defer old.mu.Unlock()
		return old.records[newcomer.id] == "news"
	})
	notice := listedPeer{id: peerid.ID{7}, addrs: testAddrs(7)}.appendTo([]byte{1})
	refused := 0
	for i := 0; refused == 0 && i < 100*metBurst; i++ { // a slow machine takes so long for them that it is allowed more
		if _, err := old.answerMet(t.Context(), hub.Members()[0].Member, notice); err != nil {
			refused++
		}
	}
	if refused == 0 {
		t.Error("told as often as somebody likes")
	}
	if _, err := hub.answerMet(t.Context(), hub.Members()[0].Member, []byte{peersMax + 1}); err == nil {
		t.Error("a notice that cannot be read")
	}
}

// Servers of before are dialled in turn until enough are connected, past those that
// are dead.
func TestTryServers(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a := f.launch()
	for i := range 2 {
		a.known.Note(f.quiet().id, []ma.Multiaddr{p2p.QUIC(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, byte(2 + i)}), 9))}, true, peerid.ID{})
	}
	for range 4 {
		s := f.launch()
		s.mu.Lock()
		s.hello.Server = true
		s.mu.Unlock()
		a.known.Note(s.id, s.Host().Addrs(), true, peerid.ID{})
	}
	await(t, "enough servers", func() bool {
		a.tryServers() // again, where a dial was too slow for a round
		return servers(a.Members()) >= 3
	})
	await(t, "the round over", func() bool { return !a.tryingServers.Load() })
	n := len(a.Members())
	a.dialServers(t.Context(), a.known.Servers()) // there are enough
	if len(a.Members()) != n {
		t.Error("dialled without need")
	}
}

// Two parts of an overlay whose only server has died without a word find each
// other by members that never served, though each part has company.
func TestPartsWithoutServer(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, companion, far := f.launch(), f.launch(), f.launch()
	companion.meet(a)
	dead := f.quiet().id
	a.known.Note(dead, []ma.Multiaddr{p2p.QUIC(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 2}), 9))}, true, peerid.ID{})
	a.known.Note(far.id, far.Host().Addrs(), false, companion.id) // as its companion has told
	round := func() {
		a.tryServers()
		await(t, "the round over", func() bool { return !a.tryingServers.Load() })
	}
	round()
	if _, in := a.Member(far.Host().ID()); in {
		t.Error("a member that never served is tried before the servers had their chance")
	}
	await(t, "the other part found", func() bool {
		round() // again, where the dial was too slow for it
		_, in := a.Member(far.Host().ID())
		return in
	})
}

// A dial-back by a member that had nothing from the asker tells whether others
// reach it.
func TestDialBack(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	asker, hub, other := f.launch(), f.launch(), f.launch()
	other.meet(hub)
	asker.AskDialBack() // nobody is there
	asker.meet(hub)
	if asker.Reached().Unasked() {
		t.Fatal("reached already")
	}
	asker.AskDialBack()
	await(t, "an answer", func() bool {
		got := asker.DialledBack()
		if got.Result != "" && got.Result != DialBackReached { // the other's dial, or its answer, was too slow
			asker.backs.set(DialBack{})
			asker.backs.mu.Lock()
			asker.backs.asked = time.Time{}
			asker.backs.mu.Unlock()
			asker.AskDialBack()
		}
		return got.Result == DialBackReached
	})
	if got := asker.DialledBack(); got.Result != DialBackReached || !got.Decided() || !asker.Reached().Unasked() {
		t.Errorf("%+v, %+v", got, asker.Reached())
	}
	asker.ForgetReached(map[string]bool{"192.0.2.1:1": true})
	if got := asker.DialledBack(); got.Decided() {
		t.Errorf("%+v after the addresses have changed", got)
	}
	// Everybody is connected to everybody now.
	if a, err := asker.askDialBack(t.Context(), hub.peer(), []byte{1}); err != nil || a != dialBackNobody {
		t.Errorf("answered with %d, %v", a, err)
	}
	hub.mu.Lock()
	hub.refuse = true
	hub.mu.Unlock()
	if _, err := asker.askDialBack(t.Context(), hub.peer(), []byte{1}); err == nil {
		t.Error("asked as often as somebody likes")
	}
}

// A dial-back to where nobody is was in vain; one that cannot be read is none.
func TestDialBackInVain(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b := f.launch(), f.launch()
	a.meet(b)
	dead := testID(9)
	q := append(append([]byte{0}, dead[:]...), 1)
	q = append(append(q, byte(len(p2p.QUIC(netip.MustParseAddrPort("127.0.0.1:9")).Bytes()))), p2p.QUIC(netip.MustParseAddrPort("127.0.0.1:9")).Bytes()...)
	from := b.Members()[0].Member
	if got, err := b.answerDialBack(t.Context(), from, q); err != nil || !bytes.Equal(got, []byte{dialBackInVain}) {
		t.Errorf("nobody is there: %v, %v", got, err)
	}
	for i := range q {
		if got, err := b.answerDialBack(t.Context(), from, q[:i]); err != nil || !bytes.Equal(got, []byte{dialBackNobody}) {
			t.Errorf("%d of %d bytes: %v, %v", i, len(q), got, err)
		}
	}
}

// The way back to a member goes by the addresses of its pipe.
func TestWaysBack(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b := f.launch(), f.launch()
	at, _ := p2p.AddrPort(b.Host().Addrs()[0])
	if a.PipeMoved(b.id, false); len(a.WaysBack()) != 0 || !a.Online() {
		t.Error("a way to nobody")
	}
	a.mu.Lock()
	a.pipes[b.id] = []netip.AddrPort{at}
	a.mu.Unlock()
	a.known.Note(b.id, testAddrs(1), false, peerid.ID{})
	back := a.WaysBack()
	if len(back) != 1 || back[0].ID != b.peer() || len(back[0].Addrs) != 2 || !back[0].Addrs[0].Equal(p2p.QUIC(at)) {
		t.Errorf("%+v", back)
	}
	a.PipeMoved(b.id, false)
	await(t, "connected where the pipe is", func() bool { _, ok := a.Member(b.peer()); return ok })
	if !a.Back(t.Context()) {
		t.Error("not back")
	}
}

// Whoever was met is called after a restart, and those that are silent once more.
func TestRecall(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b, c := f.launch(), f.launch(), f.launch()
	all := a.Given([]peer.AddrInfo{b.info(), c.info()})
	_ = c.Close()
	if left := a.callAll(all); len(left) != 1 || left[0].ID != c.peer() {
		t.Errorf("called again: %v", left)
	}
	if _, ok := a.Member(b.peer()); !ok || !a.call(b.info()) {
		t.Error("b was not reached")
	}
	a.Leave()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if a.Back(ctx); len(a.callAll(all)) > 1 {
		t.Error("calls after the end")
	}
}

// running are two members that have met, of which the first one's upkeep runs until end
// is called.
func running(t *testing.T) (a, b *ship, end func()) {
	t.Helper()
	f := newFleet(t)
	a, b = f.launch(), f.launch()
	done := make(chan struct{})
	go func() { a.Run(); close(done) }()
	a.meet(b)
	return a, b, func() { a.Leave(); <-done }
}

// Who is connected is told when this peer's addresses have changed, and only then.
func TestNewAddressesAreSaid(t *testing.T) {
	t.Parallel()
	a, b, end := running(t)
	hellos := func() int {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.heard)
	}
	before := hellos()
	at := p2p.QUIC(netip.MustParseAddrPort("203.0.113.9:4000"))
	a.mu.Lock()
	a.hello.Addrs = append(a.hello.Addrs, at)
	a.mu.Unlock()
	a.Wake()
	await(t, "b knows the new address", func() bool {
		return slices.ContainsFunc(b.Host().Peerstore().Addrs(a.peer()), at.Equal)
	})
	a.Wake()
	end()
	if n := hellos() - before; n != 1 {
		t.Errorf("%d hellos for one change", n)
	}
}

// The upkeep asks, remembers and decides when it is woken.
func TestRun(t *testing.T) {
	t.Parallel()
	a, _, end := running(t)
	await(t, "b is remembered", func() bool { return len(a.known.Met()) == 1 })
	a.Wake()
	end()
}

// TestToldOfOneToken is the attack: most that are connected are keys of one token, and say that
// they are servers. Whoever comes in and asks is told of all others.
func TestToldOfOneToken(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	earth := f.launch()
	var hostile, honest []peerid.ID
	earth.gate.mu.Lock()
	for i := range 1000 {
		id := peerid.ID{1, byte(i), byte(i >> 8)}
		m := &membership.Member{Peer: id, Invitation: membership.Key{1}}
		if i%200 == 100 {
			m.Invitation = membership.Key{2, byte(i)}
			honest = append(honest, id)
		} else {
			hostile = append(hostile, id)
		}
		p := p2p.ID(id)
		earth.gate.doors[p] = &door{Neighbor: Neighbor{Peer: p, ID: id, Member: m, Roles: Roles{Server: true}}, open: make(chan struct{}), gone: make(chan struct{})}
		earth.Host().Peerstore().AddAddrs(p, testAddrs(i), time.Hour)
	}
	earth.gate.mu.Unlock()
	for range 20 {
		b, err := earth.answerPeers(t.Context(), &membership.Member{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		list, err := readPeers(b)
		if err != nil {
			t.Fatal(err)
		}
		told := map[peerid.ID]bool{}
		for _, p := range list {
			told[p.id] = true
		}
		for _, id := range honest {
			if !told[id] {
				t.Fatalf("of %d told, %d keys of one token are connected and %d others, one is not told", len(told), len(hostile), len(honest))
			}
		}
	}
}
