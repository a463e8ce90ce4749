package pipe

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/wire"
)

// copier is somebody beside the way of two peers: it sees all that they send,
// sends copies from an address of its own, faster than the network delivers the
// packets themselves, and forwards what is sent to that address. It can drop
// nothing but that, and spoof no address.
type copier struct {
	a, b    *host
	x       netip.AddrPort
	fast    time.Duration
	data    bool // it copies and forwards data too, not CTRL only
	black   bool // it drops what is sent to it
	loss    float64
	r       *rand.Rand
	through int // datagrams of data sent to it
}

// carry is the network's drop.
func (c *copier) carry(from, to netip.AddrPort, d []byte) bool {
	other := map[netip.AddrPort]*host{c.a.s.addr: c.b, c.b.s.addr: c.a}
	isData := d[0] <= wire.TypeData6
	if to == c.x {
		if isData {
			c.through++
		}
		if h := other[from]; h != nil && !c.black && (c.data || !isData) {
			h.s.deliver(c.x, bytes.Clone(d), len(d), c.fast, 0)
		}
		return true
	}
	for _, h := range other {
		if to == h.s.addr && !c.black && (c.data || !isData) {
			h.s.deliver(c.x, bytes.Clone(d), len(d), c.fast, 0)
		}
	}
	return c.r.Float64() < c.loss
}

// Who forwards copies faster than the way does never gets the traffic, as long as
// the way itself is good: late copies on it prove that it lives. And where a loss
// there lets it through for once, the way gets it back.
func TestFasterCopier(t *testing.T) {
	latencies := []time.Duration{25 * time.Millisecond, 11 * time.Millisecond, 250 * time.Millisecond}
	if testing.Short() {
		latencies = latencies[:1]
	}
	for _, latency := range latencies {
		for _, loss := range []float64{0, 0.2} {
			for _, talks := range []string{"both", "a", "b"} {
				for _, data := range []bool{true, false} {
					t.Run(fmt.Sprintf("%v/%v/%s/data=%v", latency, loss, talks, data), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) { fasterCopier(t, latency, loss, talks, data) })
					})
				}
			}
		}
	}
}

func fasterCopier(t *testing.T, latency time.Duration, loss float64, talks string, data bool) {
	n := newNetwork(latency)
	a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
	c := &copier{a: a, b: b, x: netip.MustParseAddrPort("203.0.113.66:666"), fast: 10 * time.Millisecond, data: data, r: rand.New(rand.NewPCG(7, 8))}
	n.sender(c.x.String(), a.Endpoint)
	pa, pb := connect(t, a, b)
	send(pa, packet(100))
	<-pb.Ready()
	settle(3 * time.Second)
	c.loss = loss
	n.setDrop(c.carry)
	diverted, seen := 0, false
	var i uint64
	talk := func() {
		i++
		if talks != "b" {
			sendNumber(pa, i)
		}
		if talks != "a" {
			sendNumber(pb, i)
		}
		settle(50 * time.Millisecond)
		for _, p := range []*Pipe{pa, pb} {
			if p.paths.best.Load().Remote == c.x {
				diverted++
			}
			if p.find(p.paths.best.Load().Local, c.x) != nil {
				seen = true
			}
		}
	}
	const rounds = 2000 // 100 s: past consent, and the measuring of paths
	for range rounds {
		talk()
	}
	if !seen {
		t.Fatal("the copier was not noticed: the test does not attack")
	}
	if loss == 0 && (diverted > 0 || c.through > 0) {
		t.Errorf("the traffic went to the copier %d times of %d, %d datagrams", diverted, 2*rounds, c.through)
	}
	if diverted > 2*rounds/20 { // each loss lets it through until the next packet
		t.Errorf("with loss the traffic went to the copier %d times of %d", diverted, 2*rounds)
	}
	// Now it drops what it gets. Nothing is missed but what the way loses.
	n.dropping.Lock()
	c.black, c.loss = true, 0
	n.dropping.Unlock()
	settle(2 * time.Second)
	first := i + 1
	for range 100 {
		talk()
	}
	settle(2 * time.Second)
	for to, h := range map[string]*host{"a": b, "b": a} { // who talks, and who hears
		if talks != "both" && talks != to {
			continue
		}
		missed := 0
		for k := first; k <= i; k++ {
			if h.r.seen[k] == 0 {
				missed++
			}
		}
		if missed > 0 {
			t.Errorf("%d of 100 packets of %s went to the copier, which drops them", missed, to)
		}
	}
}

