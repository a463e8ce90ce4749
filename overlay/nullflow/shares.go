package nullflow

import "github.com/idloc/idloc/internal/peerid"

const (
	inboundMax = 4096 // flows that peers have opened, or have begun to open
	// inboundShare is how many of them all of one account may have, which is one member
	// where no other is known.
	inboundShare = inboundMax / 4
)

// shares counts these flows. It has no lock of its own.
type shares struct {
	all int
	by  map[string]int
}

func (s *shares) full(account string) bool {
	return s.all >= inboundMax || s.by[account] >= inboundShare
}

func (s *shares) add(account string) {
	if s.by == nil {
		s.by = map[string]int{}
	}
	s.all++
	s.by[account]++
}

func (s *shares) remove(account string) {
	s.all--
	if s.by[account]--; s.by[account] <= 0 {
		delete(s.by, account)
	}
}

// account is to whom a peer's flows are charged.
func (fs *Flows) account(p peerid.ID) string {
	if fs.cfg.Account != nil {
		if a := fs.cfg.Account(p); a != "" {
			return a
		}
	}
	return string(p[:])
}
