package idloctest_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
	. "github.com/idloc/idloc/idloc/idloctest"
	"github.com/idloc/idloc/internal/race"
)

var setupSeeds = flag.Int("setup-seeds", defaultSetups(), "how many set-ups TestSetupLosesPackets disturbs in each way; the target is 1000")

func defaultSetups() int {
	if race.Enabled {
		return 3
	}
	return 9
}

// setupsAtOnce run at a time: what they do is mostly to wait for timers.
const setupsAtOnce = 24

// setupPackets is a little more than a set-up without losses sends.
const setupPackets = 60

// loss says which datagrams are lost: n counts those of the set-up from 0.
type loss struct {
	name string
	drop func(seed uint64, n int, rng *rand.Rand) bool
}

var losses = []loss{
	{"any one", func(seed uint64, n int, _ *rand.Rand) bool { return n == position(seed) }},
	{"the first three", func(_ uint64, n int, _ *rand.Rand) bool { return n < 3 }},
	{"three in a row", func(seed uint64, n int, _ *rand.Rand) bool { return n >= position(seed) && n < position(seed)+3 }},
	{"a third", func(_ uint64, _ int, rng *rand.Rand) bool { return rng.IntN(3) == 0 }},
}

// setupDials is how often a Dial may be tried. Where a third of all datagrams is
// lost, on four ways for each question through a relay, and the machine is slow
// besides, one may run out of its time; the table tells how many did.
const setupDials = 3

// TestSetupLosesPackets: datagrams of all three nodes are lost while two of
// them open a pipe and a connection, and they connect all the same. The pairs
// are public ones, ones behind NATs, and ones that need a relay.
func TestSetupLosesPackets(t *testing.T) {
	t.Parallel()
	seeds := *setupSeeds
	if testing.Short() {
		seeds = min(seeds, 3)
	}
	sem := make(chan struct{}, setupsAtOnce)
	var mu sync.Mutex // guards took and again
	took := make([][]time.Duration, len(losses))
	again := make([]int, len(losses)) // set-ups that took more than one Dial
	t.Run("all", func(t *testing.T) {
		for i, l := range losses {
			t.Run(l.name, func(t *testing.T) {
				t.Parallel()
				var wg sync.WaitGroup
				defer wg.Wait()
				for seed := range uint64(seeds) {
					sem <- struct{}{}
					wg.Go(func() {
						defer func() { <-sem }()
						t.Run(fmt.Sprint(seed), func(t *testing.T) {
							d, dials := setUp(t, l, seed)
							mu.Lock()
							defer mu.Unlock()
							if dials > 1 {
								again[i]++
							}
							took[i] = append(took[i], d)
						})
					})
				}
			})
		}
	})
	var table strings.Builder
	for i, l := range losses {
		slices.Sort(took[i])
		if n := len(took[i]); n > 0 {
			fmt.Fprintf(&table, "\n%-16s %4d of %4d by the first Dial   p50 %5.0f ms   p99 %5.0f ms   max %5.0f ms", l.name, n-again[i], seeds,
				ms(took[i][n/2]), ms(took[i][min(n-1, n*99/100)]), ms(took[i][n-1]))
		}
	}
	t.Log("Dial and an echo, with datagrams lost:" + table.String())
}

func setUp(t *testing.T, l loss, seed uint64) (took time.Duration, dials int) {
	lab := New(t, Seed(seed))
	link := Over(Link{Delay: 5 * time.Millisecond})
	pairs := [][2][]NodeOption{
		{{link}, {link}},
		{{link, BehindNAT(PortRestricted)}, {link, BehindNAT(PortRestricted)}},
		{{link, BehindNAT(Symmetric)}, {link, BehindNAT(Symmetric)}},
	}
	at := pairs[seed%uint64(len(pairs))]
	earth := lab.Node("earth", link)
	mars, venus := lab.Node("mars", at[0]...), lab.Node("venus", at[1]...)
	echo(t, mars)
	// The record is put behind Join's back; what is tried here begins after.
	await(t, "the name is published", 20*time.Second, func() bool {
		_, err := earth.Resolver().LookupHost(t.Context(), mars.Name())
		return err == nil
	}, mars)
	diary := keepDiary(earth, mars, venus)
	defer func() {
		if lines := diary.close(); t.Failed() {
			t.Log(lines)
		}
	}()
	// The set-up is over when the dialler has its pipe; what TCP makes of such
	// a network is TestImpaired's business.
	var over atomic.Bool
	ctx, stop := context.WithCancel(t.Context())
	events := venus.Watch(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() {
		for e := range events {
			if e.Kind == idloc.EventPipeUp && e.Peer == mars.ID() {
				over.Store(true)
			}
		}
	})
	var mu sync.Mutex // guards n and rng
	n, rng := 0, rand.New(rand.NewPCG(seed, 1))
	lab.Filter(func(p Packet) bool {
		mu.Lock()
		defer mu.Unlock()
		n++
		return over.Load() || !l.drop(seed, n-1, rng)
	})
	start := time.Now()
	var err error
	for dials < setupDials {
		dials++
		if err = call(t.Context(), venus, mars, []byte("through all of it")); err == nil {
			break
		}
		if l.name != "a third" {
			break
		}
		t.Logf("Dial %d after %v: %v", dials, time.Since(start).Round(time.Millisecond), err)
	}
	if err != nil {
		t.Error(err)
	}
	return time.Since(start), dials
}

// position is which datagram of its set-up a seed loses first.
func position(seed uint64) int { return int(seed / 3 % setupPackets) }
