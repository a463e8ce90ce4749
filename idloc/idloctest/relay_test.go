package idloctest_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
	. "github.com/idloc/idloc/idloc/idloctest"
	"github.com/idloc/idloc/internal/yardstick"
)

var relayedMB = flag.Int("relayed-mb", 8, "MB that TestTwoSymmetricNATs sends; the target is 100")

// TestTwoSymmetricNATs: no direct path is possible; a public member forwards
// everything and sees nothing of it.
func TestTwoSymmetricNATs(t *testing.T) {
	t.Parallel()
	lab := New(t)
	earth := lab.Node("earth")
	mars, venus := lab.Node("mars", BehindNAT(Symmetric)), lab.Node("venus", BehindNAT(Symmetric))
	l, err := mars.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	// Each block of the data has this at its head.
	marker := []byte("IN THE CLEAR NOWHERE BUT AT THE TWO ENDS")
	var mu sync.Mutex
	datagrams, leaks := 0, 0
	lab.Filter(func(p Packet) bool {
		mu.Lock()
		defer mu.Unlock()
		datagrams++
		if bytes.Contains(p.Payload, marker[:16]) {
			leaks++
		}
		return true
	})
	size := *relayedMB << 20
	sum := make(chan [32]byte, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		h := sha256.New()
		io.Copy(h, c)
		sum <- [32]byte(h.Sum(nil))
	}()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := venus.Dial(ctx, "tcp", "mars.example.com:80")
	if err != nil {
		t.Fatal(err)
	}
	start, clock := time.Now(), yardstick.Start()
	defer clock.Stop()
	h := sha256.New()
	block := make([]byte, 4096)
	rng := rand.NewChaCha8([32]byte{1})
	for sent := 0; sent < size; sent += len(block) {
		rng.Read(block)
		copy(block, marker)
		h.Write(block)
		if _, err := c.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	c.Close()
	select {
	case got := <-sum:
		if got != [32]byte(h.Sum(nil)) {
			t.Error("the bytes differ")
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("the data did not arrive")
	}
	took := time.Since(start)
	p, ok := active(venus, mars)
	if !ok || p.Kind != "relayed" || p.Via != earth.ID() {
		t.Errorf("path %+v", p)
	}
	r := earth.Status().Self.Relay
	if r.Bindings < 1 || r.Bytes < uint64(size) {
		t.Errorf("the relay counts %+v", r)
	}
	// On a machine whose processors others have, a pipe may be silent for so long
	// that another one is made, with a binding of its own.
	if r.Bindings > 1 && took < 2*clock.Elapsed() {
		t.Errorf("the pipe came up %d times", r.Bindings)
	}
	mu.Lock()
	defer mu.Unlock()
	if leaks > 0 || datagrams < size/1500 {
		t.Errorf("%d of %d datagrams on the network can be read", leaks, datagrams)
	}
	t.Logf("%d MB in %v, %.1f MB/s; the relay: %+v", *relayedMB, took.Round(time.Millisecond), float64(size)/1e6/took.Seconds(), r)
}

// TestRelayOnlyHidesAddresses: with PathRelayOnly no datagram goes between
// the two, though both are public.
func TestRelayOnlyHidesAddresses(t *testing.T) {
	t.Parallel()
	lab := New(t)
	lab.Node("earth")
	mars := lab.Node("mars")
	venus := lab.Node("venus", Config(func(c *idloc.Config) { c.Paths = idloc.PathRelayOnly }))
	echo(t, mars)
	hidden := venus.Addrs()[0]
	var mu sync.Mutex
	between, named := 0, 0
	seen, stop := context.WithCancel(t.Context())
	defer stop()
	events := mars.Watch(seen)
	go func() {
		for e := range events {
			if e.Kind == idloc.EventCandidates && e.Peer == venus.ID() && bytes.Contains([]byte(e.Detail), []byte("remote host")) {
				mu.Lock()
				named++
				mu.Unlock()
			}
		}
	}()
	lab.Filter(func(p Packet) bool {
		mu.Lock()
		defer mu.Unlock()
		// Pipe datagrams and checks; the peer protocol may connect, and who is
		// connected may be asked for a mapped address, which is shorter.
		if p.From == mars.Host && p.Dst.Addr() == hidden && (p.Payload[0] < 4 && len(p.Payload) > 60 || p.Payload[0]>>6 == 2) {
			between++
		}
		return true
	})
	if err := call(t.Context(), venus, mars, []byte("who am I")); err != nil {
		t.Fatal(err)
	}
	if p, ok := active(mars, venus); !ok || p.Kind != "relayed" || p.Remote.Addr() == hidden {
		t.Errorf("mars sees %+v", p)
	}
	mu.Lock()
	defer mu.Unlock()
	if between > 0 || named > 0 {
		t.Errorf("%d datagrams to the hidden address, named %d times", between, named)
	}
}

// TestNobodyRelays: where no member forwards, or the dialler wants direct
// paths only, the dial says what failed.
func TestNobodyRelays(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ earth, venus func(*idloc.Config) }{
		"NoRelay":        {earth: func(c *idloc.Config) { c.NoRelay = true }},
		"PathDirectOnly": {venus: func(c *idloc.Config) { c.Paths = idloc.PathDirectOnly }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nop := func(*idloc.Config) {}
			if c.earth == nil {
				c.earth = nop
			}
			if c.venus == nil {
				c.venus = nop
			}
			lab := New(t)
			earth := lab.Node("earth", Config(c.earth))
			lab.Node("moon") // forwards offers, but its invitation lets it relay nothing
			mars := lab.Node("mars", BehindNAT(Symmetric))
			venus := lab.Node("venus", BehindNAT(Symmetric), Config(c.venus))
			echo(t, mars)
			// Without a deadline a Dial that finds no way ends by itself.
			conn, err := venus.Dial(t.Context(), "tcp", net.JoinHostPort(mars.Name(), echoPort))
			if err == nil {
				conn.Close()
			}
			var stage *idloc.StageError
			if !errors.As(err, &stage) {
				t.Errorf("%v, want a *StageError", err)
			}
			if r := earth.Status().Self.Relay; r.Packets != 0 {
				t.Errorf("relayed %+v", r)
			}
		})
	}
}

