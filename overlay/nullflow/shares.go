package nullflow

import (
	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/peerid"
)

const (
	inboundMax = 4096 // flows that peers have opened, or have begun to open
	// inboundShare is how many of them all of one invitation may have; one member where
	// none is known.
	inboundShare = inboundMax / 4
)

// shares counts these flows. It has no lock of its own.
type shares struct {
	all int
	by  account.Counts
}

func (s *shares) full(of account.Account) bool {
	return s.all >= inboundMax || s.by.Full(of, inboundShare)
}

func (s *shares) add(of account.Account) {
	s.all++
	s.by.Add(of)
}

func (s *shares) remove(of account.Account) {
	s.all--
	s.by.Remove(of)
}

// account is to whom a peer's flows are charged.
func (fs *Flows) account(p peerid.ID) (a account.Account) {
	if fs.cfg.Account != nil {
		a = fs.cfg.Account(p)
	}
	if a.Invitation == "" {
		a.Invitation = string(p[:])
	}
	return a
}
