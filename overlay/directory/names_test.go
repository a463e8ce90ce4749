package directory

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/naming"
)

// TestLateHolders: of the eight servers nearest each key of a name half have the
// record and are late; the others, who lie, and all that are farther away say at
// once that there is none. Who waits long enough finds the name, and if they are
// later than that it is not known: never is it said that there is none.
func TestLateHolders(t *testing.T) {
	for _, tt := range []struct {
		late  time.Duration // negative: for ever
		known int           // servers that the reader knows at first; they name no other
		want  error
	}{
		{0, 24, nil},
		{askPatience + time.Millisecond, 24, nil},
		{askTimeout - time.Millisecond, 24, nil},
		{askTimeout + time.Millisecond, 24, ErrUnavailable},
		{-1, 24, ErrUnavailable},
		{0, 6, nil},
		{-1, 6, ErrUnavailable},
	} {
		t.Run(tt.late.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOverlay(t)
				for range tt.known {
					o.add()
				}
				mars := o.member("mars")
				value := o.sign(mars, naming.Record{})
				for _, key := range naming.Keys(o.ov.ID, "mars") {
					for i, s := range o.sorted(key)[:min(replicas, tt.known)] {
						if i%2 == 0 {
							s.late, s.records[key] = tt.late, value
						}
					}
				}
				n := o.node(o.member("venus"))
				n.know()
				f, err := n.Resolve(t.Context(), "mars")
				if !errors.Is(err, tt.want) || err == nil && f.Peer != mars.id {
					t.Errorf("%v, %v; want %v", f, err, tt.want)
				}
				n.Stop()
			})
		})
	}
}

// TestAbsentName: that there is no such name is said at once if all answer, and
// also if a quarter of the nearest do not, as soon as those have been waited for.
func TestAbsentName(t *testing.T) {
	for _, silent := range []int{0, 1, 2} {
		synctest.Test(t, func(t *testing.T) {
			o := newOverlay(t)
			for range 24 {
				o.add()
			}
			key := naming.Keys(o.ov.ID, "mars")[0]
			for _, s := range o.sorted(key)[:silent] {
				s.late = -1
			}
			n := o.node(o.member("venus"))
			n.know()
			start := time.Now()
			if _, err := n.Resolve(t.Context(), "mars"); !errors.Is(err, ErrNotFound) {
				t.Errorf("%d silent: %v", silent, err)
			}
			if d := time.Since(start); silent == 0 && d > 0 || d > LookupTimeout {
				t.Errorf("%d silent: said after %v", silent, d)
			}
			n.Stop()
		})
	}
}

// TestMoreThanFew: a reader that knows so few servers that each would keep every
// record asks under one key; if it hears of more it asks under the others.
func TestMoreThanFew(t *testing.T) {
	for _, more := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			o := newOverlay(t)
			for range replicas - 1 {
				o.add()
			}
			n := o.node(o.member("venus"))
			n.know()
			if more {
				n.Serve() // it is the eighth itself
				n.db.since = time.Time{}
			}
			if _, err := n.Resolve(t.Context(), "mars"); !errors.Is(err, ErrNotFound) {
				t.Errorf("%v", err)
			}
			want := replicas - 1
			if more {
				want *= naming.Replicas
			}
			if asks, _ := o.counts(); asks != want {
				t.Errorf("%d questions, want %d", asks, want)
			}
			n.Stop()
		})
	}
}

// TestOneQuestion: those who ask for a name at the same time share the answer, and
// one who gives up does not end it for the others.
func TestOneQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOverlay(t)
		_, s := o.add()
		s.late = time.Second
		n := o.node(o.member("venus"))
		n.know()
		got := make(chan error, 2)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _, err := n.Resolve(ctx, "mars"); got <- err }()
		synctest.Wait()
		go func() { _, err := n.Resolve(t.Context(), "mars"); got <- err }()
		synctest.Wait()
		cancel()
		if err := <-got; !errors.Is(err, context.Canceled) {
			t.Errorf("who gave up: %v", err)
		}
		if err := <-got; !errors.Is(err, ErrNotFound) {
			t.Errorf("who did not: %v", err)
		}
		if asks, _ := o.counts(); asks != 1 {
			t.Errorf("%d questions", asks)
		}
		n.Stop()
		if _, err := n.Resolve(t.Context(), "mars"); !errors.Is(err, ErrClosed) {
			t.Errorf("after the end: %v", err)
		}
	})
}

