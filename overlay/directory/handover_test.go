package directory

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	kb "github.com/libp2p/go-libp2p-kbucket"

	"github.com/idloc/idloc/overlay/naming"
)

// A key goes to a new server if that is among the nearest, from the two nearest
// of those that have it: what a sort by distance says, for random servers.
func TestHandOverResponsible(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	id := func() kb.ID {
		b := make([]byte, 32)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return kb.ID(b)
	}
	yes := 0
	for range 2000 {
		s := handOverSet{mine: id(), theirs: id()}
		for range rng.IntN(3 * replicas) {
			s.others = append(s.others, id())
		}
		key := string(id())
		target := kb.ConvertKey(key)
		before := func(x kb.ID) int {
			all := slices.Clone(s.others)
			slices.SortFunc(all, func(a, b kb.ID) int { return bytes.Compare(distance(a, target), distance(b, target)) })
			return slices.IndexFunc(append(all, nil), func(o kb.ID) bool {
				return o == nil || bytes.Compare(distance(o, target), distance(x, target)) > 0
			})
		}
		want := before(s.theirs) < replicas && before(s.mine) < 2
		if got := s.responsible(key); got != want {
			t.Fatalf("%d others: %v, want %v", len(s.others), got, want)
		}
		if want {
			yes++
		}
	}
	if yes < 100 || yes > 1900 {
		t.Errorf("%d of 2000 are to be handed over: the test tests little", yes)
	}
}

// TestHandOver: a server that comes is given the records that this one keeps and it
// should have: once, again when it has begun anew, and when it was away for long; and
// those that were servers before this peer are given nothing.
func TestHandOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOverlay(t)
		before, _ := o.add()
		n := o.node(o.member("earth"))
		defer n.Stop()
		n.Serve()
		const others = 5
		for i := range others {
			m := o.member(fmt.Sprintf("mars%d", i))
			key := naming.Keys(o.ov.ID, m.label)[0]
			if err := n.db.keep(t.Context(), key, o.sign(m, naming.Record{})); err != nil {
				t.Fatal(err)
			}
		}
		want := func(what string, gives int) {
			t.Helper()
			synctest.Wait()
			if asks, g := o.counts(); asks != 0 || g != gives {
				t.Errorf("%s: %d puts, want %d", what, g, gives)
			}
		}
		n.heard(before)
		want("one that was a server before", 0)
		p, s := o.add()
		n.heard(p)
		want("one that comes", others)
		if len(s.records) != others {
			t.Errorf("it has %d records", len(s.records))
		}
		time.Sleep(2 * handOverEvery)
		n.heard(p)
		want("one that stays", 0)
		s.run++
		n.heard(p)
		want("one that has begun anew", others)
		n.Left(p, true)
		n.heard(p)
		want("one that was away for a moment", 0)
		n.Left(p, true)
		time.Sleep(handOverEvery)
		n.heard(p)
		want("one that was away for long", others)
	})
}
