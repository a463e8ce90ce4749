package nullflow

import (
	"context"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/peerid"
)

const (
	inboundMax = 4096 // flows that peers have opened, or have begun to open
	// inboundShare is how many of them all of one invitation may have; one member where
	// none is known.
	inboundShare = inboundMax / 4
)

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

// reserve counts a flow that a peer opens, from its offer on, until release or remove;
// false: too late, or too many. Where there are as many as may be, one of those who have most
// ends. The flow's context ends when it is not counted any more.
func (fs *Flows) reserve(f *flow) bool {
	payer := fs.account(f.key.peer)
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.closed || fs.flows[f.key] != nil || fs.inbound.Full(payer, inboundShare) {
		return false
	}
	if fs.inbound.Len() >= inboundMax {
		other, ok := fs.inbound.Yields(payer)
		if !ok {
			return false
		}
		fs.discountLocked(other)
		if fs.flows[other.key] == other {
			fs.wg.Go(other.abort)
		}
	}
	f.ctx, f.cancel = context.WithCancel(fs.ctx)
	fs.inbound.Add(f, payer)
	return true
}

// release ends the count of a flow that has come to nothing; one that is known stays.
func (fs *Flows) release(f *flow) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.flows[f.key] != f {
		fs.discountLocked(f)
	}
}

func (fs *Flows) discountLocked(f *flow) {
	if fs.inbound.Has(f) {
		fs.inbound.Remove(f)
		f.cancel()
	}
}
