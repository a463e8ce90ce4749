package idloctest_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
	. "github.com/idloc/idloc/idloc/idloctest"
)

// TestLateCandidates: two peers behind filtering NATs know nothing of their
// mapped addresses when they make offer and answer, because no server has
// answered them yet. Servers do afterwards, each tells the other, and the
// checks that have begun without end on a direct path.
func TestLateCandidates(t *testing.T) {
	t.Parallel()
	lab := New(t)
	earth := lab.Node("earth", noRelay)
	var answered atomic.Bool
	lab.Filter(func(p Packet) bool { return p.From != earth.Host || p.Payload[0] > 3 || answered.Load() })
	venus := lab.Node("venus", BehindNAT(PortRestricted))
	mars := lab.Node("mars", BehindNAT(PortRestricted))
	echo(t, mars)
	events := venus.Watch(t.Context())
	seen := make(chan struct{})
	go func() {
		defer close(seen)
		for e := range events {
			if e.Kind == idloc.EventAnswerReceived && e.Peer == mars.ID() {
				answered.Store(true)
				// The questions of the beginning have been given up by now if the
				// machine is slow: those were the last for two minutes.
				venus.NetworkChanged()
				mars.NetworkChanged()
				return
			}
		}
	}()
	if n := len(venus.Status().Self.Mapped) + len(mars.Status().Self.Mapped); n > 0 {
		t.Fatalf("%d mapped addresses are known", n)
	}
	start := time.Now()
	if err := call(t.Context(), venus, mars, []byte("x")); err != nil {
		t.Fatal(err)
	}
	<-seen
	if p, _ := active(venus, mars); p.Kind != "direct" {
		t.Errorf("path %+v", p)
	}
	t.Logf("direct after %v", time.Since(start).Round(time.Millisecond))
}

// TestLateTURN: the server lends its address after the answer.
func TestLateTURN(t *testing.T) {
	t.Parallel()
	lab := New(t)
	lab.Node("earth", noRelay)
	server := lab.Host("server")
	url, _ := turnServer(t, server)
	var answered atomic.Bool
	lab.Filter(func(p Packet) bool { return p.From != server || answered.Load() })
	venus := lab.Node("venus", BehindNAT(Symmetric), withTURN(url))
	mars := lab.Node("mars", BehindNAT(Symmetric))
	echo(t, mars)
	events := venus.Watch(t.Context())
	seen := make(chan struct{})
	go func() {
		defer close(seen)
		for e := range events {
			if e.Kind == idloc.EventAnswerReceived && e.Peer == mars.ID() {
				answered.Store(true)
				return
			}
		}
	}()
	start := time.Now()
	if err := call(t.Context(), venus, mars, []byte("x")); err != nil {
		t.Fatal(err)
	}
	<-seen
	if p, _ := active(venus, mars); p.Kind != "turn" {
		t.Errorf("path %+v", p)
	}
	t.Logf("through the server after %v", time.Since(start).Round(time.Millisecond))
}
