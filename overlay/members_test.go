package overlay

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-msgio"
	"google.golang.org/protobuf/proto"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/state"
	"github.com/idloc/idloc/overlay/admission"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/naming"
)

func memory(t testing.TB) *state.Dir {
	t.Helper()
	d, err := state.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func TestTies(t *testing.T) {
	t.Parallel()
	earth := founded(t, "earth")
	var wg sync.WaitGroup
	names := make([]string, 4)
	nodes := make([]*node, len(names))
	for i := range nodes {
		nodes[i] = newNode(t, nil)
	}
	for i := range nodes {
		wg.Go(func() {
			token, err := earth.Invite(InviteOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			o, err := Join(t.Context(), token, nodes[i].config("mars"))
			if err != nil {
				t.Error(err)
				return
			}
			nodes[i].run(o, nil)
			names[i] = o.Name()
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	for _, n := range names {
		seen[n] = true
	}
	for _, want := range []string{"mars.example.com", "mars-2.example.com", "mars-3.example.com", "mars-4.example.com"} {
		if !seen[want] {
			t.Errorf("nobody is %s: %v", want, names)
		}
	}
	if got := earth.join(t, "earth").Name(); got != "earth-2.example.com" {
		t.Errorf("the founder's label went to %q", got)
	}
}

func TestNamedTokenOnce(t *testing.T) {
	t.Parallel()
	earth := founded(t, "earth")
	token, err := earth.Invite(InviteOptions{Name: "venus"})
	if err != nil {
		t.Fatal(err)
	}
	first := newNode(t, nil)
	first.run(Join(t.Context(), token, first.config("something")))
	if first.Name() != "venus.example.com" {
		t.Errorf("Name = %q", first.Name())
	}
	second := newNode(t, nil)
	t.Cleanup(second.shut)
	if _, err := Join(t.Context(), token, second.config("")); !errors.Is(err, membership.ErrUsed) {
		t.Errorf("second use of a named token: %v", err)
	}
}

// awaitIssuer returns once n has heard that other may confirm.
func (n *node) awaitIssuer(t *testing.T, other *node) {
	t.Helper()
	await(t, "an issuer known as one", 5*time.Second, func() bool {
		for _, d := range n.mesh.Members() {
			if d.Peer == other.mesh.Host().ID() && d.Issuer {
				return true
			}
		}
		return false
	})
}

func TestDelegateInvites(t *testing.T) {
	t.Parallel()
	earth := founded(t, "earth")
	venus := earth.joinWith(t, newNode(t, nil), "venus", InviteOptions{Delegate: true})
	earth.awaitIssuer(t, venus)
	plain := earth.join(t, "plain")
	if _, err := plain.Invite(InviteOptions{}); !errors.Is(err, ErrNotIssuer) {
		t.Errorf("a plain member invites: %v", err)
	}
	mars := venus.join(t, "mars")
	if !mars.Member().Confirmed {
		t.Error("not confirmed")
	}
	earth.shut()
	await(t, "founder gone", 5*time.Second, func() bool { _, ok := venus.mesh.Member(earth.mesh.Host().ID()); return !ok })
	saturn := venus.join(t, "mars")
	// At once, or where the machine is so busy that nobody has answered in time, soon.
	await(t, "saturn confirmed under another name", 30*time.Second, func() bool {
		m := saturn.Member()
		return m.Confirmed && !m.Delegate.IsZero() && saturn.Name() == "mars-2.example.com"
	})
	await(t, "mars found", 10*time.Second, func() bool {
		f, err := saturn.Resolve(t.Context(), "mars")
		return err == nil && f.Peer == mars.Self()
	})
}

// TestIssuersAgree: what one issuer has confirmed another does not give away
// again, though nobody is left who could tell from the database.
func TestIssuersAgree(t *testing.T) {
	// Not beside others: an issuer that takes longer than a second to note it is not
	// waited for.
	earth := founded(t, "earth")
	venus := earth.joinWith(t, newNode(t, nil), "venus", InviteOptions{Delegate: true})
	earth.awaitIssuer(t, venus)
	mars := earth.join(t, "mars")
	if p, ok := venus.roster.Holder("mars"); !ok || p != mars.Self() {
		t.Errorf("venus has %v, %v for mars when Join has returned", p, ok)
	}
	mars.shut()
	earth.shut()
	await(t, "founder gone", 5*time.Second, func() bool { _, ok := venus.mesh.Member(earth.mesh.Host().ID()); return !ok })
	if got := venus.join(t, "mars").Name(); got != "mars-2.example.com" {
		t.Errorf("a second mars is %q", got)
	}
}

// TestCutOffKnowsNothing: a peer that has lost everybody does not say of a
// name that there is none.
func TestCutOffKnowsNothing(t *testing.T) {
	t.Parallel()
	earth := founded(t, "earth")
	venus := earth.join(t, "venus")
	mars := earth.join(t, "mars")
	await(t, "venus remembers", 5*time.Second, func() bool { return len(venus.mesh.Known().AddrInfos()) > 0 })
	earth.shut()
	mars.shut()
	await(t, "venus alone", 10*time.Second, func() bool { return len(venus.Peers()) == 0 })
	venus.directory.Serve() // as it may have been before
	_, err := venus.Resolve(t.Context(), "pluto")
	if err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("Resolve of a name that nobody can be asked about: %v", err)
	}
	var temporary interface{ Temporary() bool }
	if !errors.As(err, &temporary) || !temporary.Temporary() {
		t.Errorf("not temporary: %v", err)
	}
}

// TestJoinThroughOrdinaryMember enters with a token whose addresses are not the
// founder's: the question for confirmation is passed on.
func TestJoinThroughOrdinaryMember(t *testing.T) {
	t.Parallel()
	earth := founded(t, "earth")
	venus := earth.join(t, "venus")
	venus.directory.Serve()
	await(t, "venus known as a server", 5*time.Second, func() bool { return len(earth.directory.Servers()) == 1 })
	token, err := earth.roster.Invite(membership.InviteOptions{Addrs: venus.addrs()[:1]})
	if err != nil {
		t.Fatal(err)
	}
	mars := newNode(t, nil)
	mars.run(Join(t.Context(), token.String(), mars.config("mars")))
	if !mars.Member().Confirmed {
		t.Error("not confirmed")
	}
	for _, n := range []*node{earth, venus} {
		if f, err := n.Resolve(t.Context(), "mars"); err != nil || f.Peer != mars.Self() {
			t.Errorf("Resolve = %v, %v", f, err)
		}
	}
}

// TestJoinWhenFound: a server that takes nothing at first, as one may on a busy machine,
// has the name of who has joined when Join returns.
func TestJoinWhenFound(t *testing.T) {
	t.Parallel()
	earth := founded(t, "earth")
	var mu sync.Mutex // guards the rest
	refused, stored := 0, map[string]bool{}
	earth.serveKad(func(s network.Stream) {
		defer s.Reset()
		r, w := msgio.NewVarintReaderSize(s, network.MessageSizeMax), msgio.NewVarintWriter(s)
		for {
			b, err := r.ReadMsg()
			if err != nil {
				return
			}
			var m pb.Message
			if proto.Unmarshal(b, &m) != nil {
				return
			}
			if m.GetType() == pb.Message_PUT_VALUE {
				mu.Lock()
				refuse := refused < 4*(naming.Replicas+1) // each put is tried twice
				if refuse {
					refused++
				} else {
					stored[string(m.GetKey())] = true
				}
				mu.Unlock()
				if refuse {
					return
				}
			} else {
				m.Record = nil
			}
			if b, err = proto.Marshal(&m); err != nil || w.WriteMsg(b) != nil {
				return
			}
		}
	})
	mars := earth.join(t, "mars")
	mu.Lock()
	defer mu.Unlock()
	for _, key := range naming.Keys(earth.ID(), mars.Label()) {
		if !stored[key] {
			t.Errorf("of %d records that were put none is the name's under %q; %d were refused", len(stored), key, refused)
		}
	}
}

func TestProvisionalWithoutFounder(t *testing.T) {
	t.Parallel()
	earth := founded(t, "earth")
	venus := earth.join(t, "venus")
	venus.directory.Serve()
	token, err := earth.roster.Invite(membership.InviteOptions{Uses: 2, Addrs: venus.addrs()[:1]})
	if err != nil {
		t.Fatal(err)
	}
	earth.shut()
	await(t, "founder gone", 5*time.Second, func() bool { return len(venus.Peers()) == 0 })
	mars := newNode(t, nil)
	mars.run(Join(t.Context(), token.String(), mars.config("mars")))
	if mars.Member().Confirmed {
		t.Error("confirmed by nobody")
	}
	f, err := venus.Resolve(t.Context(), "mars")
	if err != nil || f.Peer != mars.Self() {
		t.Errorf("Resolve = %v, %v", f, err)
	}
	token2 := token.String()
	second := newNode(t, nil)
	second.run(Join(t.Context(), token2, second.config("mars")))
	if got := second.Name(); got != "mars-2.example.com" {
		t.Errorf("second provisional mars is %q", got)
	}
}

func TestJoinNobodyThere(t *testing.T) {
	t.Parallel()
	earth := founded(t, "earth")
	token, err := earth.Invite(InviteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	earth.shut()
	n := newNode(t, nil)
	t.Cleanup(n.shut)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := Join(ctx, token, n.config("mars")); err == nil {
		t.Error("Join succeeded with nobody there")
	}
}

func TestRevoke(t *testing.T) {
	t.Parallel()
	earth, peers := crowd(t, 3)
	venus, mars, bad := peers[0], peers[1], peers[2]
	if _, err := venus.Connect(t.Context(), bad.Self()); err != nil {
		t.Fatal(err)
	}
	if err := mars.Revoke(t.Context(), "peer2", admission.Scope{}); !errors.Is(err, ErrNotFounder) {
		t.Errorf("a member revokes: %v", err)
	}
	bad.directory.Serve()
	await(t, "a server that is remembered", 10*time.Second, func() bool {
		s := earth.Stats()
		return s.Servers == 1 && s.RoutingTable == 1 && len(earth.mesh.Known().Addrs(bad.Self())) > 0
	})
	if _, ok := earth.RelayFor(bad.Self()); !ok {
		t.Error("the founder does not relay for a member")
	}
	if err := earth.Revoke(t.Context(), "peer2", admission.Scope{}); err != nil {
		t.Fatal(err)
	}
	// It is on no list any more, at once.
	if s := earth.Stats(); s.Members != 2 || s.Servers != 0 || s.Revocations != 1 {
		t.Errorf("after Revoke: %+v", s)
	}
	// Where the DHT was about to add it, it is taken out again.
	await(t, "out of the routing table", 10*time.Second, func() bool { return earth.Stats().RoutingTable == 0 })
	if _, ok := earth.mesh.Member(bad.mesh.Host().ID()); ok {
		t.Error("it is behind the gate")
	}
	if _, ok := earth.RelayFor(bad.Self()); ok {
		t.Error("the founder relays for it")
	}
	if len(earth.mesh.Known().Addrs(bad.Self())) > 0 || earth.directory.Record(bad.Self()) != nil || earth.NameOf(bad.Self()) != "" {
		t.Error("it is remembered")
	}
	if _, err := earth.Resolve(t.Context(), "peer2"); !errors.Is(err, ErrRevoked) {
		t.Errorf("its name: %v", err)
	}
	await(t, "the list at all", 10*time.Second, func() bool {
		return venus.roster.Revocations().Seq() == 1 && mars.roster.Revocations().Seq() == 1
	})
	await(t, "the pipe gone", 10*time.Second, func() bool { return venus.pipes.Load().Pipe(bad.Self()) == nil })
	await(t, "the connection gone", 10*time.Second, func() bool {
		return earth.mesh.Host().Network().Connectedness(bad.mesh.Host().ID()) != network.Connected
	})
	for _, label := range []string{"peer2", bad.Self().Label()} {
		if _, err := venus.Resolve(t.Context(), label); !errors.Is(err, ErrRevoked) {
			t.Errorf("the revoked peer's name %s: %v", label, err)
		}
	}
	if _, err := venus.Connect(t.Context(), bad.Self()); err == nil {
		t.Error("a pipe to the revoked peer")
	}
	if len(earth.seen(event.Revoked, bad.Self())) == 0 {
		t.Error("no event")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := bad.Connect(ctx, venus.Self()); err == nil {
		t.Error("the revoked peer connects")
	}
}

// TestRestartThroughRemembered starts a peer again when those in its token
// are gone.
func TestRestartThroughRemembered(t *testing.T) {
	t.Parallel()
	earth := founded(t, "earth")
	venus := earth.join(t, "venus")
	dir := memory(t)
	mars := earth.joinWith(t, newNode(t, dir), "mars", InviteOptions{})
	mars.mesh.AskPeers(t.Context())
	await(t, "venus known to mars", 5*time.Second, func() bool { return len(mars.mesh.Known().AddrInfos()) == 2 })
	mars.shut()
	earth.shut()
	again := newNodeWith(t, mars.key, dir)
	again.run(Open(t.Context(), again.config("mars")))
	await(t, "venus and mars connected", 15*time.Second, func() bool { return len(again.Peers()) == 1 })
	await(t, "mars found", 15*time.Second, func() bool {
		f, err := venus.Resolve(t.Context(), "mars")
		return err == nil && f.Peer == again.Self()
	})
}

func TestOpenNothing(t *testing.T) {
	t.Parallel()
	n := newNode(t, memory(t))
	t.Cleanup(n.shut)
	if _, err := Open(t.Context(), n.config("x")); !errors.Is(err, ErrNoState) {
		t.Errorf("Open = %v", err)
	}
}

func TestFounderRestarts(t *testing.T) {
	t.Parallel()
	dir := memory(t)
	n := newNode(t, dir)
	n.run(Create(t.Context(), "example.com", n.config("earth")))
	id := n.ID()
	n.shut()
	again := newNodeWith(t, n.key, dir)
	again.run(Create(t.Context(), "example.com", again.config("earth")))
	if again.ID() != id || !again.Founder() || again.Name() != "earth.example.com" {
		t.Errorf("came back as %x, %v, %q", again.ID(), again.Founder(), again.Name())
	}
	other := newNodeWith(t, n.key, dir)
	t.Cleanup(other.shut)
	if _, err := Create(t.Context(), "example.org", other.config("earth")); err == nil {
		t.Error("another domain was founded over the state of this one")
	}
}

// TestStranger is a libp2p peer with the right protocol names and no chain: it
// reads nothing, stores nothing, routes nothing, and is closed.
func TestStranger(t *testing.T) {
	t.Parallel()
	earth, _ := crowd(t, 1)
	n := newNode(t, nil)
	t.Cleanup(n.shut)
	h := n.stranger(t)
	ai := peer.AddrInfo{ID: earth.mesh.Host().ID(), Addrs: earth.mesh.Host().Addrs()}
	h.Peerstore().AddAddrs(ai.ID, ai.Addrs, peerstore.TempAddrTTL)
	if _, err := h.Network().DialPeer(t.Context(), ai.ID); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	pids := []protocol.ID{earth.kad(), earth.proto("offer"), earth.proto("confirm"), earth.proto("confirmed"), earth.proto("revocation"), earth.proto("peers")}
	var wg sync.WaitGroup
	for _, pid := range pids {
		wg.Go(func() {
			s, err := openStream(t.Context(), h, ai.ID, pid)
			if err != nil {
				t.Errorf("%s: %v", pid, err)
				return
			}
			defer s.Reset()
			key := naming.Key(earth.ID(), "earth", 0)
			_, _ = s.Write(append([]byte{byte(len(key) + 4), 0x08, 0x01, 0x12, byte(len(key))}, key...))
			_ = s.CloseWrite()
			b := make([]byte, 1)
			if n, err := s.Read(b); err == nil {
				t.Errorf("%s answered a stranger with %d bytes", pid, n)
			}
		})
	}
	wg.Wait()
	await(t, "the connection closed", 10*time.Second, func() bool {
		return h.Network().Connectedness(ai.ID) != network.Connected
	})
	t.Logf("closed after %v", time.Since(start))
	if len(earth.Peers()) != 1 {
		t.Errorf("members: %+v", earth.Peers())
	}
}
