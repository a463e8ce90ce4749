package idloc

import (
	"slices"
	"sync"
	"time"
)

// trafficEvery is how often a node looks at what its pipes have carried.
const trafficEvery = 10 * time.Second

// trafficPeers bounds the peers of which a node keeps that. Of more, those without a pipe
// go first, and of what is left those that came last are not kept.
const trafficPeers = 256

// trafficPoint is one look at the pipes to a peer. Its counts are of all pipes since the
// node began, so that points between two others can be left out. In JSON it is an array,
// as there are many.
type trafficPoint [4]uint64 // Unix milliseconds, bytes sent, bytes received, RTT in nanoseconds (0: not known)

func (p trafficPoint) at() int64 { return int64(p[0]) }

// traffic is what a node's pipes have carried since it began, for the page: less close
// together the longer ago. It is safe for concurrent use.
type traffic struct {
	began time.Time

	mu     sync.Mutex // guards what follows
	peers  map[PeerID][]trafficPoint
	thinAt time.Time // when points are left out next
}

// trafficAges says how close together points are that are not older than that. What is older
// than the last is forgotten.
var trafficAges = []struct{ age, every time.Duration }{
	{10 * time.Minute, trafficEvery},
	{2 * time.Hour, time.Minute},
	{24 * time.Hour, 10 * time.Minute},
	{10 * 24 * time.Hour, 2 * time.Hour},
}

func newTraffic(now time.Time) *traffic {
	return &traffic{began: now, peers: map[PeerID][]trafficPoint{}, thinAt: now.Add(time.Minute)}
}

// watchTraffic looks at the pipes until the node closes.
func (n *Node) watchTraffic() {
	t := time.NewTicker(trafficEvery)
	defer t.Stop()
	for {
		select {
		case now := <-t.C:
			n.traffic.add(now, n.carried())
		case <-n.ctx.Done():
			return
		}
	}
}

// carriedNow is what the pipes to a peer have carried by now.
type carriedNow struct {
	sent, received uint64
	rtt            time.Duration
	up             bool
}

func (n *Node) carried() map[PeerID]carriedNow {
	pipes := n.pipes.Load()
	if pipes == nil {
		return nil
	}
	all := map[PeerID]carriedNow{}
	totals, _ := pipes.Totals()
	for id, t := range totals {
		all[id] = carriedNow{sent: t.BytesSent, received: t.BytesReceived}
	}
	for _, p := range pipes.Pipes() {
		c := all[p.Peer()]
		st := p.Status()
		c.rtt, c.up = st.RTT, st.Up
		all[p.Peer()] = c
	}
	return all
}

// add notes what has been carried by now.
func (h *traffic) add(now time.Time, all map[PeerID]carriedNow) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ms := uint64(now.UnixMilli())
	for id, c := range all {
		points, known := h.peers[id]
		if !known {
			if len(h.peers) >= trafficPeers {
				h.forgetLocked(all)
			}
			if len(h.peers) >= trafficPeers {
				continue
			}
			points = []trafficPoint{{uint64(h.began.UnixMilli())}} // nothing was carried then
		}
		for len(points) > 1 && points[len(points)-1].at() >= int64(ms) { // the clock was set back
			points = points[:len(points)-1]
		}
		p := trafficPoint{ms, c.sent, c.received, uint64(c.rtt)}
		if k := len(points); k > 1 && same(points[k-2], points[k-1]) && same(points[k-1], p) {
			points[k-1] = p // two ends say all of a time in which nothing changed
		} else {
			points = append(points, p)
		}
		h.peers[id] = points
	}
	if now.Before(h.thinAt) {
		return
	}
	h.thinAt = now.Add(time.Minute)
	for id, points := range h.peers {
		if points = thin(points, now); len(points) == 0 {
			delete(h.peers, id)
		} else {
			h.peers[id] = points
		}
	}
}

func same(a, b trafficPoint) bool { return [3]uint64(a[1:]) == [3]uint64(b[1:]) }

// forgetLocked makes room: who has no pipe goes.
func (h *traffic) forgetLocked(all map[PeerID]carriedNow) {
	for id := range h.peers {
		if !all[id].up {
			delete(h.peers, id)
		}
	}
}

// thin leaves points out that are closer together than their age wants, in place. The
// newest stays.
func thin(points []trafficPoint, now time.Time) []trafficPoint {
	kept := points[:0]
	for i, p := range points {
		age := time.Duration(now.UnixMilli()-p.at()) * time.Millisecond
		k := slices.IndexFunc(trafficAges, func(a struct{ age, every time.Duration }) bool { return age <= a.age })
		if k < 0 {
			continue
		}
		every := trafficAges[k].every.Milliseconds()
		if i == len(points)-1 || len(kept) == 0 || kept[len(kept)-1].at()/every != p.at()/every {
			kept = append(kept, p)
		}
	}
	return kept
}

// trafficOfPeer is what is kept of one peer, for the page.
type trafficOfPeer struct {
	Peer   PeerID         `json:"peer"`
	Points []trafficPoint `json:"points"` // oldest first
}

// all is a copy of what is kept, in the order of the peers' IDs.
func (h *traffic) all() []trafficOfPeer {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]trafficOfPeer, 0, len(h.peers))
	for id, points := range h.peers {
		all = append(all, trafficOfPeer{id, slices.Clone(points)})
	}
	slices.SortFunc(all, func(a, b trafficOfPeer) int { return a.Peer.Compare(b.Peer) })
	return all
}