// TestCache: an answer is given again for a while without asking, not for longer,
// and not once its peer has another name or could not be reached.
func TestCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOverlay(t)
		_, s := o.add()
		mars := o.member("mars")
		key := naming.Keys(o.ov.ID, "mars")[0]
		put := func(rec naming.Record) {
			o.mu.Lock()
			defer o.mu.Unlock()
			s.records[key] = o.sign(mars, rec)
		}
		put(naming.Record{})
		n := o.node(o.member("venus"))
		n.know()
		asked := func(what string, want bool) {
			t.Helper()
			f, err := n.Resolve(t.Context(), "MARS")
			if err != nil || f.Peer != mars.id {
				t.Errorf("%s: %v, %v", what, f, err)
			}
			n.names.jobs.wg.Wait()
			if asks, _ := o.counts(); asks > 0 != want {
				t.Errorf("%s: asked %v", what, !want)
			}
		}
		asked("at first", true)
		asked("again", false)
		time.Sleep(cacheLife)
		asked("when it is old", true)
		n.Forget(mars.id)
		asked("when its peer was not reached", true)
		time.Sleep(time.Second)
		put(naming.Record{Tombstone: true})
		time.Sleep(cacheLife)
		if f, err := n.Resolve(t.Context(), "mars"); !errors.Is(err, ErrNotFound) {
			t.Errorf("given up: %v, %v", f, err)
		}
		n.Stop()
	})
}

// TestShownRecords: what a peer shows of itself is taken if it would be as a
// record of the database, and only then.
func TestShownRecords(t *testing.T) {
	o := newOverlay(t)
	mars, venus := o.member("mars"), o.member("venus")
	n := o.node(o.member("earth"))
	defer n.Stop()
	forged := o.sign(mars, naming.Record{})
	forged[len(forged)-1] ^= 1
	for desc, value := range map[string][]byte{
		"another's":             o.sign(venus, naming.Record{}),
		"a label of another":    o.sign(mars, naming.Record{Label: "venus"}),
		"a signature of nobody": forged,
		"expired":               o.sign(mars, naming.Record{Issued: time.Now().Add(-2 * naming.MaxLife)}),
		"from the future":       o.sign(mars, naming.Record{Seq: naming.Seq(time.Now().Add(time.Hour), 0)}),
		"half":                  o.sign(mars, naming.Record{})[:100],
		"none":                  nil,
	} {
		if n.Show(mars.id, value) || len(n.names.claims.to("mars"))+len(n.names.claims.to("venus")) > 0 {
			t.Errorf("taken: %s", desc)
		}
	}
	now := time.Now()
	at := func(d time.Duration, tombstone bool) []byte {
		return o.sign(mars, naming.Record{Issued: now.Add(d), Tombstone: tombstone})
	}
	first, second := at(0, false), at(time.Second, false)
	if !n.Show(mars.id, first) {
		t.Fatal("not taken")
	}
	if f, ok := n.names.confirmed("mars", false); !ok || f.Peer != mars.id {
		t.Errorf("from a hello: %v, %v", f, ok)
	}
	if n.Show(mars.id, second) || string(n.Record(mars.id)) != string(second) {
		t.Error("a newer record that says the same: not kept, or said to be news")
	}
	if n.Show(mars.id, first); string(n.Record(mars.id)) != string(second) {
		t.Error("an older record replaces a newer one")
	}
	if !n.Show(mars.id, at(2*time.Second, true)) {
		t.Error("that the name is given up is no news")
	}
	if f, ok := n.names.confirmed("mars", false); ok {
		t.Errorf("given up, and yet %v", f)
	}
}

// TestWhoIsHere: a confirmed record of a peer that has a pipe answers at once, one
// of a peer that is elsewhere when the database is quiet, and a provisional one only
// if the database says nothing.
func TestWhoIsHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOverlay(t)
		_, s := o.add()
		s.late = -1
		mars, venus, pluto := o.member("mars"), o.member("venus"), o.provisional("pluto")
		n := o.node(o.member("earth"))
		n.know()
		n.cfg.Piped = func(p peerid.ID) bool { return p == mars.id }
		for _, m := range []member{mars, venus, pluto} {
			if !n.Show(m.id, o.sign(m, naming.Record{})) {
				t.Fatalf("%s: not taken", m.label)
			}
		}
		for _, tt := range []struct {
			m     member
			after time.Duration
		}{
			{mars, 0}, {venus, recordPatience}, {pluto, askTimeout},
		} {
			start := time.Now()
			f, err := n.Resolve(t.Context(), tt.m.label)
			if d := time.Since(start); err != nil || f.Peer != tt.m.id || d != tt.after {
				t.Errorf("%s: %v, %v after %v, not %v", tt.m.label, f, err, d, tt.after)
			}
		}
		s.late = 0
		n.Forget(pluto.id)
		if f, err := n.Resolve(t.Context(), "pluto"); !errors.Is(err, ErrNotFound) {
			t.Errorf("a provisional claim that the database does not know: %v, %v", f, err)
		}
		n.Stop()
	})
}

