package directory

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/overlay/naming"
)

// Among servers that lie the record that is signed and in its time counts, as long as
// one honest server has it: how many say something else is no argument.
func TestServersThatLie(t *testing.T) {
	t.Parallel()
	for name, lie := range map[string]func(o *overlay, mars member, good []byte) []byte{
		"forged":      func(_ *overlay, _ member, good []byte) []byte { return flip(good, len(good)-1) },
		"cut":         func(_ *overlay, _ member, good []byte) []byte { return good[:len(good)/2] },
		"garbage":     func(*overlay, member, []byte) []byte { return []byte("who knows") },
		"other label": func(o *overlay, mars member, _ []byte) []byte { return o.sign(mars, naming.Record{Label: "venus"}) },
		"expired": func(o *overlay, mars member, _ []byte) []byte {
			return o.sign(mars, naming.Record{Issued: time.Now().Add(-2 * naming.MaxLife)})
		},
		"older": func(o *overlay, mars member, _ []byte) []byte {
			return o.sign(mars, naming.Record{Issued: time.Now().Add(-time.Hour)})
		},
		"a provisional member's": func(o *overlay, _ member, _ []byte) []byte {
			return o.sign(o.provisional("mars"), naming.Record{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := newOverlay(t)
				for range 12 {
					o.add()
				}
				mars := o.member("mars")
				good := o.sign(mars, naming.Record{})
				bad := lie(o, mars, good)
				for _, key := range naming.Keys(o.ov.ID, "mars") {
					for i, s := range o.sorted(key) {
						if s.records[key] = bad; i == replicas-1 {
							s.records[key] = good // one of those that should have it
						}
					}
				}
				n := o.node(o.member("venus"))
				n.know()
				f, err := n.Resolve(t.Context(), "mars")
				if err != nil || f.Peer != mars.id || f.Label != "mars" {
					t.Errorf("%v, %v", f, err)
				}
				n.Stop()
			})
		})
	}
}

// A reader that has seen a record is not taken back to an older one, whoever says so:
// the name is unknown for now, which may change.
func TestRolledBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newOverlay(t)
		for range 3 {
			o.add()
		}
		mars := o.member("mars")
		older := o.sign(mars, naming.Record{Issued: time.Now().Add(-time.Minute)})
		newer := o.sign(mars, naming.Record{})
		set := func(value []byte) {
			o.mu.Lock()
			defer o.mu.Unlock()
			for _, s := range o.servers {
				for _, key := range naming.Keys(o.ov.ID, "mars") {
					s.records[key] = value
				}
			}
		}
		n := o.node(o.member("venus"))
		n.know()
		defer n.Stop()
		set(newer)
		if f, err := n.Resolve(t.Context(), "mars"); err != nil || f.Peer != mars.id {
			t.Fatalf("%v, %v", f, err)
		}
		n.Dismiss(mars.id, false) // what is cached is forgotten, what was seen is not
		n.names.claims.forget(mars.id)
		set(older)
		f, err := n.Resolve(t.Context(), "mars")
		var temporary interface{ Temporary() bool }
		if !errors.Is(err, naming.ErrRolledBack) || !errors.As(err, &temporary) || !temporary.Temporary() {
			t.Errorf("%v, %v", f, err)
		}
		set(newer)
		if f, err := n.Resolve(t.Context(), "mars"); err != nil || f.Peer != mars.id {
			t.Errorf("the newest again: %v, %v", f, err)
		}
	})
}

// Whoever stops waiting is told so at once, and what others wait for goes on; the end
// of the peer ends all.
func TestResolveEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newOverlay(t)
		_, s := o.add()
		mars := o.member("mars")
		for _, key := range naming.Keys(o.ov.ID, "mars") {
			s.records[key] = o.sign(mars, naming.Record{})
		}
		s.late = time.Second
		n := o.node(o.member("venus"))
		n.know()
		short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		long := make(chan error, 1)
		go func() {
			f, err := n.Resolve(t.Context(), "mars")
			if err == nil && f.Peer != mars.id {
				err = errors.New("another peer")
			}
			long <- err
		}()
		start := time.Now()
		if _, err := n.Resolve(short, "mars"); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 100*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if err := <-long; err != nil || time.Since(start) != time.Second {
			t.Errorf("who waits: %v after %v", err, time.Since(start))
		}
		if asks, _ := o.counts(); asks != 1 {
			t.Errorf("%d questions", asks)
		}
		n.Forget(mars.id)
		n.names.claims.forget(mars.id)
		s.late = -1
		ended := make(chan error, 1)
		go func() {
			_, err := n.Resolve(t.Context(), "mars")
			ended <- err
		}()
		time.Sleep(time.Second)
		start = time.Now()
		n.Stop()
		if err := <-ended; err == nil || time.Since(start) > 0 {
			t.Errorf("at the end: %v after %v", err, time.Since(start))
		}
		if _, err := n.Resolve(t.Context(), "mars"); !errors.Is(err, ErrClosed) {
			t.Errorf("after the end: %v", err)
		}
	})
}