// A peer that has moved is followed, though the address is a stranger's: nothing
// comes on the old path any more, not even late.
func TestStrangerIsFollowed(t *testing.T) {
	for _, latency := range []time.Duration{time.Millisecond, 25 * time.Millisecond, 250 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(latency)
			a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
			pa, pb := connect(t, a, b)
			send(pa, packet(100))
			settle(3 * time.Second)
			rebound := netip.MustParseAddrPort("198.51.100.1:77")
			n.mu.Lock()
			n.rewrite = func(from, to netip.AddrPort) (netip.AddrPort, netip.AddrPort) {
				switch {
				case from == a.s.addr:
					from = rebound
				case to == a.s.addr:
					to = elsewhere // the NAT has forgotten it
				case to == rebound:
					to = a.s.addr
				}
				return from, to
			}
			n.mu.Unlock()
			start := time.Now()
			var took time.Duration
			for i := uint64(0); took == 0 && time.Since(start) < 10*time.Second; i++ {
				sendNumber(pa, i)
				settle(10 * time.Millisecond)
				if pb.paths.best.Load().Remote == rebound {
					took = time.Since(start)
				}
			}
			if limit := 2*(2*latency) + 100*time.Millisecond; took == 0 || took > limit {
				t.Errorf("latency %v: followed after %v, more than %v", latency, took, limit)
			}
			// It has a path of its own then, that later ones are measured by.
			sendNumber(pb, 1000)
			settle(time.Second)
			if a.r.seen[1000] != 1 {
				t.Error("what is sent to the new address does not come")
			}
		})
	}
}

// A copy that is older than what had come when its path was last heard proves
// nothing, nor does one under keys of before, nor one from an unknown address.
func TestLateCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		pa, pb := connect(t, a, b)
		var old [][]byte
		n.setDrop(func(from, _ netip.AddrPort, d []byte) bool {
			if from == a.s.addr && d[0] != wire.TypeRelay {
				old = append(old, bytes.Clone(d))
			}
			return false
		})
		for range 10 {
			send(pa, packet(100))
			settle(time.Second)
		}
		n.setDrop(func(from, _ netip.AddrPort, _ []byte) bool { return from == a.s.addr })
		t1 := pb.find(b.s, a.s.addr)
		heard, life := t1.heard.Load(), pb.life.heard.Load()
		settle(time.Second)
		for _, d := range old {
			b.Receive(b.s, a.s.addr, d, len(d))
			b.Receive(b.s, elsewhere, d, len(d))
		}
		settle(time.Second)
		if t1.heard.Load() != heard || pb.life.heard.Load() != life || pb.find(b.s, elsewhere) != nil {
			t.Error("packets that were recorded and sent again count as heard")
		}
		// One that came by another path first counts for its own, once, and not for
		// the pipe; under the keys of before it does not.
		n.setDrop(nil)
		second := n.sender("192.0.2.102:1000", b.Endpoint)
		pb.AddPath(Path{second, a.s.addr})
		settle(time.Second)
		var fresh []byte
		n.setDrop(func(from, _ netip.AddrPort, d []byte) bool {
			if from == a.s.addr {
				fresh = bytes.Clone(d)
			}
			return from == a.s.addr
		})
		for _, keys := range []bool{true, false} {
			send(pa, packet(100))
			d := fresh
			b.Receive(second, a.s.addr, d, len(d))
			settle(time.Second)
			if !keys {
				pb.mu.Lock()
				pb.keys.cur = &keypair{}
				pb.mu.Unlock()
			}
			for i, want := range []bool{keys, false} {
				heard, life := t1.heard.Load(), pb.life.heard.Load()
				b.Receive(b.s, a.s.addr, d, len(d))
				if (t1.heard.Load() != heard) != want || pb.life.heard.Load() != life {
					t.Errorf("keys in use %v, copy %d: the path is heard: %v", keys, i, t1.heard.Load() != heard)
				}
				settle(time.Millisecond)
			}
		}
	})
}
