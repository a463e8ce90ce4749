package offers

import (
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/naming"
)

// TestThreeOfEightLie is the attack: of eight members that may pass an offer on, three
// lie, other ones each time and wherever they stand, keys of one token or of three. They
// say that it was refused, or crosses another, answer by themselves, or say nothing. The
// target names three of the eight, as many as it can; those may be the liars. Of 1,000
// offers each that is the first to its target gets there, nearly all of them quickly.
func TestThreeOfEightLie(t *testing.T) {
	const offers, forwarders, liars = 1000, 8, 3
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(6, 18))
		forged := make([]byte, 1500)
		for i := range forged {
			forged[i] = byte(r.Uint32())
		}
		forged[0] = 1
		lies := []*Response{{Status: Refused}, {Status: Glare}, {Status: Answered, Answer: forged}, {Status: Refused, Answer: forged[:60]}, {Status: Answered}, {Status: NotHere}, {Status: Busy}, {Status: Loop}, nil}
		w := newWorld(t, 20*time.Millisecond)
		venus, pluto := w.add("venus", 1), w.add("pluto", 1)
		var between []*peer
		var ids []peerid.ID
		for i := range forwarders {
			p := w.add(string(rune('a'+i)), byte(2+i/liars))
			w.connect(pluto, p)
			w.connect(p, venus)
			between, ids = append(between, p), append(ids, p.id)
		}
		var took []time.Duration
		lost := 0
		for range offers {
			r.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
			pluto.hints[venus.id] = slices.Clone(ids[:naming.MaxMembers])
			for n, i := range r.Perm(forwarders) {
				lie := lies[r.IntN(len(lies))]
				between[i].mu.Lock()
				between[i].lie, between[i].silent = nil, false
				if n < liars {
					between[i].lie, between[i].silent = lie, lie == nil
				}
				between[i].mu.Unlock()
			}
			begun := time.Now()
			s, _, err := pluto.deliver(venus)
			if err != nil {
				lost++
				continue
			}
			took = append(took, time.Since(begun))
			s.Cancel()
			time.Sleep(time.Second) // offers of one peer are limited
		}
		slices.Sort(took)
		if lost > offers/1000 {
			t.Errorf("%d of %d offers are lost", lost, offers)
		}
		if p99 := took[len(took)*99/100]; p99 > 3*time.Second {
			t.Errorf("the slowest hundredth takes %v", p99)
		}
		t.Logf("%d of %d lost; median %v, p99 %v, most %v", lost, offers, took[len(took)/2], took[len(took)*99/100], took[len(took)-1])
	})
}
