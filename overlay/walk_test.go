package overlay

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"testing"

	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	kb "github.com/libp2p/go-libp2p-kbucket"
	record "github.com/libp2p/go-libp2p-record"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/naming"
)

// strata are servers without a network: they answer, in groups, when all of a
// group have been asked; one of them has the record.
type strata struct {
	groups []int // sizes
	has    peer.ID
	value  []byte

	mu    sync.Mutex // guards what follows
	asked []peer.ID
	doors map[int]chan struct{} // by group
	busy  int
	most  int // that were asked at the same time
}

func (s *strata) SendMessage(context.Context, peer.ID, *pb.Message) error { return nil }

func (s *strata) SendRequest(ctx context.Context, p peer.ID, q *pb.Message) (*pb.Message, error) {
	s.mu.Lock()
	s.asked = append(s.asked, p)
	s.busy++
	s.most = max(s.most, s.busy)
	group, last := 0, s.groups[0]
	for len(s.asked) > last && group < len(s.groups)-1 {
		group++
		last += s.groups[group]
	}
	door := s.doors[group]
	if door == nil {
		door = make(chan struct{})
		s.doors[group] = door
	}
	if len(s.asked) == last {
		close(door)
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.busy--
		s.mu.Unlock()
	}()
	select {
	case <-door:
	case <-ctx.Done():
		return nil, fmt.Errorf("left alone in group %d: %w", group, ctx.Err())
	}
	a := pb.NewMessage(pb.Message_GET_VALUE, q.GetKey(), 0)
	if p == s.has {
		a.Record = record.MakePutRecord(string(q.GetKey()), s.value)
	}
	return a, nil
}

// A read asks four servers at a time, eight once as many as should have the
// record had none, and no more than 32; a record that only a far one has is
// found. A put asks the eight nearest.
func TestWalkDepth(t *testing.T) {
	t.Parallel()
	earth := founded(t, "earth")
	key := naming.Keys(earth.Overlay.ov.ID, "earth")[0]
	rec, err := earth.db.local.Get(t.Context(), key)
	if err != nil || rec == nil {
		t.Fatalf("the founder's own record: %v, %v", rec, err)
	}
	target := kb.ConvertKey(key)
	var servers []peer.ID
	for range 48 {
		var id peerid.ID
		rand.Read(id[:])
		servers = append(servers, toLibp2p(id))
	}
	slices.SortFunc(servers, func(a, b peer.ID) int {
		return bytes.Compare(distance(kb.ConvertPeerID(a), target), distance(kb.ConvertPeerID(b), target))
	})
	for _, tt := range []struct {
		what   string
		has    int // the rank of the one that has it
		groups []int
		read   bool
		found  bool
	}{
		{"a name that nobody has", 40, []int{4, 4, 8, 8, 8}, true, false},
		{"a name that one far server has", 30, []int{4, 4, 8, 8, 8}, true, true},
		{"where to put", 40, []int{4, 4}, false, false},
	} {
		s := &strata{groups: tt.groups, has: servers[tt.has], value: rec.GetValue(), doors: map[int]chan struct{}{}}
		if earth.db.rpc, err = pb.NewProtocolMessenger(s); err != nil {
			t.Fatal(err)
		}
		w := &walker{d: earth.db, key: key, target: target, depth: replicas, seen: map[peer.ID]bool{}}
		if tt.read {
			w.depth, w.each = depth, func(found) bool { return false }
		}
		w.offer(servers)
		res := w.run(t.Context())
		want := servers[:w.depth]
		slices.Sort(s.asked)
		want = slices.Sorted(slices.Values(want))
		if !slices.Equal(s.asked, want) {
			t.Errorf("%s: asked %d, not the %d nearest", tt.what, len(s.asked), len(want))
		}
		if most := slices.Max(tt.groups); s.most != most {
			t.Errorf("%s: %d at a time, want %d", tt.what, s.most, most)
		}
		if got := len(res.found) > 0; got != tt.found || got && res.found[0].from != s.has {
			t.Errorf("%s: found %v", tt.what, res.found)
		}
		if !tt.found && (!res.complete() || res.answered != w.depth) {
			t.Errorf("%s: %d answered, complete %v", tt.what, res.answered, res.complete())
		}
	}
}
