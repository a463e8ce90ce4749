//go:build linux

package kernellab

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// situation is where one end of a pair is, as in idloctest's matrix.
type situation struct {
	name                string
	place               func(l *lab, space, relay string)
	hard, blocked, open bool
	carried             bool     // nothing but TCP gets out
	env                 []string // of the processes there
}

func boxed(rules func(ext, relay string) string) func(*lab, string, string) {
	return func(l *lab, space, relay string) {
		box := "box-" + space
		ext := l.public(box)
		l.behind(space, box, inner)
		l.rules(box, rules(ext, relay))
	}
}

func always(rules string) func(*lab, string, string) {
	return boxed(func(_, _ string) string { return rules })
}

var situations = []situation{
	{name: "public", place: func(l *lab, space, _ string) { l.public(space) }, open: true},
	{name: "EIM/EIF", place: always(fullCone), open: true},
	{name: "EIM/ADF", place: always(addressRestricted)},
	{name: "EIM/APDF", place: always(portRestricted)},
	{name: "1:1", place: boxed(func(ext, _ string) string { return oneToOne(ext) }), open: true},
	{name: "double", place: func(l *lab, space, _ string) {
		carrier, box := "carrier-"+space, "box-"+space
		l.public(carrier)
		l.behind(box, carrier, "100.64.0")
		l.behind(space, box, inner)
		l.rules(carrier, portRestricted)
		l.rules(box, portRestricted)
	}},
	{name: "APDM/APDF", place: always(symmetric), hard: true},
	{name: "blocked", place: boxed(func(_, relay string) string { return onlyTo(relay) }), blocked: true},
	{name: "TCP 443", place: always(tcp443), blocked: true, carried: true},
	{name: "proxy", place: proxied, blocked: true, carried: true, env: []string{"HTTPS_PROXY=http://" + inner + ".1:8888"}},
}

// proxied has nothing but an HTTP proxy: squid for those who are dialled, if there is one,
// and tinyproxy for all others.
func proxied(l *lab, space, _ string) {
	always(noWay)(l, space, "")
	program, text := "tinyproxy", "Port 8888\nTimeout 600\nConnectPort 443\nMaxClients 50\n"
	if _, err := exec.LookPath("squid"); err == nil && strings.HasPrefix(space, "to") {
		program, text = "squid", squidConf
	}
	conf := filepath.Join(l.dirs, program+"-"+space)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		l.t.Fatal(err)
	}
	args := map[string][]string{
		"tinyproxy": {"tinyproxy", "-d", "-c", conf},
		// It refuses to be root, which everybody is in these namespaces.
		"squid": {"unshare", "--user", "--map-user=13", "--map-group=13", "squid", "-N", "-f", conf},
	}[program]
	l.t.Logf("the proxy of %s is %s", space, program)
	l.daemon("box-"+space, "127.0.0.1:8888", args...)
}

// squidConf has squid pass on CONNECT to port 443, and write nothing.
const squidConf = `http_port 8888
acl tls port 443
http_access deny CONNECT !tls
http_access allow all
cache deny all
cache_log /dev/null
access_log none
pid_filename none
netdb_filename none
pinger_enable off
shutdown_lifetime 0 seconds
`

// direct says whether a pair must get a direct path.
func direct(a, b situation) bool {
	switch {
	case a.blocked || b.blocked, a.hard && b.hard:
		return false
	case a.hard:
		return b.open || b.name == "EIM/ADF"
	case b.hard:
		return a.open || a.name == "EIM/ADF"
	}
	return true
}

type cell struct {
	kind string
	took time.Duration
	err  error
}

var rounds = flag.Int("rounds", 1, "rounds of cold dials between all pairs in TestMatrix: who dials is closed and opened again before each but the first")

