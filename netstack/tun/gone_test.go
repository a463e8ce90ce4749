package tun

import (
	"net/netip"
	"testing"
	"time"
)

// To expect many resets takes time that grows with their number, not its square.
func TestExpectMany(t *testing.T) {
	var r resets
	begin := time.Now()
	peer := netip.MustParseAddr("198.18.0.2")
	for i := range uint16(16384) {
		r.expect(socket{netip.AddrPortFrom(netip.MustParseAddr("198.18.0.1"), 80), netip.AddrPortFrom(peer, 1024+i)})
	}
	t.Log(time.Since(begin))
	if d := time.Since(begin); d > 500*time.Millisecond {
		t.Errorf("%v for 16,384 connections", d)
	}
}
