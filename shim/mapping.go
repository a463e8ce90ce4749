package shim

import (
	"context"
	"iter"
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/shim/pep"
)

// mapping is the state of one peer: which pipe its LSIs lead to, or which
// packets wait for one. pipe and tcp are used without a lock, and stand apart from
// what every packet writes to; the rest has its mutex.
// The LSIs are pinned in the table for as long as it is in Shim.byID.
type mapping struct {
	id     peerid.ID
	v4, v6 netip.Addr // v6 is invalid for a peer without one

	pipe atomic.Pointer[pipe.Pipe] // nil: a miss
	tcp  pep.Proxy                 // works for what TCP there is with the peer

	release sync.Mutex // held by the one that moves held packets into a pipe

	mu           sync.Mutex      // guards what follows
	gone         bool            // no longer in the maps: look again
	connecting   bool            // a Connect is under way
	waiting      []waitingPacket // oldest first
	waitingBytes int
	last         *pipe.Pipe      // the one that was installed last
	attempt      *attempt        // nil unless somebody waits for a pipe
	up           context.Context // ends with the pipe; nil until somebody asked
	upEnds       context.CancelFunc

	coalescer coalescer
}

// cow is a map read without a lock and copied, one shard at a time, by
// writers, who must hold Shim.mu.
type cow[K comparable] struct {
	shards [256]atomic.Pointer[map[K]*mapping]
}

func (c *cow[K]) load(shard byte, k K) *mapping {
	m := c.shards[shard].Load()
	if m == nil {
		return nil
	}
	return (*m)[k]
}

func (c *cow[K]) store(shard byte, k K, v *mapping) {
	next := make(map[K]*mapping)
	if m := c.shards[shard].Load(); m != nil {
		maps.Copy(next, *m)
	}
	if v == nil {
		delete(next, k)
	} else {
		next[k] = v
	}
	c.shards[shard].Store(&next)
}

// all returns the mappings. Those that come or go meanwhile may be missed.
func (c *cow[K]) all() iter.Seq[*mapping] {
	return func(yield func(*mapping) bool) {
		for i := range c.shards {
			shard := c.shards[i].Load()
			if shard == nil {
				continue
			}
			for _, m := range *shard {
				if !yield(m) {
					return
				}
			}
		}
	}
}

func addrShard(a netip.Addr) byte {
	b := a.As16()
	return b[15] ^ b[14]
}

func (s *Shim) byLSI(a netip.Addr) *mapping  { return s.byAddr.load(addrShard(a), a) }
func (s *Shim) byPeer(id peerid.ID) *mapping { return s.byID.load(id[0], id) }
func (s *Shim) storeLSI(a netip.Addr, m *mapping) {
	if a.IsValid() {
		s.byAddr.store(addrShard(a), a, m)
	}
}

// Path says where the pipe to the peer at LSI a leads now (pipe.Pipe.Where); to
// is invalid if there is no pipe or no direct path.
func (s *Shim) Path(a netip.Addr) (to netip.AddrPort, inside bool, room int) {
	if m := s.byLSI(a); m != nil {
		if p := m.pipe.Load(); p != nil {
			return p.Where()
		}
	}
	return netip.AddrPort{}, false, 0
}

// Repairing says how many bytes the connections to the peer at LSI a may have written
// together and not acknowledged (pipe.Pipe.Repairing).
func (s *Shim) Repairing(a netip.Addr) (share int, ok bool) {
	if m := s.byLSI(a); m != nil {
		if p := m.pipe.Load(); p != nil {
			return p.Repairing()
		}
	}
	return 0, false
}

// MayRepair says whether the pipe to the peer at LSI a repairs TCP, or may soon
// (pipe.Pipe.MayRepair).
func (s *Shim) MayRepair(a netip.Addr) bool {
	if m := s.byLSI(a); m != nil {
		if p := m.pipe.Load(); p != nil {
			return p.MayRepair()
		}
	}
	return false
}

// HasPipe says whether there is a pipe to the peer at LSI a that can carry data.
func (s *Shim) HasPipe(a netip.Addr) bool {
	m := s.byLSI(a)
	return m != nil && m.pipe.Load() != nil
}

// RTT returns the smoothed round trip of the pipe to the peer at LSI a, 0 if that
// is not known.
func (s *Shim) RTT(a netip.Addr) time.Duration {
	if m := s.byLSI(a); m != nil {
		if p := m.pipe.Load(); p != nil {
			return p.RTT()
		}
	}
	return 0
}

// mappingLocked returns the mapping of a peer that has LSIs, made if need be.
// s.mu is held.
func (s *Shim) mappingLocked(id peerid.ID) (*mapping, bool) {
	if m := s.byPeer(id); m != nil {
		return m, true
	}
	v4, v6, ok := s.cfg.Table.Of(id)
	if !ok {
		return nil, false
	}
	if !s.cfg.Table.Pin(id) {
		return nil, false // reclaimed meanwhile
	}
	m := &mapping{id: id, v4: v4, v6: v6}
	m.tcp.Init(&tcpLink{s, m}, &s.count.tcp)
	s.byID.store(id[0], id, m)
	s.storeLSI(v4, m)
	s.storeLSI(v6, m)
	return m, true
}

// removeLocked takes m out of the maps if it neither has a pipe nor waits for
// one. s.mu and m.mu are held.
func (s *Shim) removeLocked(m *mapping) {
	if m.gone || m.connecting || m.pipe.Load() != nil {
		return
	}
	m.gone = true
	s.byID.store(m.id[0], m.id, nil)
	s.storeLSI(m.v4, nil)
	s.storeLSI(m.v6, nil)
	s.cfg.Table.Unpin(m.id)
}
