package ice

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/overlay/nat"
)

// One member that answers questions is enough to tell whether the mapping depends on the
// destination: it has a second port.
func TestOneServerTellsTheMapping(t *testing.T) {
	for kind, next := range map[string]func() uint16{"endpoint-dependent": random, "endpoint-independent": nil} {
		synctest.Test(t, func(t *testing.T) {
			m := newMemory()
			m.box("10.0.0.2", "20.0.0.1", next)
			server, client := m.host(t, "eth0 20.0.0.9/24"), m.host(t, "eth0 10.0.0.2/24")
			server.demux.others.port = server.port
			at := server.port.Conns()[0].LocalAddr()
			probes := nat.NewProbes()
			mapped := nat.NewMappedAddrs(nat.MappedConfig{
				Asker: client.demux, Conns: client.port.Conns, Probes: probes,
				Servers: func() []netip.AddrPort { return []netip.AddrPort{at} },
			})
			mapped.Measure(t.Context())
			if got := nat.Translation(probes.List()); got != kind {
				t.Errorf("the mapping is %q, want %q", got, kind)
			}
			want := 1
			if next != nil {
				want = 2
			}
			if seen := mapped.Of(client.port.Conns()[0]); len(seen) != want {
				t.Errorf("%s: seen as %v", kind, seen)
			}
			// A port that nobody asks ends, and the next question opens another one.
			second := func() *socket.Conn {
				o := server.demux.others
				o.mu.Lock()
				defer o.mu.Unlock()
				return o.mine[server.port.Conns()[0]]
			}
			x := second()
			time.Sleep(10 * time.Minute)
			<-x.Closed()
			synctest.Wait() // until that is known
			mapped.Measure(t.Context())
			if y := second(); y == nil || y == x {
				t.Errorf("%s: no second port after the first one has ended", kind)
			}
		})
	}
}

// A second port that does not answer, behind a firewall for one, tells nothing, and is not
// reported as silence.
func TestSecondPortIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.box("10.0.0.2", "20.0.0.1", nil)
		server, client := m.host(t, "eth0 20.0.0.9/24"), m.host(t, "eth0 10.0.0.2/24")
		server.demux.others.port = server.port
		at := server.port.Conns()[0].LocalAddr()
		m.losing(func(_, to netip.AddrPort, _ []byte) bool { return to.Addr() == at.Addr() && to != at })
		probes := nat.NewProbes()
		mapped := nat.NewMappedAddrs(nat.MappedConfig{
			Asker: client.demux, Conns: client.port.Conns, Probes: probes,
			Servers: func() []netip.AddrPort { return []netip.AddrPort{at} },
		})
		mapped.Measure(t.Context())
		if all := probes.List(); len(all) != 1 || !all[0].Heard || nat.Translation(all) != "translated" {
			t.Errorf("noted %+v", all)
		}
		if len(mapped.Of(client.port.Conns()[0])) != 1 {
			t.Error("what the first port has told was lost")
		}
	})
}

// A port without extra sockets names no second one.
func TestNoSecondPort(t *testing.T) {
	t.Parallel()
	o := newOthers(nil)
	if at := o.of(&socket.Conn{}); at.IsValid() {
		t.Errorf("it is %v", at)
	}
}
