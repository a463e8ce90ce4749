package idloctest_test

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
	. "github.com/idloc/idloc/idloc/idloctest"
)

// TestRestart: a peer crashes and comes back with its state, elsewhere in the
// range of ports; who had a pipe to it dials it again.
func TestRestart(t *testing.T) {
	t.Parallel()
	for name, at := range map[string][]NodeOption{
		"public":       nil,
		"behind a NAT": {BehindNAT(PortRestricted)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lab := New(t, Seed(1))
			lab.Node("earth", Over(hop))
			dir := t.TempDir()
			mars := lab.Node("mars", append([]NodeOption{Over(hop), Config(func(c *idloc.Config) { c.Dir = dir })}, at...)...)
			venus := lab.Node("venus", append([]NodeOption{Over(hop)}, at...)...)
			echo(t, mars)
			if err := call(t.Context(), venus, mars, []byte("before")); err != nil {
				t.Fatal(err)
			}
			id := mars.ID()
			idle, err := venus.Dial(t.Context(), "tcp", net.JoinHostPort(mars.Name(), echoPort))
			if err != nil {
				t.Fatal(err)
			}
			defer idle.Close()
			mars.Restart()
			start := time.Now()
			echo(t, mars)
			// A conn of before ends as soon as the node knows: nobody sends
			// anything on it, or dials.
			if _, err := idle.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("a conn to the process of before: %v", err)
			}
			t.Logf("a conn of before ended %v after it was back", time.Since(start).Round(time.Millisecond))
			if mars.ID() != id {
				t.Error("another peer came back")
			}
			if err := call(t.Context(), venus, mars, []byte("after")); err != nil {
				t.Fatal(err)
			}
			t.Logf("dialled %v after it was back", time.Since(start).Round(time.Millisecond))
		})
	}
}

// TestPartition: the internet falls into two halves and grows together again.
func TestPartition(t *testing.T) {
	t.Parallel()
	lab := New(t, Seed(1))
	earth := lab.Node("earth")
	mars, venus := lab.Node("mars"), lab.Node("venus")
	s := startStream(t, venus, mars, 80)
	stall := s.disturb(t, func() {
		lab.Partition([]*Host{earth.Host, venus.Host}, []*Host{mars.Host})
		s.silence(t, time.Second)
		lab.Partition()
	})
	s.end(t)
	if stall < time.Second {
		t.Errorf("stood still for %v: the partition lets through", stall)
	}
}
