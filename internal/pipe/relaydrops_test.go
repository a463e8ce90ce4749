package pipe

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/wire"
)

// relayPlain sends a plaintext to be relayed as it is.
func (p *Pipe) relayPlain(plain []byte) {
	b := newBatch(p, wire.TypeRelay)
	defer b.Free()
	copy(b.Room(len(plain)), plain)
	b.Seal()
	_ = b.Flush()
}

// Each datagram to be relayed that is none is counted for what it is, and does no more
// harm than that.
func TestRelayDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTriangle(t, 0)
		var last []byte
		x.n.setDrop(func(from, to netip.AddrPort, d []byte) bool {
			if from == x.a.s.addr && to == x.r.s.addr && d[0] == wire.TypeRelay {
				last = bytes.Clone(d)
			}
			return false
		})
		x.bind(t)
		atRelay, atA := x.r.Pipe(x.a.id), x.ar
		var channel uint16
		for c := range *x.ar.relay.links.Load() {
			channel = c
		}
		back := channel | wire.FromRelay
		inner := func(n int) []byte { return append([]byte{wire.TypeData4}, make([]byte, n-1)...) }
		on := func(c uint16, b []byte) []byte { return append([]byte{byte(c >> 8), byte(c)}, b...) }
		for _, tt := range []struct {
			what string
			do   func()
			p    *Pipe
			why  DropReason
		}{
			{"one bit is another", func() {
				bad := bytes.Clone(last)
				bad[len(bad)-1] ^= 1
				x.r.Receive(x.r.s, x.a.s.addr, bad, len(bad))
			}, atRelay, DropAuth},
			{"the same again", func() { x.r.Receive(x.r.s, x.a.s.addr, last, len(last)) }, atRelay, DropReplay},
			{"a channel that is none", func() { atA.relayPlain(on(channel+1, inner(wire.MinLen))) }, atRelay, DropChannel},
			{"a channel of the relay's that is none", func() { atRelay.relayPlain(on(back+1, inner(wire.MinLen))) }, atA, DropChannel},
			{"nothing to relay", func() { atA.relayPlain(on(channel, nil)) }, atRelay, DropMalformed},
			{"less than any datagram", func() { atA.relayPlain(on(channel, inner(wire.MinLen-1))) }, atRelay, DropMalformed},
			{"a relay's in a relay's", func() { atA.relayPlain(on(channel, append([]byte{wire.TypeRelay}, make([]byte, 40)...))) }, atRelay, DropMalformed},
		} {
			before := tt.p.Status().Drops
			forwarded := x.r.relays.packets.Load()
			tt.do()
			settle(100 * time.Millisecond)
			now := tt.p.Status().Drops
			for reason := DropMalformed; reason.String() != "unknown"; reason++ {
				want := uint64(0)
				if reason == tt.why {
					want = 1
				}
				if n := now[reason.String()] - before[reason.String()]; n != want {
					t.Errorf("%s: %d %v", tt.what, n, reason)
				}
			}
			if n := x.r.relays.packets.Load() - forwarded; n != 0 {
				t.Errorf("%s: %d forwarded", tt.what, n)
			}
		}
		// One that the smallest datagram fits into is forwarded.
		forwarded := x.r.relays.packets.Load()
		atA.relayPlain(on(channel, inner(wire.MinLen)))
		settle(100 * time.Millisecond)
		if n := x.r.relays.packets.Load() - forwarded; n != 1 {
			t.Errorf("the smallest: %d forwarded", n)
		}
		settle(100 * time.Millisecond)
		now := x.r.now()
		send(x.pa, packet(100))
		settle(hop)
		if heard := atRelay.paths.best.Load().heard.Load(); heard != now+int64(hop) {
			t.Errorf("what is relayed is no sign of life: heard %v ago", time.Duration(x.r.now()-heard))
		}
		settle(time.Second)
		if len(x.b.r.plain) != 1 {
			t.Errorf("after all of that %d packets come through", len(x.b.r.plain))
		}
	})
}

