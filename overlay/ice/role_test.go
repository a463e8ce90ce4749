package ice

import (
	"net/netip"
	"testing"

	"github.com/idloc/idloc/internal/socket"
)

// TestRoleConflict: two agents that both control, or both do not, find a path
// all the same (RFC 8445 §7.3.1.1).
func TestRoleConflict(t *testing.T) {
	for what, roles := range map[string][2]bool{"both control": {true, true}, "none controls": {false, false}, "one controls": {true, false}} {
		t.Run(what, func(t *testing.T) {
			var agents [2]*Agent
			for i := range agents {
				d := NewDemux(DemuxConfig{})
				none := func(*socket.Conn) []netip.AddrPort { return nil }
				var err error
				if agents[i], err = NewAgent(Config{Demux: d, Conns: listen(t, d).Conns(), Mapped: none}); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(agents[i].Close)
			}
			type result struct {
				pair Pair
				err  error
			}
			results := make(chan result, 2)
			for i, a := range agents {
				other := agents[1-i]
				go func() {
					p, err := a.Check(t.Context(), roles[i], other.Credentials(), other.Candidates())
					if err == nil && p.Remote != other.candidates[0].Addr {
						t.Errorf("pair with %v, not %v", p.Remote, other.candidates[0].Addr)
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