// TestMatrix dials from every kind of place to every kind of place, on real
// kernels.
func TestMatrix(t *testing.T) {
	if testing.Short() {
		t.Skip("22 processes behind 19 boxes: not with -short")
	}
	needs(t, "tinyproxy", "tinyproxy-bin")
	if !inside(t) {
		return
	}
	l := newLab(t)
	relay := l.public("earth")
	l.public("moon")
	for i, s := range situations {
		s.place(l, fmt.Sprint("from", i), relay)
		s.place(l, fmt.Sprint("to", i), relay)
	}
	earth := l.start("earth", "earth")
	earth.must(request{Op: "create", Name: "earth", Carry: ":443"})
	l.join(earth, "moon") // so that mappings are measured in two places
	from, to := make([]*node, len(situations)), make([]*node, len(situations))
	for i, s := range situations {
		from[i], to[i] = l.enter(earth, fmt.Sprint("from", i), s.env), l.enter(earth, fmt.Sprint("to", i), s.env)
	}
	cells := newCells()
	for i := range situations {
		var wg sync.WaitGroup
		for j := range situations {
			wg.Go(func() { cells[i][j] = try(from[i], to[j], direct(situations[i], situations[j])) })
		}
		wg.Wait()
	}
	t.Log("\n" + table(situations, cells))
	for i, a := range situations {
		if n, err := from[i].ask(request{Op: "self"}); err == nil {
			t.Logf("%s judges its NAT %q", a.name, n.Self.NAT)
		}
		for j, b := range situations {
			c := cells[i][j]
			switch {
			case c.err != nil:
				t.Errorf("%s to %s: %v", a.name, b.name, c.err)
			case direct(a, b) && c.kind != "direct":
				t.Errorf("%s to %s: %s", a.name, b.name, c.kind)
			case !direct(a, b) && c.kind != "relayed" && c.kind != "direct": // a lucky guess of a port
				t.Errorf("%s to %s: %q", a.name, b.name, c.kind)
			}
		}
	}
	coldDials(t, from, to, cells)
	l.leaveAll(from) // before those who carry for them
	l.leaveAll(to)
}

// enter starts a node in the namespace of its label that can be opened again.
func (l *lab) enter(earth *node, label string, env []string) *node {
	l.t.Helper()
	n := l.start(label, label, env...)
	n.must(request{Op: "join", Name: label, Token: earth.invite(label), Dir: l.dir(label)})
	return n
}

// coldDials has everybody dial everybody in more rounds, without a pipe, and tells how
// long it took; first is the first round.
func coldDials(t *testing.T, from, to []*node, first [][]cell) {
	var all, carried, others []time.Duration
	note := func(a, b situation, took time.Duration) {
		all = append(all, took)
		if a.carried || b.carried {
			carried = append(carried, took)
		} else {
			others = append(others, took)
		}
	}
	for i, row := range first {
		for j, c := range row {
			note(situations[i], situations[j], c.took)
		}
	}
	for round := 1; round < *rounds; round++ {
		var opening sync.WaitGroup
		for _, n := range from {
			opening.Go(func() {
				_, err := n.ask(request{Op: "close"})
				if err == nil {
					_, err = n.ask(request{Op: "open", Name: n.label, Dir: n.l.dir(n.label)})
				}
				if err != nil {
					t.Errorf("round %d: %v", round, err)
				}
			})
		}
		opening.Wait()
		for i, a := range situations {
			var wg sync.WaitGroup
			took := make([]time.Duration, len(to))
			for j, b := range situations {
				wg.Go(func() {
					answer, err := from[i].ask(request{Op: "call", Name: to[j].name})
					if took[j] = answer.Took; err != nil {
						t.Errorf("round %d, %s to %s: %v", round, a.name, b.name, err)
					}
				})
			}
			wg.Wait()
			for j, b := range situations {
				note(a, b, took[j])
			}
		}
	}
	for what, took := range map[string][]time.Duration{"all pairs": all, "one of them over TCP": carried, "both over UDP": others} {
		slices.Sort(took)
		t.Logf("%d cold dials, %s: p50 %v, p99 %v", len(took), what, took[len(took)/2].Round(time.Millisecond), took[len(took)*99/100].Round(time.Millisecond))
	}
}

func newCells() [][]cell {
	cells := make([][]cell, len(situations))
	for i := range cells {
		cells[i] = make([]cell, len(situations))
	}
	return cells
}

// try calls once, and looks which path the pipe settles on: on a slow machine
// a relay may have been first, and where the checks ran out of their time the
// next offer comes ten seconds later.
func try(from, to *node, direct bool) cell {
	start := time.Now()
	_, err := from.ask(request{Op: "call", Name: to.name})
	c := cell{took: time.Since(start), err: err}
	tick := time.NewTicker(20 * time.Millisecond) // another process: there is nothing to wait on
	defer tick.Stop()
	for settled := time.Now().Add(2 * time.Minute); ; <-tick.C {
		a, _ := from.ask(request{Op: "path", Name: to.name})
		c.kind = a.Path.Kind
		if err != nil || !direct || c.kind == "direct" || time.Now().After(settled) {
			return c
		}
	}
}

func table(situations []situation, cells [][]cell) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%-10s", "from \\ to")
	for _, b := range situations {
		fmt.Fprintf(&s, "%14s", b.name)
	}
	for i, a := range situations {
		fmt.Fprintf(&s, "\n%-10s", a.name)
		for j := range situations {
			c := cells[i][j]
			kind := c.kind
			if c.err != nil {
				kind = "FAILED"
			}
			fmt.Fprintf(&s, "%14s", fmt.Sprintf("%s %.2fs", kind, c.took.Seconds()))
		}
	}
	return s.String()
}