// A key under which too much did not open is given up with its pipe, whatever type of
// datagram was tried, and from wherever; one less changes nothing.
func TestIntegrityOfEachType(t *testing.T) {
	const limit = 20
	stranger := netip.MustParseAddrPort("203.0.113.9:9")
	for _, tt := range []struct {
		what string
		typ  byte
		from func(a *host) netip.AddrPort
	}{
		{"control", wire.TypeCtrl, func(a *host) netip.AddrPort { return a.s.addr }},
		{"pieces", wire.TypeFrag, func(a *host) netip.AddrPort { return a.s.addr }},
		{"to be relayed", wire.TypeRelay, func(a *host) netip.AddrPort { return a.s.addr }},
		{"data", wire.TypeData4, func(a *host) netip.AddrPort { return stranger }},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(10 * time.Millisecond)
			a, b, _, pb := inUse(t, n)
			settle(time.Second)
			b.limits.integrity = limit
			from := tt.from(a)
			forge := func(i int) {
				d := make([]byte, 60)
				d[0] = tt.typ
				index := pb.keys.cur.recvIndex
				d[1], d[2], d[3] = byte(index>>16), byte(index>>8), byte(index)
				d[7] = byte(i)
				b.Receive(b.s, from, d, len(d))
			}
			for i := range limit - 1 {
				forge(i)
			}
			settle(time.Millisecond)
			if pb.Err() != nil {
				t.Fatalf("%s: closed below the limit: %v", tt.what, pb.Err())
			}
			forge(limit)
			settle(time.Millisecond)
			if !errors.Is(pb.Err(), ErrIntegrity) {
				t.Errorf("%s: at the limit: %v", tt.what, pb.Err())
			}
		})
	}
}

// Of addresses that only the source of a packet speaks for, three are challenged at a
// time: a peer, or one who copies its packets, makes no more work than that.
func TestUnknownSources(t *testing.T) {
	withPaths(t, func(p *Pipe, add func(func(*path)) *path) {
		local, now := add(nil).Local, p.e.now()
		at := func(i int) Path {
			return Path{local, netip.AddrPortFrom(netip.MustParseAddr("203.0.113.1"), uint16(i))}
		}
		for i := 1; i <= 5; i++ {
			if got := p.sawUnknown(at(i), now); (got != nil) != (i <= maxUnvalidated) {
				t.Errorf("source %d has a path: %v", i, got != nil)
			}
		}
		if n := len(*p.paths.list.Load()); n != 1+maxUnvalidated {
			t.Errorf("%d paths", n)
		}
		p.find(local, at(2).Remote).validated.Store(true)
		if p.sawUnknown(at(6), now) == nil {
			t.Error("no room after one of them was found good")
		}
		if p.sawUnknown(at(7), now) != nil {
			t.Error("room for another")
		}
	})
}

// A relayed path has the addresses of its first hop, and none while that has none or is
// relayed itself; and nothing is bound through a pipe that has ended, or is bound enough.
func TestRelayedAddrs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTriangle(t, 0)
		x.bind(t)
		ask := func(what string, wantAt netip.AddrPort, wantLocal, wantRemote netip.AddrPort) {
			t.Helper()
			local, remote := x.relayedA.Addrs()
			if at := x.relayedA.Local.LocalAddr(); at != wantAt || local != wantLocal || remote != wantRemote {
				t.Errorf("%s: at %v, from %v to %v", what, at, local, remote)
			}
		}
		ask("in use", x.a.s.addr, x.a.s.addr, x.r.s.addr)
		best := x.ar.paths.best.Load()
		best.relayed.Store(true)
		ask("relayed itself", x.a.s.addr, netip.AddrPort{}, netip.AddrPort{})
		if _, err := x.ar.Bind(t.Context(), x.b.id, [16]byte{9}); !errors.Is(err, errRelayInRelay) {
			t.Errorf("Bind in a relay: %v", err)
		}
		best.relayed.Store(false)
		x.ar.paths.best.Store(nil)
		ask("without a way to the relay", netip.AddrPort{}, netip.AddrPort{}, netip.AddrPort{})
		x.ar.paths.best.Store(best)
		x.ar.mu.Lock()
		for i := len(x.ar.relay.binds); i < maxBinds; i++ {
			x.ar.relay.binds[[16]byte{7, byte(i), byte(i >> 8)}] = &bind{link: &relayLink{relay: x.ar}, try: retry{at: 1 << 62}}
		}
		x.ar.mu.Unlock()
		if _, err := x.ar.Bind(t.Context(), x.b.id, [16]byte{9}); !errors.Is(err, errManyBinds) {
			t.Errorf("one more than there may be: %v", err)
		}
		why := errors.New("enough")
		x.ar.Close(why)
		settle(time.Second)
		if _, err := x.ar.Bind(t.Context(), x.b.id, [16]byte{9}); err != why {
			t.Errorf("Bind of a pipe that has ended: %v", err)
		}
	})
}
