package idloctest_test

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
	. "github.com/idloc/idloc/idloc/idloctest"
	"github.com/idloc/idloc/internal/race"
	"github.com/idloc/idloc/internal/yardstick"
)

var (
	rounds = flag.Int("rounds", 1, "how often TestRoaming does each disturbance")
	only   = flag.String("roam", "", "the disturbance that TestRoaming does; all if empty")
	slow   = flag.Duration("slow", 0, "TestRoaming tells the events of rounds that take longer")
)

// atOnce is how many rounds run at a time: they mostly wait, and what is left
// of a busy machine is enough for fewer.
func atOnce() int {
	n := 8
	if race.Enabled {
		n = 4
	}
	return max(1, int(float64(n)/yardstick.Slowness()))
}

// hop is a link of 10 ms each way at each end: 40 ms round trip.
var hop = Link{Delay: 10 * time.Millisecond}

// pair is two nodes with a live TCP connection, and two public ones.
type pair struct {
	t           testing.TB
	lab         *Lab
	earth, moon *Node
	from, to    *Node
	stream      *stream
	since       time.Time // what is timed instead of the stream began
}

// disturbance is something that happens to a live connection.
type disturbance struct {
	name     string
	from, to []NodeOption
	do       func(p *pair)
	// done is what is waited for, and timed, instead of the stream.
	done   func(p *pair)
	target time.Duration // p99, for the table: a busy machine may miss it
}

const (
	noticed = time.Second // an address change that the node is told of
	untold  = time.Second + 40*time.Millisecond
)

var disturbances = []disturbance{
	{name: "sender moves", do: func(p *pair) { p.from.Move() }, target: noticed},
	{name: "receiver moves", do: func(p *pair) { p.to.Move() }, target: noticed},
	{name: "both move", do: func(p *pair) { p.from.Move(); p.to.Move() }, target: noticed},
	{name: "both move, behind NATs", from: nat, to: nat,
		do: func(p *pair) { p.from.Move(nat...); p.to.Move(nat...) }, target: noticed},
	{name: "to another NAT", from: nat, to: nat, do: func(p *pair) { p.from.Move(nat...) }, target: noticed},
	{name: "receiver to another NAT", from: nat, to: nat, do: func(p *pair) { p.to.Move(nat...) }, target: noticed},
	{name: "into a NAT", to: nat, do: func(p *pair) { p.from.Move(nat...) }, target: noticed},
	{name: "out of a NAT", from: nat, to: nat, do: func(p *pair) { p.from.Move() }, target: noticed},
	{name: "IPv4 to IPv6", from: dual, to: dual, do: func(p *pair) { p.from.Move(IPv6()) }, target: noticed},
	{name: "IPv6 to IPv4", from: []NodeOption{IPv6()}, to: dual, do: func(p *pair) { p.from.Move() }, target: noticed},
	{name: "NAT rebinds", from: nat, do: func(p *pair) { p.from.Rebind() }, target: untold},
	{name: "receiver's NAT rebinds", to: nat, do: func(p *pair) { p.to.Rebind() }, target: untold},
	{name: "both NATs rebind", from: nat, to: nat, do: func(p *pair) { p.from.Rebind(); p.to.Rebind() }, target: 0},
	{name: "2 s blackout", do: func(p *pair) { p.blackout(2 * time.Second) }, target: 3 * time.Second},
	{name: "direct path dies", do: func(p *pair) { p.lab.Cut(p.from.Host, p.to.Host) }, target: 3 * time.Second},
	{name: "back to direct", do: func(p *pair) {
		p.lab.Cut(p.from.Host, p.to.Host)
		p.awaitPath("relayed")
		p.lab.Heal(p.from.Host, p.to.Host)
		p.since = time.Now()
	}, done: func(p *pair) { p.awaitPath("direct") }, target: 10 * time.Second},
	{name: "relay dies", from: []NodeOption{BehindNAT(Symmetric)}, to: []NodeOption{BehindNAT(Symmetric)},
		do: func(p *pair) {
			path, _ := active(p.from, p.to)
			relay := p.earth.Host
			if path.Via == p.moon.ID() {
				relay = p.moon.Host
			}
			p.lab.Filter(func(q Packet) bool { return q.From != relay || q.Payload[0]>>6 != 2 }) // no pipe datagrams
		}, target: 3 * time.Second},
	{name: "one of two uplinks unplugged", from: twoUplinks, do: func(p *pair) { p.from.Unplug(p.uplink()) }, target: noticed},
	{name: "one of two uplinks dies", from: twoUplinks, do: func(p *pair) { p.from.SetUplink(p.uplink(), Link{Loss: 1}) }, target: noticed},
	{name: "receiver's uplink dies", to: twoUplinks, do: func(p *pair) { p.to.SetUplink(p.uplinkOf(p.to, p.from), Link{Loss: 1}) }, target: noticed},
}

