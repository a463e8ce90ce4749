package overlay

import (
	"github.com/pion/ice/v3"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
)

// The checks find more than the pair that was nominated, where a peer has
// several addresses: the others become warm standbys of the pipe, which pings
// them and moves there at once when its path fails (DESIGN §9). Only pairs on
// which the peer has answered a check count: nobody is sent anything who was
// merely named.
const maxStandby = 3

// standby gives the pairs that were checked to the peer's pipe.
func (c *connects) standby(a *iceAgent, p peerid.ID) {
	pp := c.up(p)
	if pp == nil {
		return
	}
	used := pp.Status().Paths
	n := 0
	for _, path := range a.checked() {
		// Another way to the same two machines' same addresses adds nothing.
		same := false
		for _, u := range used {
			if u.Via.IsZero() && u.Local.Addr() == path.Local.LocalAddr().Addr() && u.Remote.Addr() == path.Remote.Addr() {
				same = true
			}
		}
		if !same && n < maxStandby {
			n++
			pp.AddPath(path)
		}
	}
}

// checked are the pairs on which a check was answered.
func (a *iceAgent) checked() []pipe.Path {
	locals, err := a.agent.GetLocalCandidates()
	if err != nil {
		return nil
	}
	remotes, err := a.agent.GetRemoteCandidates()
	if err != nil {
		return nil
	}
	byID := map[string]ice.Candidate{}
	for _, c := range append(locals, remotes...) {
		byID[c.ID()] = c
	}
	var out []pipe.Path
	for _, s := range a.agent.GetCandidatePairsStats() {
		l, r := byID[s.LocalCandidateID], byID[s.RemoteCandidateID]
		if s.State != ice.CandidatePairStateSucceeded || l == nil || r == nil {
			continue
		}
		from, err := candidateAddr(l)
		if err != nil {
			continue
		}
		to, err := candidateAddr(r)
		if err != nil {
			continue
		}
		for _, c := range a.conns {
			if c.LocalAddr() == from {
				out = append(out, pipe.Path{Local: c, Remote: to})
			}
		}
	}
	return out
}