// TestShownAndRevoked: a record that was good does not outlive its peer's
// membership.
func TestShownAndRevoked(t *testing.T) {
	o := newOverlay(t)
	mars := o.member("mars")
	n := o.node(o.member("earth"))
	defer n.Stop()
	n.Show(mars.id, o.sign(mars, naming.Record{}))
	if _, ok := n.names.confirmed("mars", false); !ok {
		t.Fatal("not known")
	}
	list, err := o.root.Revoke(nil, time.Now(), membership.Revocation{Kind: membership.RevokePeer, Key: membership.KeyOf(mars.id)})
	if err != nil {
		t.Fatal(err)
	}
	o.revoked = list
	if f, ok := n.names.confirmed("mars", false); ok {
		t.Errorf("revoked, and yet %v", f)
	}
	n.Dismiss(mars.id, true)
	if n.Record(mars.id) != nil {
		t.Error("its record is still there")
	}
}

// TestResolveRevoked: whose membership was taken back has no name any more, which
// is said at once, without the server that it was, as soon as enough others have
// answered; by the only issuer also without them, since only it could have given the
// name to another.
func TestResolveRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOverlay(t)
		p, s := o.add()
		s.late = -1
		mars := o.member("mars")
		n := o.node(o.member("earth"))
		defer n.Stop()
		n.know()
		n.ServeNew()
		member := func(m member) *membership.Member {
			out, err := membership.VerifyChain(m.chain, o.ov, time.Now(), nil)
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
		n.roster.Note(member(mars))
		list, err := o.root.Revoke(nil, time.Now(),
			membership.Revocation{Kind: membership.RevokePeer, Key: membership.KeyOf(mars.id)},
			membership.Revocation{Kind: membership.RevokePeer, Key: membership.KeyOf(fromPeer(p))})
		if err != nil {
			t.Fatal(err)
		}
		ask := func(label string) (time.Duration, error) {
			start := time.Now()
			_, err := n.Resolve(t.Context(), label)
			return time.Since(start), err
		}
		if took, err := ask("pluto"); !errors.Is(err, ErrUnavailable) || took < askTimeout {
			t.Errorf("with a silent server: %v after %v", err, took)
		}
		o.mu.Lock()
		o.revoked = list
		o.mu.Unlock()
		if took, err := ask("mars"); !errors.Is(err, ErrRevoked) || took > 0 {
			t.Errorf("with no server but the revoked one: %v after %v", err, took)
		}
		if took, err := ask("pluto"); !errors.Is(err, ErrNotFound) || errors.Is(err, ErrRevoked) || took > 0 {
			t.Errorf("a name that nobody had: %v after %v", err, took)
		}
		if took, err := ask(mars.id.Label()); !errors.Is(err, ErrRevoked) || took > 0 {
			t.Errorf("its ID: %v after %v", err, took)
		}
		var left []*server
		// Others are there, and do not answer: they may know of another mars.
		for range 3 {
			_, s := o.add()
			s.late = -1
			left = append(left, s)
		}
		n.know()
		if took, err := ask("mars"); !errors.Is(err, ErrRevoked) || took < LookupTimeout {
			t.Errorf("with silent servers: %v after %v", err, took)
		}
		n.roster.only = true
		if took, err := ask("mars"); !errors.Is(err, ErrRevoked) || took >= LookupTimeout {
			t.Errorf("with silent servers, by the only issuer: %v after %v", err, took)
		}
		// Another mars is one.
		n.roster.only = false
		for _, s := range left {
			s.late = 0
		}
		again := o.provisional("mars")
		value := o.sign(again, naming.Record{})
		for _, key := range naming.Keys(o.ov.ID, "mars") {
			left[0].records[key] = value
		}
		if f, err := n.Resolve(t.Context(), "mars"); err != nil || f.Peer != again.id {
			t.Errorf("another mars: %v, %v", f, err)
		}
		n.Stop()
	})
}
