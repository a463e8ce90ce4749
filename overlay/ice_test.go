package overlay

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/pion/stun/v2"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/internal/wire"
)

// TestIdentity holds internal/peerid to what libp2p says of the same keys.
func TestIdentity(t *testing.T) {
	for range 200 {
		_, pub, err := crypto.GenerateEd25519Key(nil)
		if err != nil {
			t.Fatal(err)
		}
		p, err := peer.IDFromPublicKey(pub)
		if err != nil {
			t.Fatal(err)
		}
		id, err := fromLibp2p(p)
		if err != nil {
			t.Fatal(err)
		}
		if id.String() != p.String() {
			t.Errorf("String %q, libp2p %q", id, p)
		}
		label, err := peer.ToCid(p).StringOfBase('k')
		if err != nil {
			t.Fatal(err)
		}
		if id.Label() != label {
			t.Errorf("Label %q, libp2p %q", id.Label(), label)
		}
		if toLibp2p(id) != p {
			t.Errorf("%v comes back as %v", p, toLibp2p(id))
		}
		if back, err := peerid.Parse(label); err != nil || back != id {
			t.Errorf("Parse(%q) = %v, %v", label, back, err)
		}
	}
}

func TestCandidateFilter(t *testing.T) {
	plain := candidateFilter{lsi: []netip.Prefix{netip.MustParsePrefix("10.77.0.0/16")}}
	local := candidateFilter{loopback: true}
	for _, c := range []struct {
		addr        string
		plain, loop bool
		what        string
	}{
		{"192.0.2.1:5000", true, true, "an ordinary address"},
		{"[2001:db8::1]:5000", true, true, "an ordinary IPv6 address"},
		{"10.0.0.1:5000", true, true, "a private one"},
		{"127.0.0.1:5000", false, true, "loopback"},
		{"[::1]:5000", false, true, "loopback"},
		{"192.0.2.1:53", false, false, "a low port"},
		{"192.0.2.1:0", false, false, "no port"},
		{"0.0.0.0:5000", false, false, "unspecified"},
		{"0.1.2.3:5000", false, false, "this network"},
		{"224.0.0.1:5000", false, false, "multicast"},
		{"[ff02::1]:5000", false, false, "multicast"},
		{"169.254.1.1:5000", false, false, "link-local"},
		{"[fe80::1]:5000", false, false, "link-local"},
		{"[::ffff:192.0.2.1]:5000", false, false, "v4-mapped"},
		{"255.255.255.255:5000", false, false, "broadcast"},
		{"198.18.0.7:5000", false, false, "an LSI"},
		{"[2001:20::7]:5000", false, false, "an LSI"},
		{"10.77.1.1:5000", false, true, "an LSI of this node's prefix"},
	} {
		a := netip.MustParseAddrPort(c.addr)
		if got := plain.allowed(a); got != c.plain {
			t.Errorf("%s, %s: allowed %v", c.addr, c.what, got)
		}
		if got := local.allowed(a); got != c.loop {
			t.Errorf("%s, %s, with loopback: allowed %v", c.addr, c.what, got)
		}
	}
	var many []wire.Candidate
	for i := range 300 {
		many = append(many, wire.Candidate{Type: wire.Host, Addr: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(2000+i/2))})
	}
	if got := plain.keep(many); len(got) != wire.MaxCandidates || got[0].Addr == got[1].Addr {
		t.Errorf("%d of 300 candidates kept", len(got))
	}
}

// TestPacing says how many checks leave for addresses that never answer, when
// an agent wants to send one every five milliseconds for eight seconds: to one
// address, and to sixteen ports of one victim.
func TestPacing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, ports := range []int{1, 16} {
			d := newSTUNDemux()
			s := d.newSession("ufrag", "password", nil)
			c := &iceConn{session: s, done: make(chan struct{})}
			sent := 0
			victim := netip.MustParseAddr("192.0.2.1")
			for range 1600 {
				for p := range ports {
					m := stun.MustBuild(stun.TransactionID, stun.BindingRequest)
					if s.permit(c, netip.AddrPortFrom(victim, uint16(2000+p)), false, m.TransactionID) {
						sent++
					}
				}
				time.Sleep(5 * time.Millisecond)
			}
			if sent > 128 || sent < 10 {
				t.Errorf("%d ports: %d checks", ports, sent)
			}
			t.Logf("%d ports: %d checks in 8 s", ports, sent)
			_ = s.Close()
			if len(d.pending) != 0 || len(d.sessions) != 0 {
				t.Errorf("left: %d transactions, %d sessions", len(d.pending), len(d.sessions))
			}
		}
	})
}

