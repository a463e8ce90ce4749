package idloctest_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/idloc/idloc/idloc"
	. "github.com/idloc/idloc/idloc/idloctest"
)

// TestNoPathSaysSo: where two NATs leave no direct path and relays are ruled
// out, the error, the event and Status say at which stage it ended.
func TestNoPathSaysSo(t *testing.T) {
	t.Parallel()
	lab := New(t)
	lab.Node("earth")
	direct := Config(func(c *idloc.Config) { c.Paths = idloc.PathDirectOnly })
	venus := lab.Node("venus", BehindNAT(Symmetric), direct)
	mars := lab.Node("mars", BehindNAT(Symmetric), direct)
	events := venus.Watch(t.Context())
	_, err := venus.Dial(t.Context(), "tcp", "mars.example.com:80")
	var stage *idloc.StageError
	if !errors.As(err, &stage) || stage.Stage != idloc.StageCheck || stage.Peer != mars.ID() || !errors.Is(err, idloc.ErrUnreachable) {
		t.Errorf("Dial: %v", err)
	}
	for e := range events {
		if e.Kind != idloc.EventDialed {
			continue
		}
		if e.Stage != idloc.StageCheck || e.Peer != mars.ID() || !strings.Contains(e.Err, idloc.StageCheck) {
			t.Errorf("event %+v", e)
		}
		break
	}
	for _, p := range venus.Status().Peers {
		if p.ID == mars.ID() && !strings.Contains(p.LastError, idloc.StageCheck) {
			t.Errorf("Status: last error %q", p.LastError)
		}
	}
}
