package directory

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/naming"
)

// What was valid is so for a while without being looked at again, and not a moment
// longer than a revocation list allows; what was not valid is never remembered.
func TestValidatorRemembers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newOverlay(t)
		mars, venus := o.member("mars"), o.member("venus")
		var list *membership.RevocationList
		asked := 0
		v := newValidator(&naming.Validator{
			Overlay: o.ov, Revoked: func() *membership.RevocationList { return list },
			Now: func() time.Time { asked++; return time.Now() },
		})
		key := naming.Keys(o.ov.ID, "mars")[0]
		value := o.sign(mars, naming.Record{})
		looks := func(value []byte) (n int, err error) {
			asked = 0
			err = v.Validate(key, value)
			return asked, err
		}
		if n, err := looks(value); n == 0 || err != nil {
			t.Fatalf("not looked at: %v", err)
		}
		if n, err := looks(value); n != 0 || err != nil {
			t.Errorf("looked at again: %v", err)
		}
		for name, other := range map[string][]byte{"one bit": flip(value, len(value)-1), "one byte less": value[:len(value)-1], "one more": append(value, 0), "nothing": nil} {
			for range 2 {
				if _, err := looks(other); err == nil {
					t.Errorf("%s is valid", name)
				}
			}
		}
		if err := v.Validate(naming.Keys(o.ov.ID, "venus")[0], value); err == nil {
			t.Error("valid under another label's key")
		}
		if err := v.Validate(naming.Keys(o.ov.ID, "mars")[1], value); err != nil {
			t.Errorf("under another of its keys: %v", err)
		}
		time.Sleep(validFor)
		if n, err := looks(value); n == 0 || err != nil {
			t.Errorf("remembered for too long: %v", err)
		}
		var err error
		now := time.Now()
		list, err = o.root.Revoke(nil, now, membership.Revocation{Kind: membership.RevokePeer, Key: membership.KeyOf(venus.id), Until: now.Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		if n, err := looks(value); n == 0 || err != nil {
			t.Errorf("a list about somebody else: not looked at, or %v", err)
		}
		list, err = o.root.Revoke(list, now, membership.Revocation{Kind: membership.RevokePeer, Key: membership.KeyOf(mars.id), Until: now.Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := looks(value); !errors.Is(err, membership.ErrRevoked) {
			t.Errorf("revoked, and remembered as valid: %v", err)
		}
	})
}

// A record that is remembered does not outlive its own time by more than that.
func TestValidatorExpires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newOverlay(t)
		v := newValidator(&naming.Validator{Overlay: o.ov, Now: time.Now, Revoked: func() *membership.RevocationList { return nil }})
		key, value := naming.Keys(o.ov.ID, "mars")[0], o.sign(o.member("mars"), naming.Record{})
		time.Sleep(naming.MaxLife - time.Second)
		if err := v.Validate(key, value); err != nil {
			t.Fatal(err)
		}
		time.Sleep(validFor + membership.Tolerance)
		if err := v.Validate(key, value); err == nil {
			t.Error("a record that has expired is valid")
		}
	})
}

func flip(b []byte, i int) []byte {
	out := append([]byte(nil), b...)
	out[i] ^= 1
	return out
}

// What strangers have this peer remember is bounded, and the newest stays.
func TestBounds(t *testing.T) {
	t.Parallel()
	o := newOverlay(t)
	n := o.node(o.member("earth"))
	defer n.Stop()
	for i := range cacheMax + 10 {
		id := peerid.ID{byte(i), byte(i >> 8), 7}
		n.names.setHint(id, []peerid.ID{id})
		n.runs.note(toPeer(id), false, 1)
	}
	last, first := peerid.ID{byte((cacheMax + 9) % 256), byte((cacheMax + 9) >> 8), 7}, peerid.ID{0, 0, 7}
	if n.names.hints.Len() != cacheMax || n.names.hint(last) == nil || n.names.hint(first) != nil {
		t.Errorf("%d hints", n.names.hints.Len())
	}
	if n.runs.last.Len() != serverRunsMax {
		t.Errorf("%d servers", n.runs.last.Len())
	}
	c, err := newClaims()
	if err != nil {
		t.Fatal(err)
	}
	for i := range claimsMax + 10 {
		c.note(&naming.Record{Peer: peerid.ID{byte(i), byte(i >> 8), 7}, Label: fmt.Sprint("label", i), Seq: 1}, []byte{1})
	}
	if c.byPeer.Len() != claimsMax || c.of(first) != nil || len(c.to(fmt.Sprint("label", claimsMax+9))) != 1 {
		t.Errorf("%d claims", c.byPeer.Len())
	}
}

// A server that has begun anew has lost what it was given; one that says so in each
// hello for a while is noted once.
func TestServerRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newOverlay(t)
		n := o.node(o.member("earth"))
		defer n.Stop()
		for i, c := range []struct {
			young bool
			run   uint64
			anew  bool
		}{
			{false, 1, false}, {false, 1, false}, {true, 2, true}, {true, 2, false}, {false, 2, false}, {false, 1, true},
		} {
			time.Sleep(anewEvery)
			if got := n.runs.note("server", c.young, c.run); got != c.anew {
				t.Errorf("hello %d: anew is %v", i, got)
			}
		}
		if !n.runs.note("another", true, 1) {
			t.Error("a young one that was not heard before has what it had")
		}
	})
}