// TestReflexive measures one socket's address through another's responder.
func TestReflexive(t *testing.T) {
	server, client := newSTUNDemux(), newSTUNDemux()
	listen := func(d *stunDemux) *socket.Port {
		p, err := socket.Listen(socket.Config{Addrs: []netip.Addr{loopback}, OnSTUN: d.handle})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Close() })
		return p
	}
	at := listen(server).Conns()[0].LocalAddr()
	conns := listen(client).Conns()
	got, ok := client.measure(t.Context(), conns[0], at)
	if !ok || got != conns[0].LocalAddr() {
		t.Errorf("measured %v, %v; it is %v", got, ok, conns[0].LocalAddr())
	}
	r := newReflexive(client, func() []*socket.Conn { return conns }, func() []netip.AddrPort { return []netip.AddrPort{at} })
	r.measure(t.Context())
	if m := r.of(conns[0]); len(m) != 0 {
		t.Errorf("mapped addresses %v without a NAT", m)
	}
	// Nobody there: bounded, and cancelled at once.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, ok := client.measure(ctx, conns[0], netip.MustParseAddrPort("127.0.0.1:1")); ok {
		t.Error("an answer from nobody")
	}
	if len(client.pending) != 0 {
		t.Errorf("%d transactions left", len(client.pending))
	}
}

func TestResponderIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newSourceLimits(stunPerSource, stunBurst, stunTotal, 16)
		a := netip.MustParseAddr("192.0.2.1")
		n := 0
		for range 1000 {
			if l.allow(a) {
				n++
			}
		}
		if n != stunBurst {
			t.Errorf("%d answers to a burst", n)
		}
		for i := range 100 {
			l.allow(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}))
		}
		if len(l.sources) > 16 {
			t.Errorf("%d sources remembered", len(l.sources))
		}
	})
}

func TestUsername(t *testing.T) {
	m := stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.NewSoftware("x"), stun.NewUsername("mine:theirs"), stun.Fingerprint)
	if kind, id := classify(m.Raw); kind != stunRequest || id != m.TransactionID {
		t.Errorf("classified %v, %x", kind, id)
	}
	if got := string(username(m.Raw)); got != "mine" {
		t.Errorf("fragment %q", got)
	}
	for i := range m.Raw {
		if kind, _ := classify(m.Raw[:i]); kind != stunOther {
			t.Errorf("%d of %d bytes are a message", i, len(m.Raw))
		}
		m.Raw[i] ^= 1
		if kind, _ := classify(m.Raw); kind != stunOther {
			t.Errorf("with another byte %d it is a message", i)
		}
		m.Raw[i] ^= 1
	}
	// A check has a fingerprint; who asks for its address need not have one.
	if kind, _ := classify(stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.NewUsername("mine:theirs")).Raw); kind != stunOther {
		t.Error("a check without a fingerprint is a message")
	}
	if kind, _ := classify(stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw); kind != stunRequest {
		t.Error("a request without a fingerprint is none")
	}
}

func FuzzSTUN(f *testing.F) {
	f.Add(stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.NewUsername("mine:theirs"), stun.Fingerprint).Raw)
	f.Add(stun.MustBuild(stun.TransactionID, stun.BindingSuccess, &stun.XORMappedAddress{IP: []byte{192, 0, 2, 1}, Port: 7}).Raw)
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, _ := classify(b)
		if kind == stunOther {
			return
		}
		username(b)
		mappedAddress(b)
		hasUseCandidate(b)
	})
}
