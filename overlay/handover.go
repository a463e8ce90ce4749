package overlay

import (
	"bytes"
	"context"
	"sync"
	"time"

	dsq "github.com/ipfs/go-datastore/query"
	kb "github.com/libp2p/go-libp2p-kbucket"
	recpb "github.com/libp2p/go-libp2p-record/pb"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"
)

const (
	handOverWidth   = 8
	handOverTimeout = 30 * time.Second
	// handOverEvery is how soon the same server may be given records again.
	handOverEvery = 10 * time.Minute
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
	records := make(chan *recpb.Record)
	var wg sync.WaitGroup
	for range handOverWidth {
		wg.Go(func() {
			for rec := range records {
				ctx, cancel := context.WithTimeout(ctx, askTimeout)
				_ = d.rpc.PutValue(ctx, p, rec)
				cancel()
			}
		})
	}
	n := 0
	for _, rec := range d.records(ctx) {
		if d.responsible(string(rec.GetKey()), p) {
			n++
			select {
			case records <- rec:
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			break
		}
	}
	close(records)
	wg.Wait()
	d.log.Debug("records handed over", "to", p, "count", n)
}

// handDue notes the hand-over and says whether it is time for one.
func (d *database) handDue(p peer.ID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if t, ok := d.handed[p]; ok && time.Since(t) < handOverEvery {
		return false
	}
	if len(d.handed) >= dialledMax {
		clear(d.handed)
	}
	d.handed[p] = time.Now()
	return true
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

// responsible says whether p is among the servers that should keep a key, and
// this peer among the two that should give it to p, as far as it knows
// servers: not everybody who has a record sends it.
func (d *database) responsible(key string, p peer.ID) bool {
	target := kb.ConvertKey(key)
	theirs := distance(kb.ConvertPeerID(p), target)
	mine := distance(kb.ConvertPeerID(d.host.ID()), target)
	nearerThanP, nearerThanMe := 0, 0
	for _, q := range d.kad.RoutingTable().NearestPeers(target, replicas) {
		if q == p {
			continue
		}
		dist := distance(kb.ConvertPeerID(q), target)
		if bytes.Compare(dist, theirs) < 0 {
			nearerThanP++
		}
		if bytes.Compare(dist, mine) < 0 {
			nearerThanMe++
		}
	}
	return nearerThanP < replicas && nearerThanMe < 2
}