var (
	nat        = []NodeOption{BehindNAT(PortRestricted)}
	dual       = []NodeOption{DualStack()}
	twoUplinks = []NodeOption{Uplink(Over(hop))}
)

// blackout cuts the two off from each other and everybody for a while: what
// it takes is the disturbance itself.
func (p *pair) blackout(d time.Duration) {
	p.lab.Partition([]*Host{p.from.Host})
	<-time.After(d)
	p.lab.Partition()
}

func (p *pair) awaitPath(kind string) {
	await(p.t, "the path is "+kind, 30*time.Second, func() bool {
		path, ok := active(p.from, p.to)
		return ok && path.Kind == kind
	}, p.from)
}

// uplink is the one of from's uplinks that takes the data.
func (p *pair) uplink() int { return p.uplinkOf(p.from, p.to) }

func (p *pair) uplinkOf(n, to *Node) int {
	path, _ := active(n, to)
	i := slices.Index(n.Addrs(), path.Local.Addr())
	if i < 0 {
		p.t.Fatalf("no uplink has the address of %+v", path)
	}
	return i
}

// TestRoaming disturbs a live TCP connection in every way that a network has,
// and prints how long it stood still.
func TestRoaming(t *testing.T) {
	t.Parallel()
	sem := make(chan struct{}, atOnce())
	stalls := make([][]time.Duration, len(disturbances))
	var mu sync.Mutex // guards the slices in stalls
	// Not Parallel, of which there are as many as processors: these wait.
	t.Run("all", func(t *testing.T) {
		var wg sync.WaitGroup
		defer wg.Wait()
		for i, d := range disturbances {
			if *only != "" && d.name != *only {
				continue
			}
			for round := range *rounds {
				if testing.Short() && *only == "" && i%4 != 0 {
					t.Logf("%s: every fourth disturbance in a short run", d.name)
					continue
				}
				wg.Go(func() {
					sem <- struct{}{}
					defer func() { <-sem }()
					// A test of its own, so that its failure ends it alone.
					t.Run(fmt.Sprint(d.name, "/", round), func(t *testing.T) {
						stall := disturb(t, d, uint64(round))
						mu.Lock()
						defer mu.Unlock()
						stalls[i] = append(stalls[i], stall)
					})
				})
			}
		}
	})
	var table strings.Builder
	for i, d := range disturbances {
		slices.Sort(stalls[i])
		if n := len(stalls[i]); n > 0 {
			fmt.Fprintf(&table, "\n%-30s %3d of %3d   p50 %6.0f ms   p99 %6.0f ms   target p99 %5.0f ms", d.name, n, *rounds,
				ms(stalls[i][n/2]), ms(stalls[i][min(n-1, n*99/100)]), ms(d.target))
		}
	}
	t.Log("live TCP at 40 ms RTT stands still:" + table.String())
}

// disturb runs one round and returns how long the stream stood still, or how
// long it took until what is waited for.
func disturb(t *testing.T, d disturbance, seed uint64) (took time.Duration) {
	lab := New(t, Seed(seed))
	p := &pair{t: t, lab: lab, earth: lab.Node("earth", DualStack(), Over(hop))}
	p.moon = lab.Node("moon", Over(hop), Invited(idloc.InviteOptions{Name: "moon", Relay: true}))
	p.to = lab.Node("to", append([]NodeOption{Over(hop)}, d.to...)...)
	p.from = lab.Node("from", append([]NodeOption{Over(hop)}, d.from...)...)
	if d.name == "relay dies" { // both have met the moon, so that they can name it
		echo(t, p.moon)
		for _, n := range []*Node{p.from, p.to} {
			if err := call(t.Context(), n, p.moon, []byte("hello")); err != nil {
				t.Fatal(err)
			}
		}
	}
	p.stream = startStream(t, p.from, p.to, 80)
	diary := keepDiary(p.from, p.to, p.earth, p.moon)
	defer func() {
		if lines := diary.close(); t.Failed() || *slow > 0 && took > *slow {
			t.Logf("%v\n%s", took, lines)
		}
	}()
	took = p.stream.disturb(t, func() {
		diary.note("disturbed")
		d.do(p)
	})
	if d.done != nil {
		d.done(p)
		took = time.Since(p.since)
	}
	p.stream.end(t)
	return took
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
