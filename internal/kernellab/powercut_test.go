//go:build linux

package kernellab

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

// cutHosts are a founder and another host that are public, two homes, and an
// office of two.
var cutHosts = []string{"earth", "moon", "mars", "venus", "desk1", "desk2"}

// TestPowerCut kills everybody at once and starts them again in any order, on
// the default port: everybody reaches everybody by name, 5 s after the last
// was started. A token from before lets somebody in.
func TestPowerCut(t *testing.T) {
	if testing.Short() {
		t.Skip("six processes, again and again: not with -short")
	}
	t.Parallel()
	if !inside(t) {
		return
	}
	l := newLab(t)
	l.public("earth")
	l.public("moon")
	l.public("late")
	always(portRestricted)(l, "mars", "")
	always(portRestricted)(l, "venus", "")
	l.public("office")
	l.lan("office", "192.168.2")
	l.rules("office", portRestricted)
	l.plug("desk1", "office", "192.168.2", 11)
	l.plug("desk2", "office", "192.168.2", 12)
	up := map[string]*node{}
	for _, label := range cutHosts {
		n := l.start(label, label)
		up[label] = n
		q := request{Op: "create", Name: label, Dir: l.dir(label)}
		if label != "earth" {
			q.Op, q.Token = "join", up["earth"].invite(label)
		}
		n.must(q)
	}
	var worst, worstLate time.Duration
	for cut := range *powerCuts {
		late := fmt.Sprint("late", cut)
		token := up["earth"].invite(late)
		l.kill(slices.Clone(l.nodes)...)
		if cut%2 == 1 {
			l.restart("box-mars", "box-venus", "office")
		}
		order := slices.Clone(cutHosts)
		rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		var wg sync.WaitGroup
		var last *watch
		for _, label := range order {
			n := l.start(label, label)
			up[label] = n
			last = measure(t)
			wg.Go(func() {
				if _, err := n.ask(request{Op: "open", Name: label, Dir: l.dir(label)}); err != nil {
					t.Error(err)
				}
			})
		}
		took := meet(t, last, 5*time.Second, slices.Collect(maps.Values(up))...)
		worst = max(worst, took)
		wg.Wait()
		n := l.start("late", late)
		w := measure(t)
		_, err := n.ask(request{Op: "join", Name: late, Token: token, Within: patience(5 * time.Second)})
		joined := w.took()
		if err != nil || joined > bound(5*time.Second) {
			t.Errorf("with a token from before the cut: %v, %v", joined, err)
		}
		worstLate = max(worstLate, joined)
		t.Logf("cut %d, started %v: all pairs after %v, another joined in %v", cut, order, took, joined)
		l.leave(n)
		if t.Failed() {
			break
		}
	}
	t.Logf("worst: all pairs after %v, another joined in %v", worst, worstLate)
}

// restart has boxes lose their mappings, as they do when they are without
// power, too.
func (l *lab) restart(boxes ...string) {
	l.t.Helper()
	for _, box := range boxes {
		l.shell(fmt.Sprintf("ip -n %[1]s link set ext down; ip -n %[1]s link set ext up", box))
	}
}
