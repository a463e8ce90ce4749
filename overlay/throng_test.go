package overlay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/pause"
	"github.com/idloc/idloc/internal/yardstick"
	"github.com/idloc/idloc/overlay/directory"
	"github.com/idloc/idloc/overlay/membership"
)

// throng is an overlay of many peers in this process, on sockets of the
// kernel's loopback. A simulated network would carry the same node
// (socket.Config.Net), at the price of a goroutine's turn for each packet: with
// a thousand peers on few cores that is what one would measure.
type throng struct {
	tb    testing.TB
	earth *node
	peers []*node // called peer0, peer1 …
}

// joinWidth is how many join at a time, at first; half as many from then on
// when one has failed, since the machine is busy with all the others.
const joinWidth = 8

// newThrong founds an overlay and joins n peers, at first through the founder,
// then through any of those that have joined, as an overlay grows: the founder
// keeps a few hundred connections, not a thousand. The first of them are
// servers at once; the others find out what they are.
func newThrong(tb testing.TB, n, servers int) *throng {
	tb.Helper()
	s := &throng{tb: tb, earth: founded(tb, "earth"), peers: make([]*node, n)}
	var failed atomic.Int32
	one := func(i int, from []string) {
		j := newNode(tb, nil)
		s.peers[i] = j
		for try := 0; ; try++ {
			token, err := s.earth.roster.Invite(membership.InviteOptions{Addrs: from})
			if err == nil {
				ctx, cancel := context.WithTimeout(tb.Context(), patience)
				j.Overlay, err = Join(ctx, token.String(), j.config(fmt.Sprintf("peer%d", i)))
				cancel()
			}
			if err == nil {
				j.ov.Store(j.Overlay)
				break
			}
			if failed.Add(1); try == 5 {
				tb.Errorf("peer %d: %v; drops %v", i, err, s.drops())
				return
			}
		}
		if i < servers {
			j.directory.Serve()
		}
	}
	tb.Cleanup(func() { s.shut(s.peers) })
	width := joinWidth
	for done, before := 0, int32(0); done < n; {
		if f := failed.Load(); f > before {
			width, before = max(1, width/2), f
		}
		batch := min(width, n-done)
		var wg sync.WaitGroup
		for i := done; i < done+batch; i++ {
			from := s.earth.addrs()
			if done >= 4*joinWidth {
				from = nil
				for range 3 {
					from = append(from, s.peers[rand.IntN(min(done, max(servers, done/2)))].addrs()[0])
				}
			}
			wg.Go(func() { one(i, from) })
		}
		wg.Wait()
		if tb.Failed() {
			tb.FailNow()
		}
		done += batch
	}
	if f := failed.Load(); f > 0 {
		tb.Logf("%d tries to join failed, of %d; %d at a time in the end", f, n, width)
	}
	return s
}

// drops adds up what the nodes' sockets have dropped, by reason.
func (s *throng) drops() map[string]uint64 {
	out := map[string]uint64{}
	for _, n := range append([]*node{s.earth}, s.peers...) {
		if n == nil {
			continue
		}
		for why, k := range n.sock.Stats().Dropped {
			out[why] += k
		}
	}
	return out
}

// shut closes nodes, some at a time.
func (s *throng) shut(nodes []*node) {
	var wg sync.WaitGroup
	sem := make(chan struct{}, 16)
	for _, n := range nodes {
		if n == nil {
			continue
		}
		wg.Go(func() { sem <- struct{}{}; n.shut(); <-sem })
	}
	wg.Wait()
}

// lookups are what a number of questions for names came to.
type lookups struct {
	took        []time.Duration // of those answered, rising
	asked       int
	wrong       int
	unavailable int // temporary errors
	notFound    int
}

func (l *lookups) add(d time.Duration, ok bool, err error) {
	l.asked++
	switch {
	case err == nil && !ok:
		l.wrong++
	case err == nil:
		l.took = append(l.took, d)
	case errors.Is(err, ErrNotFound):
		l.notFound++
	default:
		l.unavailable++
	}
}

func (l *lookups) success() float64 { return float64(len(l.took)) / float64(max(l.asked, 1)) }

func (l *lookups) percentile(p float64) time.Duration {
	if len(l.took) == 0 {
		return 0
	}
	slices.SortFunc(l.took, cmp.Compare[time.Duration])
	return l.took[min(len(l.took)-1, int(p*float64(len(l.took))))]
}

func (l *lookups) String() string {
	return fmt.Sprintf("%d of %d resolved (%.2f %%), p50 %v, p99 %v; wrong %d, not found %d, unavailable %d",
		len(l.took), l.asked, 100*l.success(), l.percentile(0.5).Round(time.Microsecond), l.percentile(0.99).Round(time.Microsecond), l.wrong, l.notFound, l.unavailable)
}

