package establish

import (
	"github.com/idloc/idloc/internal/peerid"
)

// addStandbys gives the pairs on which the peer has answered a check to its pipe,
// where they are warm standbys: the pipe pings them and moves there at once when
// its path fails (DESIGN §9). Only such pairs count: nobody is sent anything who
// was merely named.
func (c *Establisher) addStandbys(p peerid.ID, a Agent) {
	pp := c.up(p)
	if pp == nil {
		return
	}
	used := pp.Status().Paths
	n := 0
	for _, path := range a.Succeeded() {
		// Another way to the same two machines' same addresses adds nothing.
		same := false
		for _, u := range used {
			if u.Via.IsZero() && u.Local.Addr() == path.Local.LocalAddr().Addr() && u.Remote.Addr() == path.Remote.Addr() {
				same = true
			}
		}
		if !same && n < standbyMax {
			n++
			pp.AddPath(path)
		}
	}
}
