package socket

import (
	"net"
	"net/netip"
	"testing"
)

func TestKindByName(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		flags net.Flags
		want  LinkKind
	}{
		{"eth0", 0, LinkOrdinary},
		{"enp3s0", 0, LinkOrdinary},
		{"wlan0", 0, LinkOrdinary},
		{"bond0", 0, LinkOrdinary},
		{"br0", 0, LinkOrdinary},
		{"br-lan", 0, LinkOrdinary}, // OpenWrt's LAN
		{"br-3f2a9c01d4e5", 0, LinkBridge},
		{"docker0", 0, LinkBridge},
		{"docker_gwbridge", 0, LinkBridge},
		{"virbr0", 0, LinkBridge},
		{"cni0", 0, LinkBridge},
		{"vethd3f1a2b", 0, LinkBridge},
		{"vEthernet (Default Switch)", 0, LinkBridge},
		{"bridge100", 0, LinkBridge},
		{"bridge0", 0, LinkOrdinary},
		{"vboxnet0", 0, LinkHost},
		{"VirtualBox Host-Only Ethernet Adapter", 0, LinkHost},
		{"dummy0", 0, LinkHost},
		{"tun0", 0, LinkTunnel},
		{"utun4", 0, LinkTunnel},
		{"wg0", 0, LinkTunnel},
		{"eth1", net.FlagPointToPoint, LinkTunnel},
		{"lo", net.FlagLoopback, LinkLoopback},
		{"", 0, LinkOrdinary},
	} {
		if got := kindByName(tt.name, tt.flags); got != tt.want {
			t.Errorf("%q is %v, want %v", tt.name, got, tt.want)
		}
	}
}

// On loopback every socket reaches all of loopback, and nothing else.
func TestReachesOnLoopback(t *testing.T) {
	t.Parallel()
	p, err := Listen(Config{Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c := p.Conns()[0]
	if i := c.Interface(); i.Kind != LinkLoopback || i.Name == "" || !i.Net.Contains(c.LocalAddr().Addr()) {
		t.Errorf("interface %+v", i)
	}
	if !c.Reaches(netip.MustParseAddr("127.0.0.2")) || c.Reaches(netip.MustParseAddr("192.0.2.1")) || c.Reaches(netip.MustParseAddr("::1")) || c.Uplink() {
		t.Error("loopback reaches more or less than itself")
	}
}
