package nat

import (
	"net/netip"
	"testing"
	"time"
)

func port(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// TestTranslation: what the answers of servers say of the translation before a port.
func TestTranslation(t *testing.T) {
	t.Parallel()
	now := time.Now()
	const own, public = "192.168.1.2:4000", "20.0.0.9:4000"
	seen := func(local, by, as string, ago time.Duration) Probe {
		return Probe{Addr: port(by), Local: port(local), By: "STUN", Heard: true, Seen: port(as), At: now.Add(-ago)}
	}
	silent := Probe{Addr: port("20.0.0.7:1"), Local: port(own), By: "STUN", At: now}
	for _, c := range []struct {
		what string
		all  []Probe
		want string
	}{
		{"nobody was asked", nil, ""},
		{"nobody answers", []Probe{silent}, ""},
		{"a dial tells nothing", []Probe{{Addr: port("20.0.0.7:1"), By: "QUIC", Heard: true, At: now}}, ""},
		{"one sees the own address", []Probe{seen(public, "20.0.0.1:1", public, 0)}, "none"},
		{"one sees another", []Probe{seen(own, "20.0.0.1:1", "20.0.0.9:7", 0), silent}, "translated"},
		{"two see one", []Probe{seen(own, "20.0.0.1:1", "20.0.0.9:7", 0), seen(own, "20.0.0.2:1", "20.0.0.9:7", 0)}, "endpoint-independent"},
		{"two see two", []Probe{seen(own, "20.0.0.1:1", "20.0.0.9:7", 0), seen(own, "20.0.0.2:1", "20.0.0.9:8", 0)}, "endpoint-dependent"},
		{"a neighbour sees what is before the NAT", []Probe{seen(own, "192.168.1.3:1", own, 0), seen(own, "20.0.0.2:1", "20.0.0.9:8", 0)}, "translated"},
		{"only neighbours were asked", []Probe{seen(own, "192.168.1.3:1", own, 0), seen(own, "192.168.1.4:1", own, 0)}, "none"},
		{"the NAT has restarted since", []Probe{seen(own, "20.0.0.1:1", "20.0.0.9:7", time.Minute), seen(own, "20.0.0.2:1", "20.0.0.9:8", 0)}, "translated"},
		{"of two sockets the worse", []Probe{seen("[2a00::1]:4000", "[2a00::2]:1", "[2a00::1]:4000", 0), seen(own, "20.0.0.2:1", "20.0.0.9:8", 0)}, "translated"},
	} {
		if got := Translation(c.all); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

func TestUDPVerdict(t *testing.T) {
	t.Parallel()
	now := time.Now()
	heard := Probe{Heard: true, At: now.Add(-time.Minute)}
	old := Probe{Heard: true, At: now.Add(-2 * probesFresh)}
	silent, unsent := Probe{At: now}, Probe{At: now, Err: "network is unreachable"}
	for _, c := range []struct {
		what      string
		all       []Probe
		connected bool
		want      string
	}{
		{"nobody to send to", nil, false, ""},
		{"a member is connected", []Probe{silent}, true, UDPWorks},
		{"one answers", []Probe{silent, heard, unsent}, false, UDPWorks},
		{"one has answered long ago", []Probe{old, silent}, false, UDPSilent},
		{"nobody answers", []Probe{silent, unsent}, false, UDPSilent},
		{"nothing is sent", []Probe{unsent}, false, UDPUnsent},
	} {
		if got := UDP(c.all, c.connected, now); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

// TestProbesAreBounded: the oldest makes room, and a newer result takes the
// place of an older.
func TestProbesAreBounded(t *testing.T) {
	t.Parallel()
	s := NewProbes()
	for i := range 3 * maxProbes {
		a := netip.AddrPortFrom(netip.AddrFrom4([4]byte{20, 0, 0, byte(i)}), 4000)
		s.Note(Probe{Addr: a, By: "QUIC"})
		s.NoteConnection(a)
	}
	all := s.List()
	if len(all) != maxProbes {
		t.Errorf("%d are kept, want %d", len(all), maxProbes)
	}
	for _, p := range all {
		if !p.Heard {
			t.Errorf("%+v answered later", p)
		}
	}
	s.NoteConnection(port("20.9.9.9:1"))
	for _, p := range s.List() {
		if p.Addr == port("20.9.9.9:1") {
			t.Error("a connection that stands has crowded out another result")
		}
	}
}
