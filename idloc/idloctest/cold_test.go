package idloctest_test

import (
	"context"
	"flag"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
	. "github.com/idloc/idloc/idloc/idloctest"
)

// coldRounds is how many members are dialled: of 200 the p99 is worth reading.
var coldRounds = flag.Int("cold.rounds", 5, "how many first dials TestColdDial times")

// coldStages are the events that end the stages of a cold dial, in order.
var coldStages = []struct {
	name string
	kind idloc.EventKind
}{
	{"name", idloc.EventNameResolved},
	{"offer and answer", idloc.EventAnswerReceived},
	{"check", idloc.EventPipeUp},
	{"connect", idloc.EventDialed},
}

// coldDial dials a peer that from knows nothing of, and returns when each
// stage had ended, the last when the first byte was back.
func coldDial(t testing.TB, from, to *Node) []time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	events := from.Watch(ctx)
	start := time.Now()
	c, err := from.Dial(ctx, "tcp", net.JoinHostPort(to.Name(), echoPort))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	first := time.Since(start)
	out := make([]time.Duration, 0, len(coldStages)+1)
	for e := range events {
		if k := len(out); e.Kind == coldStages[k].kind && (e.Peer == to.ID() || e.Peer.IsZero()) {
			if out = append(out, e.Time.Sub(start)); len(out) == len(coldStages) {
				break
			}
		}
	}
	return append(out, first)
}

// TestColdDial prints how many round trips a first dial takes, stage by stage,
// over 50 ms between any two peers, with the name not cached; and how long over
// none at all. The times are printed and not judged; the target is 6 round
// trips to the first byte. With -cold.rounds 200 the p99 means something.
func TestColdDial(t *testing.T) {
	rounds := *coldRounds
	if testing.Short() {
		rounds = 1
	}
	for _, rtt := range []time.Duration{50 * time.Millisecond, 0} {
		for _, nat := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v, NAT %v", rtt, nat), func(t *testing.T) {
				t.Parallel()
				lab := New(t)
				opts := []NodeOption{Over(Link{Delay: rtt / 4})} // two links each way
				earth := lab.Node("earth", opts...)
				lab.Node("moon", opts...)
				if nat {
					opts = append(opts, BehindNAT(PortRestricted))
				}
				venus := lab.Node("venus", opts...)
				var all [][]time.Duration
				for i := range rounds {
					mars := lab.Node(fmt.Sprint("mars", i), opts...)
					echo(t, mars)
					await(t, "all have measured their addresses", 10*time.Second, func() bool {
						return !nat || len(mars.Status().Self.Mapped) > 0 && len(venus.Status().Self.Mapped) > 0
					})
					all = append(all, coldDial(t, venus, mars))
				}
				_ = earth
				t.Log("\n" + coldTable(all, rtt))
			})
		}
	}
}

func coldTable(all [][]time.Duration, rtt time.Duration) string {
	var s strings.Builder
	names := []string{}
	for _, st := range coldStages {
		names = append(names, st.name)
	}
	last := time.Duration(0)
	for i, name := range append(names, "first byte") {
		var at []time.Duration
		for _, d := range all {
			at = append(at, d[i])
		}
		slices.Sort(at)
		p50, p99 := at[len(at)/2], at[len(at)*99/100]
		fmt.Fprintf(&s, "%-17s after %7.2f ms, p99 %7.2f ms", name, float64(p50.Microseconds())/1000, float64(p99.Microseconds())/1000)
		if rtt > 0 {
			fmt.Fprintf(&s, " = %.2f RTT (+%.2f)", float64(p50)/float64(rtt), float64(p50-last)/float64(rtt))
		}
		s.WriteByte('\n')
		last = p50
	}
	return s.String()
}
