package pipe

import (
	"maps"

	"github.com/idloc/idloc/internal/peerid"
)

// Totals counts what went through all pipes to one peer, those that have ended
// included, so that no number ever goes back. Numbers are as in Status and its Repair.
type Totals struct {
	BytesSent, BytesReceived     uint64
	PacketsSent, PacketsReceived uint64
	Rekeys                       uint64
	Repaired, Late, Shed, Marked uint64
	Drops                        map[string]uint64 // by DropReason, zeros left out
}

// add counts t in.
func (t *Totals) add(u Totals) {
	t.BytesSent += u.BytesSent
	t.BytesReceived += u.BytesReceived
	t.PacketsSent += u.PacketsSent
	t.PacketsReceived += u.PacketsReceived
	t.Rekeys += u.Rekeys
	t.Repaired += u.Repaired
	t.Late += u.Late
	t.Shed += u.Shed
	t.Marked += u.Marked
	for reason, n := range u.Drops {
		if t.Drops == nil {
			t.Drops = make(map[string]uint64)
		}
		t.Drops[reason] += n
	}
}

// maxEnded is of how many peers the counts of ended pipes are kept. Beyond it the
// peer whose newest pipe ended longest ago is forgotten; what its pipes dropped
// stays in the sum.
const maxEnded = 4096

// ended is what pipes to one peer have counted that are no more.
type ended struct {
	Totals
	order uint64 // of the end of the newest
}

// history is what pipes have counted that are no more. The Endpoint's mu guards it.
type history struct {
	peers     map[peerid.ID]*ended
	order     uint64
	forgotten map[string]uint64 // drops of peers that are not there any more
}

// count keeps what p has counted, once. The caller holds the Endpoint's mu and not
// p's.
func (h *history) count(p *Pipe) {
	if p.counted {
		return
	}
	p.counted = true
	now := p.totals()
	if h.peers == nil {
		h.peers = make(map[peerid.ID]*ended)
	}
	e := h.peers[p.peer]
	if e == nil {
		if len(h.peers) >= maxEnded {
			h.forget()
		}
		e = new(ended)
		h.peers[p.peer] = e
	}
	h.order++
	e.order = h.order
	e.add(now)
}

// forget makes room for one peer.
func (h *history) forget() {
	var oldest peerid.ID
	var at *ended
	for id, e := range h.peers {
		if at == nil || e.order < at.order {
			oldest, at = id, e
		}
	}
	if at == nil {
		return
	}
	if h.forgotten == nil {
		h.forgotten = make(map[string]uint64)
	}
	for reason, n := range at.Drops {
		h.forgotten[reason] += n
	}
	delete(h.peers, oldest)
}

// totals is what p has counted.
func (p *Pipe) totals() Totals {
	p.mu.Lock()
	rekeys := p.keys.rekeys
	p.mu.Unlock()
	st := p.repairStats()
	return Totals{
		BytesSent: p.traffic.bytesOut.Load(), BytesReceived: p.traffic.bytesIn.Load(),
		PacketsSent: p.traffic.packetsOut.Load(), PacketsReceived: p.traffic.packetsIn.Load(),
		Rekeys: rekeys, Repaired: st.Repaired, Late: st.Late, Shed: st.Shed, Marked: st.Marked, Drops: p.drops.snapshot(),
	}
}

// Totals returns what the pipes to each peer have counted since the Endpoint
// began, and what the pipes to all peers have dropped, by reason.
func (e *Endpoint) Totals() (peers map[peerid.ID]Totals, drops map[string]uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	peers = make(map[peerid.ID]Totals, len(e.history.peers)+len(e.pipes))
	drops = make(map[string]uint64)
	maps.Copy(drops, e.history.forgotten)
	for id, was := range e.history.peers {
		var t Totals
		t.add(was.Totals)
		peers[id] = t
	}
	for id, p := range e.pipes {
		t := peers[id]
		if !p.counted {
			t.add(p.totals())
		}
		peers[id] = t
	}
	for _, t := range peers {
		for reason, n := range t.Drops {
			drops[reason] += n
		}
	}
	return peers, drops
}

// DropReasons are the names under which drops are counted.
func DropReasons() []string { return dropNames[DropMalformed:] }
