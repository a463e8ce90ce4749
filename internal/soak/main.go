package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/idloc/idloc/idloc"
)

// config is one run.
type config struct {
	duration time.Duration
	nodes    int
	streams  int // of each node at once
	seed     uint64
	calm     bool
	out      io.Writer
}

// tally is what happened. All fields may be read during the run.
type tally struct {
	streams, streamBytes  atomic.Uint64 // whole ones, and bytes that came back
	cut                   atomic.Uint64 // ended by the restart of a node
	closesCut             atomic.Uint64 // restarts for which a lossy link was too slow
	datagrams, returned   atomic.Uint64
	dials, dialsFailed    atomic.Uint64
	restarts, blackouts   atomic.Uint64
	moves, pipesMoved     atomic.Uint64
	rekeys                atomic.Uint64
	guests, guestsFailed  atomic.Uint64 // who came in, and who could not, or not have a stream
	left, revoked, jumps  atomic.Uint64
	memory                atomic.Uint64 // bytes, the most
	wrong, lost, leaked   atomic.Uint64 // what must not be
	letIn, overLimit      atomic.Uint64 // nor this
	wireLost, wireDoubled atomic.Uint64
	wireChanged, wireLate atomic.Uint64
	mu                    sync.Mutex // guards complaints
	complaints            []string
	failures              map[string]int // dials between nodes that were up, by kind
	firsts                []string       // the first of each kind
}

// complain keeps the first few reasons for a verdict.
func (t *tally) complain(n *atomic.Uint64, format string, args ...any) {
	n.Add(1)
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.complaints) < 20 {
		t.complaints = append(t.complaints, fmt.Sprintf(format, args...))
	}
}

// failed counts a dial between two nodes that were up all the time, by what
// its error says, and shows the first of a kind.
func (t *tally) failed(from, to string, err error) {
	t.dialsFailed.Add(1)
	kind := "other"
	var stage *idloc.StageError
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		kind = "no such host"
	case errors.As(err, &stage):
		kind = stage.Stage
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failures == nil {
		t.failures = make(map[string]int)
	}
	if t.failures[kind]++; t.failures[kind] == 1 {
		t.firsts = append(t.firsts, fmt.Sprintf("dial: %s → %s: %v", from, to, err))
	}
}

// first shows the first failure of a kind that is only counted.
func (t *tally) first(kind string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !slices.ContainsFunc(t.firsts, func(s string) bool { return strings.HasPrefix(s, kind+": ") }) {
		t.firsts = append(t.firsts, fmt.Sprintf("%s: %v", kind, err))
	}
}

// byKind is the failed dials by kind.
func (t *tally) byKind() map[string]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.failures)
}

func (t *tally) bad() bool {
	return t.wrong.Load()+t.lost.Load()+t.leaked.Load()+t.letIn.Load()+t.overLimit.Load() > 0
}

func (t *tally) String() string {
	return fmt.Sprintf("streams %d (%d MiB), cut by a restart %d; datagrams %d, back %d; dials %d, failed %d %v\n"+
		"restarts %d, cut by a lossy link %d, blackouts %d, moves %d; pipes moved %d, rekeyed %d; wire: lost %d, doubled %d, changed %d, late %d\n"+
		"guests %d, failed %d, left %d, revoked %d; clock set %d times; %d MiB of memory at most\n"+
		"wrong %d, lost streams %d, leaks %d, revoked and served %d, over the memory limit %d",
		t.streams.Load(), t.streamBytes.Load()>>20, t.cut.Load(), t.datagrams.Load(), t.returned.Load(), t.dials.Load(), t.dialsFailed.Load(), t.byKind(),
		t.restarts.Load(), t.closesCut.Load(), t.blackouts.Load(), t.moves.Load(), t.pipesMoved.Load(), t.rekeys.Load(), t.wireLost.Load(), t.wireDoubled.Load(), t.wireChanged.Load(), t.wireLate.Load(),
		t.guests.Load(), t.guestsFailed.Load(), t.left.Load(), t.revoked.Load(), t.jumps.Load(), t.memory.Load()>>20,
		t.wrong.Load(), t.lost.Load(), t.leaked.Load(), t.letIn.Load(), t.overLimit.Load())
}

