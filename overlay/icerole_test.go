package overlay

import (
	"net/netip"
	"testing"

	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/socket"
)

// TestRoleConflict: two agents that both control, or both do not, find a path
// all the same (RFC 8445 §7.3.1.1).
func TestRoleConflict(t *testing.T) {
	for what, roles := range map[string][2]bool{"both control": {true, true}, "none controls": {false, false}, "one controls": {true, false}} {
		t.Run(what, func(t *testing.T) {
			var agents [2]*iceAgent
			for i := range agents {
				d := newSTUNDemux()
				port, err := socket.Listen(socket.Config{Addrs: []netip.Addr{loopback}, OnSTUN: d.handle})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = port.Close() })
				none := func(*socket.Conn) []netip.AddrPort { return nil }
				if agents[i], err = newICE(d, port.Conns(), none, nil, nil, 1); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(agents[i].close)
			}
			type result struct {
				path pipe.Path
				err  error
			}
			results := make(chan result, 2)
			for i, a := range agents {
				other := agents[1-i]
				go func() {
					p, err := a.run(t.Context(), roles[i], pipe.Remote{Ufrag: other.ufrag, Pwd: other.pwd}, other.candidates)
					if err == nil && p.Remote != other.candidates[0].Addr {
						t.Errorf("path to %v, not %v", p.Remote, other.candidates[0].Addr)
					}
					results <- result{p, err}
				}()
			}
			for range agents {
				if r := <-results; r.err != nil {
					t.Error(r.err)
				}
			}
		})
	}
}
