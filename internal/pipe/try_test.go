package pipe

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/wire"
)

// A path that has shown only n bytes carries three times as many until the peer
// answers on it, and is forgotten if it never does. What is beyond that waits for
// the answer, within bounds.
func TestTry(t *testing.T) {
	for _, answers := range []bool{true, false} {
		t.Run(fmt.Sprint(answers), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(10 * time.Millisecond)
				a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
				sa, sb := sessions(t, a, b)
				if _, err := b.Up(sb, b.path(a)); err != nil {
					t.Fatal(err)
				}
				var large atomic.Int32
				n.setDrop(func(_, to netip.AddrPort, d []byte) bool {
					if len(d) > 1000 && d[0] <= wire.TypeData6 {
						large.Add(1)
					}
					return !answers && to == b.s.addr
				})
				if _, err := b.Try(sb, b.path(a), 100); !errors.Is(err, ErrNoPath) {
					t.Errorf("Try by the responder: %v", err)
				}
				if _, err := a.Try(sa, Path{Local: a.s}, 100); !errors.Is(err, ErrNoPath) {
					t.Errorf("Try without an address: %v", err)
				}
				p, err := a.Try(sa, a.path(b), 100)
				if err != nil {
					t.Fatal(err)
				}
				for range 100 {
					_ = send(p, packet(1000))
				}
				if sent := large.Load(); sent > 0 {
					t.Errorf("%d datagrams of 1,000 bytes for 100 bytes that came", sent)
				}
				settle(10 * time.Second)
				if up := p.Status().Up; up != answers {
					t.Errorf("up is %v", up)
				}
				want := 0
				if answers {
					want = earlyDatagrams
				}
				if sent := int(large.Load()); sent != want {
					t.Errorf("%d datagrams were sent in the end, want %d", sent, want)
				}
				if drops := p.Status().Drops["no path"]; drops < uint64(100-want) {
					t.Errorf("%d drops counted of 100, %d sent", drops, want)
				}
				if again, err := a.Try(sa, a.path(b), 100); answers && (err != nil || again != p) {
					t.Errorf("Try again: %v", err)
				}
			})
		})
	}
}

// turnSender is a sender whose address a TURN server lends.
type turnSender struct{ *sender }

func (turnSender) TURN() {}

// Paths through TURN servers of either side are known for what they are, also
// when the peer tells late.
func TestTURNPaths(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		sa, sb := sessions(t, a, b)
		pb, err := b.Up(sb, b.path(a))
		if err != nil {
			t.Fatal(err)
		}
		ours := Path{turnSender{a.s}, b.s.addr}
		pa, err := a.Up(sa, ours)
		if err != nil {
			t.Fatal(err)
		}
		if !pa.TURN(ours) {
			t.Error("our own server's path is taken for a direct one")
		}
		if pb.TURN(b.path(a)) {
			t.Error("a direct path is taken for a server's")
		}
		if pb.TURN(Path{b.s, netip.MustParseAddrPort("192.0.2.9:9")}) {
			t.Error("a path that is not there is a server's")
		}
		for i := range 2 * maxLent { // more than are kept
			sb.Lends(netip.AddrPortFrom(netip.MustParseAddr("198.51.100.1"), uint16(1000+i)))
		}
		if pb.TURN(b.path(a)) {
			t.Error("what the peer lends elsewhere makes this path a server's")
		}
		if list := sb.lent.Load(); list == nil || len(*list) != maxLent {
			t.Errorf("%v addresses are kept, want %d", list, maxLent)
		}
		sa.Lends(b.s.addr)
		sa.Lends(b.s.addr)
		if list := sa.lent.Load(); list == nil || len(*list) != 1 {
			t.Errorf("an address that was told twice is kept as %v", list)
		}
		if !pa.TURN(ours) {
			t.Error("the path is a direct one after the peer lent its address")
		}
	})
}

// Calls on what has ended say so.
func TestEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		sa, sb := sessions(t, a, b)
		if sa.Peer() != b.id || sb.Peer() != a.id || !sa.Initiator() || sb.Initiator() || sa.ID() != sb.ID() {
			t.Error("the two sides do not agree on their session")
		}
		sa.Cancel()
		sa.Cancel()
		if _, err := a.Up(sa, a.path(b)); !errors.Is(err, ErrSession) {
			t.Errorf("Up of a cancelled session: %v", err)
		}
		sc, sd := sessions(t, a, b)
		if _, err := a.Up(sc, Path{}); !errors.Is(err, ErrNoPath) {
			t.Errorf("Up without a path: %v", err)
		}
		pa, err := a.Up(sc, a.path(b))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Up(sd, b.path(a)); err != nil {
			t.Fatal(err)
		}
		if !sc.In(pa) || sa.In(pa) {
			t.Error("the wrong session is in the pipe")
		}
		if string(pa.Chain()) != "" || pa.Remote().Pwd != testPwd {
			t.Errorf("the peer said %+v", pa.Remote())
		}
		settle(time.Second)
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		if _, err := a.NewOffer(b.id, Local{MTU: 1472}); !errors.Is(err, ErrClosed) {
			t.Errorf("NewOffer after Close: %v", err)
		}
		if err := send(pa, packet(10)); err == nil {
			t.Error("a closed pipe sends")
		}
		if _, _, err := pa.Ping(t.Context()); err == nil {
			t.Error("a closed pipe answers a Ping")
		}
		offer, err := b.NewOffer(a.id, Local{MTU: 1472})
		if err != nil {
			t.Fatal(err)
		}
		defer offer.Cancel()
		if _, err := a.ReadOffer(offer.Bytes()); !errors.Is(err, ErrClosed) {
			t.Errorf("ReadOffer after Close: %v", err)
		}
		if _, err := b.ReadOffer(offer.Bytes()); err == nil {
			t.Error("an offer of one's own is read")
		}
	})
}

// What the endpoint is made with is checked, and reasons have names.
func TestConfigAndNames(t *testing.T) {
	if _, err := NewEndpoint(Config{}); err == nil {
		t.Error("an endpoint without a key")
	}
	seen := map[string]bool{}
	for r := DropReason(1); r < dropReasons; r++ {
		if name := r.String(); name == "" || name == "unknown" || seen[name] || r.Error() != "pipe: dropped: "+name {
			t.Errorf("reason %d is %q", r, name)
		} else {
			seen[name] = true
		}
	}
	if DropReason(255).String() != "unknown" {
		t.Error("a reason that is none has a name")
	}
}