func main() {
	cfg := config{out: os.Stdout}
	flag.DurationVar(&cfg.duration, "d", time.Minute, "how long")
	flag.IntVar(&cfg.nodes, "n", 4, "nodes, 2 at least")
	flag.IntVar(&cfg.streams, "c", 4, "streams of each node at once")
	flag.Uint64Var(&cfg.seed, "seed", uint64(time.Now().UnixNano()), "of the random choices")
	flag.BoolVar(&cfg.calm, "calm", false, "no faults")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	t, err := run(ctx, cfg)
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
	fmt.Println(t)
	for _, c := range t.firsts {
		fmt.Println("   the first that failed of its kind:", c)
	}
	for _, c := range t.complaints {
		fmt.Println("  ", c)
	}
	if t.bad() {
		os.Exit(1)
	}
}

// run is one soak. It returns when ctx or the time is over and everything has
// ended.
func run(ctx context.Context, cfg config) (*tally, error) {
	if cfg.nodes < 2 || cfg.streams < 1 {
		return nil, fmt.Errorf("%d nodes with %d streams each", cfg.nodes, cfg.streams)
	}
	fmt.Fprintf(cfg.out, "soak: %d nodes for %v, seed %d\n", cfg.nodes, cfg.duration, cfg.seed)
	dir, err := os.MkdirTemp("", "soak")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)

	t := new(tally)
	goroutines, fds := runtime.NumGoroutine(), openFiles()
	c, err := newCrew(ctx, cfg, dir, t)
	if err != nil {
		return nil, err
	}
	work, cancel := context.WithTimeout(ctx, cfg.duration)
	defer cancel()
	var wg sync.WaitGroup
	for i := range c.posts {
		for j := range cfg.streams {
			wg.Go(func() { c.stream(work, i, rand.New(rand.NewPCG(cfg.seed, uint64(i)<<32|uint64(j)))) })
		}
		wg.Go(func() { c.datagrams(work, i, rand.New(rand.NewPCG(cfg.seed, 1<<62|uint64(i)))) })
	}
	if !cfg.calm {
		wg.Go(func() { c.faults(work, rand.New(rand.NewPCG(cfg.seed, 1<<63))) })
		wg.Go(func() { c.guests(work, rand.New(rand.NewPCG(cfg.seed, 1<<61))) })
		wg.Go(func() { c.clocks(work, rand.New(rand.NewPCG(cfg.seed, 1<<60))) })
	}
	wg.Go(func() { memory(work, t) })
	wg.Go(func() { report(work, cfg.out, t) })
	wg.Wait()
	if err := c.close(); err != nil {
		return nil, err
	}

	// Goroutines of libraries end a little after what they worked for.
	left, open := 0, 0
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); {
		runtime.GC()
		left, open = runtime.NumGoroutine()-goroutines, openFiles()-fds
		if left <= 0 && open <= 0 {
			return t, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.complain(&t.leaked, "%d goroutines and %d file descriptors more than before", left, open)
	if b := make([]byte, 1<<20); left > 0 {
		fmt.Fprintf(cfg.out, "%s\n", b[:runtime.Stack(b, true)])
	}
	return t, nil
}

// report prints the tally now and then.
func report(ctx context.Context, out io.Writer, t *tally) {
	tick := time.NewTicker(30 * time.Second)
	defer tick.Stop()
	began := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			fmt.Fprintf(out, "%v: %v\n", time.Since(began).Round(time.Second), t)
		}
	}
}

// openFiles is how many file descriptors the process has, 0 where that cannot
// be found out.
func openFiles() int {
	f, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(f)
}
