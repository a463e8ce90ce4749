package idloctest_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/logging"
	"github.com/pion/turn/v3"

	"github.com/idloc/idloc/idloc"
	. "github.com/idloc/idloc/idloc/idloctest"
)

const turnPort = 3478

// turnServer runs pion's TURN server, which is nobody's client here, on a
// host of the lab, and returns the URL of it for a user with an awkward name.
func turnServer(t testing.TB, h *Host) (url string, stop func()) {
	t.Helper()
	at := h.Addrs()[0]
	c, err := h.Net().ListenUDP("udp", &net.UDPAddr{IP: at.AsSlice(), Port: turnPort})
	if err != nil {
		t.Fatal(err)
	}
	s, err := turn.NewServer(turn.ServerConfig{
		Realm: "lab", LoggerFactory: &logging.DefaultLoggerFactory{DefaultLogLevel: logging.LogLevelDisabled},
		AuthHandler: func(user, realm string, _ net.Addr) ([]byte, bool) {
			return turn.GenerateAuthKey("mars@home", realm, "a:b/c"), user == "mars@home"
		},
		PacketConnConfigs: []turn.PacketConnConfig{{PacketConn: c, RelayAddressGenerator: &turn.RelayAddressGeneratorStatic{
			RelayAddress: at.AsSlice(), Address: at.String(), Net: h.Net(),
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := false
	stop = func() {
		if !ended {
			ended = true
			_ = s.Close()
		}
	}
	t.Cleanup(stop)
	return fmt.Sprintf("turn:mars%%40home:a%%3Ab%%2Fc@%v:%d", at, turnPort), stop
}

func withTURN(url string) NodeOption {
	return Config(func(c *idloc.Config) { c.ICEServers = []string{url} })
}

func paths(p idloc.PathPolicy) NodeOption {
	return Config(func(c *idloc.Config) { c.Paths = p })
}

// noRelay: forwards offers, but relays nothing.
var noRelay = paths(idloc.PathRelayOnly)

// lent waits until a node has the address of its TURN server.
func lent(t testing.TB, n *Node) {
	t.Helper()
	await(t, n.Name()+" has a TURN address", 10*time.Second, func() bool {
		s := n.Status().Self.TURN
		return len(s) > 0 && s[0].Addr.IsValid()
	})
}

// TestTURN: where no direct path is possible and no member relays, the TURN
// server of either side carries the pipe.
func TestTURN(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what        string
		venus, mars func(earth *Node, url string) []NodeOption
	}{
		{"the caller's", func(_ *Node, u string) []NodeOption { return []NodeOption{BehindNAT(Symmetric), withTURN(u)} },
			func(*Node, string) []NodeOption { return []NodeOption{BehindNAT(Symmetric)} }},
		{"the callee's", func(*Node, string) []NodeOption { return []NodeOption{BehindNAT(Symmetric)} },
			func(_ *Node, u string) []NodeOption { return []NodeOption{BehindNAT(Symmetric), withTURN(u)} }},
		{"both sides'", func(_ *Node, u string) []NodeOption { return []NodeOption{BehindNAT(Symmetric), withTURN(u)} },
			func(_ *Node, u string) []NodeOption { return []NodeOption{BehindNAT(Symmetric), withTURN(u)} }},
		{"UDP to the server only", func(earth *Node, u string) []NodeOption {
			return []NodeOption{ReachesOnly(earth.Host), withTURN(u)}
		}, func(*Node, string) []NodeOption { return []NodeOption{BehindNAT(PortRestricted)} }},
		{"relays only", func(_ *Node, u string) []NodeOption {
			return []NodeOption{withTURN(u), paths(idloc.PathRelayOnly)}
		}, func(*Node, string) []NodeOption { return nil }},
		{"relays only, the callee's", func(*Node, string) []NodeOption { return nil }, func(_ *Node, u string) []NodeOption {
			return []NodeOption{withTURN(u), paths(idloc.PathRelayOnly)}
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			lab := New(t)
			var opts []NodeOption
			if !strings.HasPrefix(c.what, "UDP") {
				opts = append(opts, noRelay)
			}
			earth := lab.Node("earth", opts...)
			lab.Node("moon") // forwards offers; its invitation lets it relay nothing
			url, _ := turnServer(t, earth.Host)
			venus, mars := lab.Node("venus", c.venus(earth, url)...), lab.Node("mars", c.mars(earth, url)...)
			for _, n := range []*Node{venus, mars} {
				if len(n.Status().Self.TURN) > 0 {
					lent(t, n)
				}
			}
			// Pipe datagrams and checks, past the server; a plain question for a
			// mapped address, which members ask each other, is shorter. Earth, which
			// forwards the offers, has no pipes: where it may relay it would be asked
			// to after 300 ms, and be first on a busy machine.
			var between atomic.Int32
			port := earth.Status().Self.Port
			ends := map[*Host]netip.Addr{venus.Host: mars.Addrs()[0], mars.Host: venus.Addrs()[0]}
			lab.Filter(func(p Packet) bool {
				if p.Dst.Addr() == ends[p.From] && (p.Payload[0] < 4 && len(p.Payload) > 60 || p.Payload[0]>>6 == 2) {
					between.Add(1)
				}
				return p.From != earth.Host || p.Src.Port() != port || p.Payload[0]>>6 != 2
			})
			echo(t, mars)
			start := time.Now()
			if err := call(t.Context(), venus, mars, bytes.Repeat([]byte("through a server "), 20000)); err != nil {
				t.Fatal(err)
			}
			t.Logf("340 kB there and back after %v", time.Since(start).Round(time.Millisecond))
			for _, pair := range [][2]*Node{{venus, mars}, {mars, venus}} {
				if p, _ := active(pair[0], pair[1]); p.Kind != "turn" || !p.Via.IsZero() {
					t.Errorf("%s: path %+v", pair[0].Name(), p)
				}
			}
			ping, err := venus.Ping(t.Context(), mars.Name())
			if err != nil || ping.Path.Kind != "turn" {
				t.Errorf("Ping: %+v, %v", ping, err)
			}
			if strings.HasPrefix(c.what, "relays only") && between.Load() > 0 {
				t.Errorf("%d datagrams went past the server", between.Load())
			}
		})
	}
}

// TestTURNGivesWay: with a direct path, and with PathDirectOnly, nothing of a
// pipe goes through a server.
func TestTURNGivesWay(t *testing.T) {
	t.Parallel()
	lab := New(t)
	lab.Node("earth", noRelay)
	forwarder := lab.Node("forwarder")
	url, _ := turnServer(t, lab.Host("server"))
	venus := lab.Node("venus", BehindNAT(PortRestricted), withTURN(url))
	mars := lab.Node("mars", BehindNAT(PortRestricted), withTURN(url))
	moon := lab.Node("moon", BehindNAT(Symmetric), withTURN(url), paths(idloc.PathDirectOnly))
	lent(t, venus)
	lent(t, mars)
	if s := moon.Status().Self.TURN; len(s) > 0 {
		t.Errorf("a PathDirectOnly node has %+v", s)
	}
	echo(t, mars)
	echo(t, forwarder)
	if err := call(t.Context(), venus, mars, []byte("x")); err != nil {
		t.Fatal(err)
	}
	// With the second offer, if the first checks run out of their time.
	await(t, "the path is direct", 30*time.Second, func() bool { p, _ := active(venus, mars); return p.Kind == "direct" })
	if err := call(t.Context(), moon, forwarder, []byte("x")); err != nil {
		t.Error(err)
	}
	var stage *idloc.StageError
	if _, err := moon.Dial(t.Context(), "tcp", net.JoinHostPort(mars.Name(), echoPort)); !errors.As(err, &stage) || stage.Stage != idloc.StageCheck {
		t.Errorf("direct paths only, symmetric to port-restricted: %v", err)
	}
}

// TestPoliciesThatContradict: who hides its addresses shows none to a caller
// that takes nothing else, and the call fails by that.
func TestPoliciesThatContradict(t *testing.T) {
	t.Parallel()
	lab := New(t)
	lab.Node("earth")
	mars := lab.Node("mars", paths(idloc.PathRelayOnly))
	venus := lab.Node("venus", paths(idloc.PathDirectOnly))
	echo(t, mars)
	var between atomic.Int32
	ends := map[*Host]netip.Addr{venus.Host: mars.Addrs()[0], mars.Host: venus.Addrs()[0]}
	lab.Filter(func(p Packet) bool {
		if p.Dst.Addr() == ends[p.From] && (p.Payload[0] < 4 && len(p.Payload) > 60 || p.Payload[0]>>6 == 2) {
			between.Add(1)
		}
		return true
	})
	_, err := venus.Dial(t.Context(), "tcp", net.JoinHostPort(mars.Name(), echoPort))
	if !errors.Is(err, idloc.ErrUnreachable) {
		t.Errorf("call: %v", err)
	}
	if between.Load() > 0 {
		t.Errorf("%d datagrams between them", between.Load())
	}
}

// TestTURNServerDies: the server that carries a live connection ends; the
// connection goes on through a member.
func TestTURNServerDies(t *testing.T) {
	t.Parallel()
	lab := New(t)
	earth := lab.Node("earth")
	url, stop := turnServer(t, lab.Host("server"))
	// On a busy machine the member might be first: it has no part in the
	// beginning.
	lab.Filter(func(p Packet) bool { return p.From != earth.Host || p.Payload[0]>>6 != 2 })
	venus := lab.Node("venus", BehindNAT(Symmetric), withTURN(url))
	mars := lab.Node("mars", BehindNAT(Symmetric))
	lent(t, venus)
	s := startStream(t, venus, mars, 80)
	if p, _ := active(venus, mars); p.Kind != "turn" {
		t.Fatalf("path %+v", p)
	}
	stall := s.disturb(t, func() { lab.Filter(nil); stop() })
	s.end(t)
	if p, _ := active(venus, mars); p.Kind != "relayed" {
		t.Errorf("path %+v", p)
	}
	t.Logf("the stream stood still for %v", stall)
}

// TestTURNRefuses: Status says why there is no address.
func TestTURNRefuses(t *testing.T) {
	t.Parallel()
	lab := New(t)
	earth := lab.Node("earth")
	turnServer(t, earth.Host)
	at := netip.AddrPortFrom(earth.Addrs()[0], turnPort)
	venus := lab.Node("venus", withTURN(fmt.Sprintf("turn:mars%%40home:wrong@%v", at)))
	await(t, "the refusal is told", 10*time.Second, func() bool {
		s := venus.Status().Self.TURN
		return len(s) == 1 && strings.Contains(s[0].Error, "error 4") && !strings.Contains(s[0].Server+s[0].Error, "wrong")
	})
}
