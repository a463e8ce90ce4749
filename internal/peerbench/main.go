package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"time"
)

// peers in the order of the table; the first is what the others are measured
// against.
var peers = []struct {
	name string
	make func(context.Context) (*pair, error)
}{
	{"idloc", idlocPair},
	{"kernel", kernelPair},
	{"kernel-tls", tlsPair},
	{"wireguard", wireguardPair},
	{"tsnet", tsnetPair},
	{"libp2p-quic", libp2pQUIC},
	{"libp2p-tcp", libp2pTCP},
	{"quic-go", quicPair},
}

var (
	dur        = flag.Duration("dur", 1500*time.Millisecond, "how long one measurement takes")
	rounds     = flag.Int("rounds", 5, "how often each is taken")
	workloads  = flag.String("w", "W1,W2,W3,W4,W5,W5r,W6,W7,W8,W9", "workloads")
	idleConns  = flag.Int("conns", 1000, "connections of W7")
	who        = flag.String("peers", "", "peers (default all)")
	jsonFile   = flag.String("json", "", "write every measurement to this file")
	markdown   = flag.Bool("md", false, "print the table in Markdown")
	svgFile    = flag.String("svg", "", "write a chart to this file")
	quiet      = flag.Bool("q", false, "no progress on standard error")
	child      = flag.String("child", "", "take one measurement of this peer and print it as JSON")
	overPaths  = flag.Bool("impaired", false, "measure one stream over paths with delay, loss, reordering and a bottleneck")
	only       = flag.String("cell", "", "with -impaired: only the row of this name, or those with this in theirs")
	firstSeed  = flag.Uint64("seed", 1, "with -impaired: of the first round; the next have the next")
	warm       = flag.Duration("warm", 2*time.Second, "with -impaired: how long a stream runs before it is measured")
	trace      = flag.Bool("trace", false, "with -impaired: print what the writing end of idloc knew of its path, five times a second")
	together   = flag.Bool("together", false, "with -impaired: all -peers share the path at the same time, as often as they are named")
	pings      = flag.Bool("pings", false, "with -impaired and idloc: print how long TCP and UDP round trips take beside the stream")
	endRole    = flag.String("end", "", "with -child: be one end of an impaired path, serve or dial")
	local      = flag.String("local", "", "with -end: the address of this end")
	remote     = flag.String("remote", "", "with -end: the address of the other end")
	hello      = flag.String("hello", "", "with -end dial: what the server said")
	cpuProfile = flag.String("cpuprofile", "", "with -child: write a CPU profile to this file")
	mutexProf  = flag.String("mutexprofile", "", "with -child: write where goroutines waited for each other's locks to this file")
	memProfile = flag.String("memprofile", "", "with -child and W4 or W7: write what is live on the heap to this file")
)

// sample is one measurement.
type sample struct {
	Peer     string             `json:"peer"`
	Workload string             `json:"workload"`
	Round    int                `json:"round"`
	Metrics  map[string]float64 `json:"metrics,omitempty"`
	Err      string             `json:"error,omitempty"`
}

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	switch {
	case *endRole != "":
		err = anEnd(ctx)
	case *child != "":
		err = measure(ctx, *child, *workloads)
	case *overPaths:
		err = impaired(ctx)
	default:
		err = suite(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "peerbench:", err)
		os.Exit(1)
	}
}

// anEnd is what a child process in a namespace does.
func anEnd(ctx context.Context) error {
	var e end
	var err error
	if e.local, err = netip.ParseAddr(*local); err != nil {
		return err
	}
	if e.peer, err = netip.ParseAddr(*remote); err != nil {
		return err
	}
	return runEnd(ctx, *child, *endRole, *hello, &e)
}

// measure is what a child process does.
func measure(ctx context.Context, name, workload string) error {
	i := slices.IndexFunc(peers, func(p struct {
		name string
		make func(context.Context) (*pair, error)
	}) bool {
		return p.name == name
	})
	if i < 0 {
		return fmt.Errorf("no peer %q", name)
	}
	run, ok := work[workload]
	if !ok {
		return fmt.Errorf("no workload %q", workload)
	}
	if *cpuProfile != "" {
		profileTo = func() (func(), error) {
			f, err := os.Create(*cpuProfile)
			if err != nil {
				return nil, err
			}
			return func() { pprof.StopCPUProfile(); _ = f.Close() }, pprof.StartCPUProfile(f)
		}
	}
	if *memProfile != "" {
		runtime.MemProfileRate = 512
	}
	if *mutexProf != "" {
		runtime.SetMutexProfileFraction(1)
	}
	m := map[string]float64{}
	if err := run(ctx, peers[i].make, m); err != nil {
		return err
	}
	if *mutexProf != "" {
		if err := writeProfile("mutex", *mutexProf); err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(m)
}

// suite takes all measurements, each in a process of its own.
func suite(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var names []string
	for _, p := range peers {
		if *who == "" || slices.Contains(strings.Split(*who, ","), p.name) {
			names = append(names, p.name)
		}
	}
	var samples []sample
	began := time.Now()
	for _, w := range strings.Split(*workloads, ",") {
		for round := range *rounds {
			for _, name := range names {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				s := sample{Peer: name, Workload: w, Round: round}
				s.Metrics, err = spawn(ctx, self, name, w)
				if errors.Is(err, errNotApplicable) {
					continue
				}
				if err != nil {
					s.Err = err.Error()
				}
				samples = append(samples, s)
				if !*quiet {
					fmt.Fprintf(os.Stderr, "%-4s %d %-12s %v %s\n", w, round, name, s.Metrics, s.Err)
				}
			}
		}
	}
	r := newReport(began, names, samples)
	if err := r.table(os.Stdout); err != nil {
		return err
	}
	if *jsonFile != "" {
		b, err := json.MarshalIndent(r, "", "\t")
		if err != nil {
			return err
		}
		if err := os.WriteFile(*jsonFile, append(b, '\n'), 0o644); err != nil {
			return err
		}
	}
	if *svgFile != "" {
		return os.WriteFile(*svgFile, r.svg(), 0o644)
	}
	return nil
}

// errNotApplicable: the peer has nothing that the workload needs.
var errNotApplicable = errors.New("not applicable")

func spawn(ctx context.Context, self, peer, workload string) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second+10**dur)
	defer cancel()
	cmd := exec.CommandContext(ctx, self, "-child", peer, "-w", workload, "-dur", dur.String(), "-conns", strconv.Itoa(*idleConns))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		if strings.Contains(stderr.String(), errNotApplicable.Error()) {
			return nil, errNotApplicable
		}
		lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
		return nil, fmt.Errorf("%w: %s", err, lines[len(lines)-1])
	}
	m := map[string]float64{}
	return m, json.Unmarshal(out, &m)
}

func writeProfile(kind, file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(pprof.Lookup(kind).WriteTo(f, 0), f.Close())
}