// TestRelayDies: the member that carries a live connection relays no more;
// another one takes over.
func TestRelayDies(t *testing.T) {
	t.Parallel()
	lab := New(t)
	earth := lab.Node("earth")
	moon := lab.Node("moon", Invited(idloc.InviteOptions{Name: "moon", Relay: true}))
	mars, venus := lab.Node("mars", BehindNAT(Symmetric)), lab.Node("venus", BehindNAT(Symmetric))
	// Both have met the moon, so that they can name it.
	echo(t, moon)
	for _, n := range []*Node{mars, venus} {
		if err := call(t.Context(), n, moon, []byte("hello")); err != nil {
			t.Fatal(err)
		}
	}
	s := startStream(t, venus, mars, 80)
	p, ok := active(venus, mars)
	if !ok || p.Kind != "relayed" {
		t.Fatalf("path %+v", p)
	}
	relay := earth
	if p.Via == moon.ID() {
		relay = moon
	}
	stall := s.disturb(t, func() {
		lab.Filter(func(q Packet) bool { return q.From != relay.Host || q.Payload[0]>>6 != 2 }) // no pipe datagrams
	})
	s.end(t)
	if now, _ := active(venus, mars); now.Kind != "relayed" || now.Via == p.Via {
		t.Errorf("path %+v after %+v", now, p)
	}
	t.Logf("the stream stood still for %v", stall)
}

// TestHostileCandidates: a member names a victim in every offer; the victim
// sees few checks and no data.
func TestHostileCandidates(t *testing.T) {
	t.Parallel()
	lab := New(t)
	lab.Node("earth")
	mars := lab.Node("mars", BehindNAT(PortRestricted))
	victim := lab.Host("victim")
	at := victim.Addrs()[0]
	// The attacker's machine says that the victim's address is its own: it
	// has an interface with it, behind a box where it means nothing.
	attacker := lab.Node("attacker", BehindNAT(PortRestricted))
	attacker.Host.Claim(at)
	attacker.NetworkChanged()
	if at := attacker.Status().Self.Addrs; len(at) != 2 {
		t.Fatalf("the attacker's addresses: %v", at)
	}
	echo(t, mars)
	var stun, quic, data atomic.Int32
	lab.Filter(func(p Packet) bool {
		if p.Dst.Addr() == at {
			switch {
			case p.Payload[0] < 4:
				stun.Add(1)
			case p.Payload[0]&0x40 != 0:
				quic.Add(1) // a member dials what another says is its address
			default:
				data.Add(1)
			}
		}
		return true
	})
	if err := call(t.Context(), attacker, mars, []byte("x")); err != nil {
		t.Fatal(err)
	}
	for tick, n := time.Tick(250*time.Millisecond), 0; n < 20; n++ {
		attacker.NetworkChanged() // another offer
		<-tick
	}
	if victim.Received().Packets == 0 {
		t.Error("nothing was sent to the victim: the test tests nothing")
	}
	t.Logf("the victim got %d STUN packets, %d of QUIC dials, %d of pipes", stun.Load(), quic.Load(), data.Load())
	if stun.Load() > 128 || quic.Load() > 128 || data.Load() > 0 {
		t.Error("want ≤128 STUN packets and no data")
	}
}
