package adapter

import (
	"github.com/pion/transport/v3"

	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/carry"
	"github.com/idloc/idloc/overlay/establish"
	"github.com/idloc/idloc/overlay/ice"
	"github.com/idloc/idloc/overlay/nat"
)

// Local is what this side has for connectivity checks. Its methods may be called from
// any goroutine.
type Local struct {
	Demux     *ice.Demux
	Port      *socket.Port
	Addresses *nat.Addresses
	Carriers  *carry.Carriers
	Net       transport.Net // nil is the kernel's
	Ended     func(ice.End) // is called when a socket of a guessed port is closed
}

// Candidates are those of an offer or an answer.
func (l Local) Candidates() []wire.Candidate {
	return ice.LocalCandidates(l.Port.Conns(), l.Addresses.Outer, l.Addresses.AllocatedAddrs())
}

// Checks makes agents that check a peer's candidates from here.
func (l Local) Checks() establish.Checks {
	return establish.Checks{Config: l.config, Demux: l.Demux, Sockets: l.Port, Ended: l.Ended, Carriers: l.Carriers.Set != nil, Pairs: l.pairs, Allocated: l.allocated}
}

func (l Local) config(turn bool) ice.Config {
	cfg := ice.Config{Demux: l.Demux, Conns: l.Port.Conns(), Mapped: l.Addresses.Outer, Net: l.Net}
	if turn {
		cfg.Allocated = l.Addresses.AllocatedAddrs()
	}
	return cfg
}

func (l Local) pairs(turn bool, candidates []wire.Candidate) []ice.TURNPair {
	var lent []*nat.Allocation
	var conns []*socket.Conn
	if turn {
		lent, conns = l.Addresses.Allocations(), l.Port.Conns()
	}
	return ice.TURNPairs(lent, l.Carriers.Conns(conns), candidates)
}

func (l Local) allocated(candidates []wire.Candidate) []ice.TURNPair {
	return ice.TURNPairs(l.Addresses.Allocations(), nil, candidates)
}
