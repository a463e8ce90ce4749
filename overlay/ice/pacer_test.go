package ice

import (
	"net/netip"
	"testing"
	"time"
)

var here, elsewhere = netip.MustParseAddrPort("10.0.0.1:4000"), netip.MustParseAddrPort("10.1.0.1:4000")

func TestPacerSpacesOneTarget(t *testing.T) {
	t.Parallel()
	p, now := NewPacer(), time.Now()
	a, b := netip.MustParseAddrPort("192.0.2.1:4000"), netip.MustParseAddrPort("192.0.2.1:4001")
	if !p.Allow(here, a, now) || p.Allow(here, a, now.Add(targetGap-1)) || !p.Allow(here, b, now) || !p.Allow(here, a, now.Add(targetGap)) {
		t.Error("checks of one target are not spaced by 50 ms, or another target waits for it")
	}
}

// A socket waits for no other to check the same target; the target's bound is
// one for both.
func TestPacerSocketsDoNotWait(t *testing.T) {
	t.Parallel()
	p, now := NewPacer(), time.Now()
	to := netip.MustParseAddrPort("192.0.2.1:4000")
	if !p.Allow(here, to, now) || !p.Allow(elsewhere, to, now) || p.Allow(elsewhere, to, now) {
		t.Error("two sockets share the pace towards a target, or have none")
	}
	sent := 2
	for i := range 1000 {
		for _, from := range []netip.AddrPort{here, elsewhere} {
			if p.Allow(from, to, now.Add(time.Duration(i+1)*targetGap)) {
				sent++
			}
		}
	}
	if sent > victimBurst+6 {
		t.Errorf("%d checks of two sockets", sent)
	}
}

// Offers without end that name one host, on every port: it sees the bound.
func TestPacerSparesAVictim(t *testing.T) {
	t.Parallel()
	p, start := NewPacer(), time.Now()
	host := netip.MustParseAddr("192.0.2.7")
	sent := 0
	for ms := range 60_000 {
		if p.Allow(here, netip.AddrPortFrom(host, uint16(1024+ms)), start.Add(time.Duration(ms)*time.Millisecond)) {
			sent++
		}
	}
	if sent < victimBurst || sent > victimBurst+6 {
		t.Errorf("a host that never answered saw %d checks in a minute, want %d to %d", sent, victimBurst, victimBurst+6)
	}
	other := netip.MustParseAddrPort("192.0.2.8:4000")
	if !p.Allow(here, other, start) {
		t.Error("another host waits for it")
	}
	p.NoteAnswer(host, start.Add(time.Minute))
	for i := range 1000 {
		if !p.Allow(here, netip.AddrPortFrom(host, 4000), start.Add(time.Minute+time.Duration(i)*time.Millisecond)) {
			t.Fatal("a host that answered is still held back")
		}
	}
}

func TestPacerForgets(t *testing.T) {
	t.Parallel()
	p, now := NewPacer(), time.Now()
	at := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), 4000)
	}
	for i := range pacedMax {
		if !p.Allow(here, at(i), now) {
			t.Fatalf("target %d refused", i)
		}
	}
	if p.Allow(here, at(pacedMax), now) {
		t.Error("more targets than the bound")
	}
	later := now.Add(victimRefill)
	if !p.Allow(here, at(pacedMax), later) {
		t.Error("old targets are not forgotten")
	}
	if len(p.victims) > 1 {
		t.Errorf("%d addresses remembered", len(p.victims))
	}
}
