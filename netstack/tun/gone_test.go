package tun

import (
	"net/netip"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/yardstick"
)

// To expect many resets takes time that grows with their number, not its square.
func TestExpectMany(t *testing.T) {
	var r resets
	took := yardstick.Start()
	peer := netip.MustParseAddr("198.18.0.2")
	for i := range uint16(16384) {
		r.expect(socket{netip.AddrPortFrom(netip.MustParseAddr("198.18.0.1"), 80), netip.AddrPortFrom(peer, 1024+i)})
	}
	d := took.Stop()
	t.Log(d)
	if d > 500*time.Millisecond {
		t.Errorf("%v for 16,384 connections", d)
	}
}
