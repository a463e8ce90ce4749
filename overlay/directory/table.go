package directory

import (
	"cmp"
	"context"
	"slices"
	"time"

	kb "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/idloc/idloc/internal/account"
)

// Who is in the routing table. A server comes in once it has answered a question. Where its
// bucket is full, one that has answered as well and is there already stays (Kademlia §2.2),
// unless its account has more of the bucket than the newcomer's (package account).

const (
	// bucketSize is how many servers a bucket of the routing table has (kad-dht), and
	// bucketShare how many of them are of one invitation where it is full.
	bucketSize  = 20
	bucketShare = bucketSize / 4

	// tryTimeout is how long a newcomer has for its answer, and tryingMax how many are
	// waited for at a time: as with kad-dht.
	tryTimeout = 10 * time.Second
	tryingMax  = 256
	// answersFor is how long a server that is not connected is taken for one that answers.
	answersFor = time.Minute
)

// consider has a server come into the routing table, if it is a member that answers and there
// is room. It returns at once.
func (d *database) consider(p peer.ID) {
	if _, ok := d.cfg.Mesh.Member(p); !ok || d.knows(p) {
		return
	}
	if _, ok := d.roomFor(p); !ok {
		return
	}
	d.mu.Lock()
	busy := d.asking[p] || len(d.asking) >= tryingMax
	if !busy {
		d.asking[p] = true
	}
	d.mu.Unlock()
	if busy {
		return
	}
	d.cfg.Mesh.Go(func() {
		d.tryServer(p)
		d.mu.Lock()
		delete(d.asking, p)
		d.mu.Unlock()
	})
}

// tryServer asks a server something, and puts it into the table when it has answered. Where
// it would take the place of one that may be there no more, that one is asked as well.
func (d *database) tryServer(p peer.ID) {
	ctx, cancel := context.WithTimeout(d.ctx, tryTimeout)
	_, err := d.rpc.GetClosestPeers(ctx, p, p)
	if cancel(); err != nil {
		return
	}
	if room, _ := d.roomFor(p); room.idle != "" {
		d.ask(d.ctx, room.idle, string(room.idle)) // which takes it out of the table if it fails
	}
	d.tableMu.Lock()
	defer d.tableMu.Unlock()
	room, ok := d.roomFor(p)
	if !ok || room.idle != "" {
		return
	}
	if room.gives != "" {
		d.table.RemovePeer(room.gives)
	}
	_, _ = d.table.TryAddPeer(p, true, false)
}

// room is what a server needs for a place in the table: nothing more, the place of another one, or
// that another one does not answer any more.
type room struct{ gives, idle peer.ID }

// roomFor says what a server needs for a place in its bucket; false: there is none for it. A full
// bucket takes no more of an account that has its share.
func (d *database) roomFor(p peer.ID) (r room, ok bool) {
	self := kb.ConvertPeerID(toPeer(d.cfg.Self))
	near := kb.CommonPrefixLen(self, kb.ConvertPeerID(p))
	bucket := slices.DeleteFunc(d.table.GetPeerInfos(), func(q kb.PeerInfo) bool {
		return kb.CommonPrefixLen(self, kb.ConvertPeerID(q.Id)) != near
	})
	if len(bucket) < bucketSize {
		return r, true
	}
	connected := make(map[peer.ID]bool, len(bucket))
	for _, q := range bucket {
		connected[q.Id] = d.connected(q.Id)
	}
	slices.SortFunc(bucket, func(a, b kb.PeerInfo) int { // those that are not connected last
		if connected[a.Id] != connected[b.Id] {
			if connected[a.Id] {
				return -1
			}
			return 1
		}
		return cmp.Or(a.AddedAt.Compare(b.AddedAt), cmp.Compare(a.Id, b.Id))
	})
	var of account.Holders[peer.ID]
	var idle kb.PeerInfo
	for _, q := range bucket {
		a, _ := d.account(q.Id)
		of.Add(q.Id, a)
		if !connected[q.Id] && (idle.Id == "" || q.LastSuccessfulOutboundQueryAt.Before(idle.LastSuccessfulOutboundQueryAt)) {
			idle = q
		}
	}
	a, _ := d.account(p)
	if of.Full(a, bucketShare) {
		return r, false
	}
	if r.gives, ok = of.Yields(a); !ok && time.Since(idle.LastSuccessfulOutboundQueryAt) >= answersFor {
		r.idle = idle.Id
	}
	return r, ok || r.idle != ""
}

// keepStrangersOut takes whoever is added to the table and is no member any more out of
// it again: it has been asked before, which takes a while; who was dismissed meanwhile would come
// back. It is called before the mesh is started, and so before anybody is added.
func (d *database) keepStrangersOut() {
	added := d.table.PeerAdded
	d.table.PeerAdded = func(p peer.ID) { // the table is locked
		added(p)
		d.cfg.Mesh.Go(func() {
			if _, ok := d.cfg.Roster.Member(fromPeer(p)); !ok { // one that is only not connected stays
				d.table.RemovePeer(p)
			}
		})
	}
}
