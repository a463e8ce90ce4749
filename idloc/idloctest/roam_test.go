package idloctest_test

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/idloc/idloc/idloc/idloctest"
)

var rounds = flag.Int("rounds", 1, "how often TestRoaming does each disturbance")

// hop is a link of 10 ms each way at each end: 40 ms round trip.
var hop = Link{Delay: 10 * time.Millisecond}

// TestRoaming disturbs a live TCP connection in every way that a network has,
// and prints how long it stood still.
func TestRoaming(t *testing.T) {
	t.Parallel()
	type pair struct {
		lab      *Lab
		from, to *Node
		earth    *Node
	}
	cases := []struct {
		name     string
		from, to []NodeOption
		do       func(p *pair)
		within   time.Duration // generous: the machine may be slow
	}{
		{"sender moves", nil, nil, func(p *pair) { p.from.Move() }, 5 * time.Second},
		{"receiver moves", nil, nil, func(p *pair) { p.to.Move() }, 5 * time.Second},
		{"both move", nil, nil, func(p *pair) { p.from.Move(); p.to.Move() }, 15 * time.Second},
		{"to another NAT", []NodeOption{BehindNAT(PortRestricted)}, []NodeOption{BehindNAT(PortRestricted)},
			func(p *pair) { p.from.Move(BehindNAT(PortRestricted)) }, 15 * time.Second},
		{"IPv4 to IPv6", []NodeOption{DualStack()}, []NodeOption{DualStack()}, func(p *pair) { p.from.Move(IPv6()) }, 15 * time.Second},
		{"NAT rebinds", []NodeOption{BehindNAT(PortRestricted)}, nil, func(p *pair) { p.from.Rebind() }, 5 * time.Second},
		{"receiver's NAT rebinds", nil, []NodeOption{BehindNAT(AddressRestricted)}, func(p *pair) { p.to.Rebind() }, 10 * time.Second},
		{"2 s blackout", nil, nil, func(p *pair) {
			p.lab.Cut(p.from.Host, p.to.Host)
			time.Sleep(2 * time.Second)
			p.lab.Heal(p.from.Host, p.to.Host)
		}, 10 * time.Second},
		{"direct path dies", nil, nil, func(p *pair) { p.lab.Cut(p.from.Host, p.to.Host) }, 15 * time.Second},
	}
	var table strings.Builder
	stalls := make([][]time.Duration, len(cases))
	t.Run("all", func(t *testing.T) {
		for i, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				for round := range *rounds {
					lab := New(t, Seed(uint64(round)))
					p := &pair{lab: lab, earth: lab.Node("earth", DualStack(), Over(hop))}
					p.to = lab.Node("to", append(c.to, Over(hop))...)
					p.from = lab.Node("from", append(c.from, Over(hop))...)
					s := startStream(t, p.from, p.to, 80)
					stall := s.disturb(t, func() { c.do(p) })
					stalls[i] = append(stalls[i], stall)
					if s.end(t); stall > c.within {
						t.Errorf("stood still for %v", stall)
					}
					t.Logf("%v", stall)
				}
			})
		}
	})
	for i, c := range cases {
		slices.Sort(stalls[i])
		if n := len(stalls[i]); n > 0 {
			fmt.Fprintf(&table, "\n%-24s p50 %7.0f ms   p99 %7.0f ms", c.name,
				ms(stalls[i][n/2]), ms(stalls[i][min(n-1, n*99/100)]))
		}
	}
	t.Log("live TCP at 40 ms RTT stands still:" + table.String())
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
