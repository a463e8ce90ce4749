package directory

import (
	"context"
	"time"

	dsq "github.com/ipfs/go-datastore/query"
	kb "github.com/libp2p/go-libp2p-kbucket"
	recpb "github.com/libp2p/go-libp2p-record/pb"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"
)

const (
	handOverTimeout = 30 * time.Second
	// handOverEvery is how soon a server that was away may be given records again.
	handOverEvery = 10 * time.Minute
	handedMax     = 16384 // servers
)

// handOver gives a server that is new here the records that it should keep:
// those to whose keys it is among the nearest. Otherwise a lookup would find
// newcomers without the record where it expects it, until the record's owner,
// who may not even know of them, puts it again within the hour (Kademlia §2.5).
func (d *database) handOver(ctx context.Context, p peer.ID) {
	if !d.isServer() || !d.handDue(p) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, handOverTimeout)
	defer cancel()
	n := 0
	set := d.handOverSet(p)
	for _, rec := range d.records(ctx) {
		if ctx.Err() != nil {
			break
		}
		if !set.responsible(string(rec.GetKey())) {
			continue
		}
		n++
		// One at a time: all requests to a peer share one stream, and a lookup
		// must not wait for a queue of these.
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		_ = d.rpc.PutValue(ctx, p, rec)
		cancel()
	}
	d.cfg.Log.Debug("records handed over", "to", p, "count", n)
}

// handed is when a server was given records, and whether its connection has ended
// since: it may have missed some then.
type handed struct {
	at   time.Time
	left bool
}

// handDue notes the hand-over and says whether it is time for one.
func (d *database) handDue(p peer.ID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if h, ok := d.handed.Get(p); ok && !(h.left && time.Since(h.at) >= handOverEvery) {
		return false
	}
	d.handed.Add(p, handed{at: time.Now()})
	return true
}

// noteLeft notes that the connection to a server has ended.
func (d *database) noteLeft(p peer.ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if h, ok := d.handed.Peek(p); ok {
		d.handed.Add(p, handed{h.at, true})
	}
}

// forgetHandOver notes that a server has lost the records that it was given.
func (d *database) forgetHandOver(p peer.ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.handed.Remove(p)
}

// records returns the records of this peer's part of the database.
func (d *database) records(ctx context.Context) []*recpb.Record {
	res, err := d.store.Query(ctx, dsq.Query{})
	if err != nil {
		return nil
	}
	entries, err := res.Rest()
	if err != nil {
		return nil
	}
	var out []*recpb.Record
	for _, e := range entries {
		rec := new(recpb.Record)
		if proto.Unmarshal(e.Value, rec) == nil {
			rec.TimeReceived = ""
			out = append(out, rec)
		}
	}
	return out
}

// handOverSet is the servers, in the DHT's key space, among which records are
// handed over.
type handOverSet struct {
	mine, theirs kb.ID
	others       []kb.ID
}

// handOverSet returns what this peer knows of the servers that p comes to.
func (d *database) handOverSet(p peer.ID) handOverSet {
	s := handOverSet{mine: kb.ConvertPeerID(toPeer(d.cfg.Self)), theirs: kb.ConvertPeerID(p)}
	for _, q := range d.table.GetPeerInfos() {
		if q.Id != p {
			s.others = append(s.others, kb.ConvertPeerID(q.Id))
		}
	}
	return s
}

// responsible says whether the new server is among those that should keep a
// key, and this peer among the two that should give it to it, as far as it
// knows servers: not everybody who has a record sends it.
func (s handOverSet) responsible(key string) bool {
	target := kb.ConvertKey(key)
	nearerThanTheirs, nearerThanMine := 0, 0
	for _, o := range s.others {
		if nearer(o, s.theirs, target) {
			nearerThanTheirs++
		}
		if nearer(o, s.mine, target) {
			nearerThanMine++
		}
		if nearerThanTheirs >= replicas || nearerThanMine >= 2 {
			return false
		}
	}
	return true
}

// nearer says whether a is nearer to the target than b.
func nearer(a, b, target kb.ID) bool {
	for i := range target {
		if x, y := a[i]^target[i], b[i]^target[i]; x != y {
			return x < y
		}
	}
	return false
}
