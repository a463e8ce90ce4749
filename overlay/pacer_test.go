package overlay

import (
	"net/netip"
	"testing"
	"time"
)

func TestPacerSpacesOneTarget(t *testing.T) {
	t.Parallel()
	p, now := newPacer(), time.Now()
	a, b := netip.MustParseAddrPort("192.0.2.1:4000"), netip.MustParseAddrPort("192.0.2.1:4001")
	if !p.allow(a, now) || p.allow(a, now.Add(targetGap-1)) || !p.allow(b, now) || !p.allow(a, now.Add(targetGap)) {
		t.Error("checks of one target are not spaced by 50 ms, or another target waits for it")
	}
}

// Offers without end that name one host, on every port: it sees the bound.
func TestPacerSparesAVictim(t *testing.T) {
	t.Parallel()
	p, start := newPacer(), time.Now()
	host := netip.MustParseAddr("192.0.2.7")
	sent := 0
	for ms := range 60_000 {
		if p.allow(netip.AddrPortFrom(host, uint16(1024+ms)), start.Add(time.Duration(ms)*time.Millisecond)) {
			sent++
		}
	}
	if sent < victimBurst || sent > 128 {
		t.Errorf("a host that never answered saw %d checks in a minute, want %d to 128", sent, victimBurst)
	}
	other := netip.MustParseAddrPort("192.0.2.8:4000")
	if !p.allow(other, start) {
		t.Error("another host waits for it")
	}
	p.answered(host, start.Add(time.Minute))
	for i := range 1000 {
		if !p.allow(netip.AddrPortFrom(host, 4000), start.Add(time.Minute+time.Duration(i)*time.Millisecond)) {
			t.Fatal("a host that answered is still held back")
		}
	}
}

func TestPacerForgets(t *testing.T) {
	t.Parallel()
	p, now := newPacer(), time.Now()
	at := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), 4000)
	}
	for i := range pacedMax {
		if !p.allow(at(i), now) {
			t.Fatalf("target %d refused", i)
		}
	}
	if p.allow(at(pacedMax), now) {
		t.Error("more targets than the bound")
	}
	later := now.Add(victimRefill)
	if !p.allow(at(pacedMax), later) {
		t.Error("old targets are not forgotten")
	}
	if len(p.victims) > 1 {
		t.Errorf("%d addresses remembered", len(p.victims))
	}
}