// lookup has readers ask for names of peers, a few at a time: each name is
// asked for by rounds different readers, none of which has it in its cache.
func (s *throng) lookup(readers, named []*node, rounds, width int) *lookups {
	var mu sync.Mutex
	l := &lookups{}
	sem := make(chan struct{}, width)
	var wg sync.WaitGroup
	for r := range rounds {
		for i, want := range named {
			from := readers[(i+7*r+1)%len(readers)]
			if from == want {
				continue
			}
			sem <- struct{}{}
			wg.Go(func() {
				defer func() { <-sem }()
				label := want.Label()
				from.directory.Forget(want.Self())
				f, took, err := from.timedResolve(s.tb.Context(), label)
				mu.Lock()
				defer mu.Unlock()
				l.add(took, f.Peer == want.Self(), err)
			})
		}
	}
	wg.Wait()
	return l
}

// timedResolve asks for a name. An answer that was given up after the usual time
// is asked for again if the machine had given this process much less of it: then
// it says nothing about the servers.
func (n *node) timedResolve(ctx context.Context, label string) (f Found, took time.Duration, err error) {
	start := time.Now()
	for range 3 {
		try, idle := time.Now(), yardstick.Start()
		f, err = n.Resolve(ctx, label)
		if had := idle.Stop(); !errors.Is(err, ErrUnavailable) || time.Since(try) < directory.LookupTimeout || had > directory.LookupTimeout/2 {
			break
		}
	}
	return f, time.Since(start), err
}

// crash ends nodes without a word to anybody.
func (s *throng) crash(nodes []*node) {
	for _, n := range nodes {
		_ = n.sock.Close()
	}
}

func (s *throng) servers() int {
	k := 0
	for _, p := range s.peers {
		if p.Server() {
			k++
		}
	}
	return k
}

// TestThrong is the small form of BenchmarkThrong: everyone finds everyone, and
// when a third is gone from one moment to the next the names still resolve,
// those of the dead as well.
func TestThrong(t *testing.T) {
	n := 14
	if testing.Short() {
		n = 10
	}
	s := newThrong(t, n, n/2)
	// Who has just become a server lacks records until they are put there, and
	// one that has them may be slower than those that have none.
	var l *lookups
	yardstick.Await(60*time.Second, func() bool {
		l = s.lookup(s.peers, s.peers, 3, 4)
		t.Logf("%d peers: %v", n, l)
		return l.wrong > 0 || l.success() == 1
	})
	if l.wrong > 0 || l.success() < 1 {
		t.Error("a name was not found, or found wrong")
	}
	gone := n * 3 / 10
	left := s.peers[gone:] // the servers are first: most of the dead were some
	s.crash(s.peers[:gone])
	yardstick.Await(60*time.Second, func() bool {
		l = s.lookup(left, s.peers, 1, 4)
		return l.success() == 1
	})
	t.Logf("%d of %d gone: %v", gone, n, l)
	if l.wrong > 0 || l.success() < 1 {
		t.Error("not all names resolve within 60 s")
	}
}

// BenchmarkThrong measures lookups in overlays of 10, 100, 500 and 1,000 peers, what
// a peer costs, and what is left of the names when 30 % leave at once. It
// measures once whatever b.N is. Five hundred peers, of 14 MiB each with what
// they are connected to, are what two cores and 24 GiB carry; of a thousand some
// 850 came to join there, and then had no time for more:
//
//	go test -run - -bench 'Throng/peers=(10|100|500)$' -benchtime 1x -timeout 30m ./overlay
func BenchmarkThrong(b *testing.B) {
	for _, n := range []int{10, 100, 500, 1000} {
		b.Run(fmt.Sprintf("peers=%d", n), func(b *testing.B) {
			runtime.GC()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			goroutines := runtime.NumGoroutine()
			start := time.Now()
			s := newThrong(b, n, max(5, n/10))
			b.Logf("joined in %v, %d servers", time.Since(start).Round(time.Second), s.servers())
			runtime.GC()
			runtime.ReadMemStats(&after)
			mem := float64(after.HeapInuse+after.StackInuse) - float64(before.HeapInuse+before.StackInuse)
			b.ReportMetric(mem/1024/float64(n), "KiB/peer")
			b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/float64(n), "goroutines/peer")
			l := s.lookup(s.peers, s.peers, max(1, 1000/n), 2)
			b.Logf("all there: %v", l)
			b.ReportMetric(float64(l.percentile(0.5))/1e6, "p50-ms")
			b.ReportMetric(float64(l.percentile(0.99))/1e6, "p99-ms")
			b.ReportMetric(100*l.success(), "resolved-%")
			gone := n * 3 / 10
			left := s.peers[gone:]
			s.crash(s.peers[:gone])
			now := s.lookup(left, s.peers, 1, 2)
			b.Logf("%d just gone, %d servers left: %v", gone, s.servers()-min(gone, max(5, n/10)), now)
			pause.For(b.Context(), time.Minute)
			// Those that are there put their names again; the records of the
			// dead are with whom they were.
			l = s.lookup(left, left, max(1, 1000/n), 2)
			b.Logf("a minute after, names of those left: %v", l)
			b.ReportMetric(100*l.success(), "left-after-60s-%")
			l = s.lookup(left, s.peers[:gone], max(1, 1000/n), 2)
			b.Logf("a minute after, names of the dead: %v", l)
			b.ReportMetric(100*l.success(), "dead-after-60s-%")
			b.ReportMetric(0, "ns/op")
		})
	}
}
