package naming

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/membership/canon"
)

// A reader's selection: what counts, what does not, and the reason if nothing
// does.
func TestSelectName(t *testing.T) {
	w := newWorld(t)
	mk := seedKey(1)
	chain := w.confirmed(t, mk, "mars", false, 1)
	var values [][]byte
	for seq := range uint64(3) {
		r := w.record(chain, "mars")
		r.Seq = seq
		values = append(values, w.sign(t, mk, r))
	}
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 2, 0}} {
		var vs [][]byte
		for _, i := range order {
			vs = append(vs, values[i])
		}
		if r := must(w.v.SelectName("mars", vs))(t); r.Seq != 2 || r.Member() == nil {
			t.Errorf("order %v: seq %d", order, r.Seq)
		}
		if n := must(w.v.Select(Key(w.o.ID, "mars", 0), vs))(t); order[n] != 2 {
			t.Errorf("order %v: %d", order, n)
		}
	}
	if n := must(w.v.Select(Key(w.o.ID, "mars", 0), [][]byte{values[1], values[1]}))(t); n != 0 {
		t.Errorf("of two equal ones number %d", n)
	}
	bad := bytes.Clone(values[2])
	bad[len(bad)-1] ^= 1
	if r := must(w.v.SelectName("mars", [][]byte{bad, values[0]}))(t); r.Seq != 0 {
		t.Errorf("seq %d", r.Seq)
	}
	if r, err := w.v.SelectName("venus", values); !errors.Is(err, ErrNoRecord) || r != nil || !strings.Contains(err.Error(), "among 3") {
		t.Errorf("another label's: %v", err)
	}
	if n, err := w.v.Select("/idloc/x", values); !errors.Is(err, ErrNoRecord) || n != 0 {
		t.Errorf("no key: %d, %v", n, err)
	}
	w.v.Now = nil
	if d := time.Since(w.v.now()); d < 0 || d > time.Minute {
		t.Errorf("a clock that is %v off", d)
	}
}

// What a record is refused for is said, by who signs and by who reads.
func TestReasons(t *testing.T) {
	w := newWorld(t)
	mk := seedKey(1)
	chain := w.confirmed(t, mk, "mars", false, 1)
	delegation := must(w.root.Delegate(idOf(mk), 0, "", time.Time{}, w.now))(t)
	if _, err := w.record(delegation, "mars").Sign(mk, w.o); !errors.Is(err, membership.ErrIncomplete) {
		t.Errorf("a chain that ends in a delegate is signed: %v", err)
	}
	contact := &ContactRecord{Seq: 1, Issued: w.now, Expires: w.now.Add(time.Hour), Chain: delegation}
	if _, err := contact.Sign(mk, w.o); !errors.Is(err, membership.ErrIncomplete) {
		t.Errorf("a contact whose chain ends in a delegate is signed: %v", err)
	}
	if _, err := Parse(append(w.record(delegation, "mars").appendBody(nil), make([]byte, 64)...)); !errors.Is(err, membership.ErrIncomplete) {
		t.Errorf("a chain that ends in a delegate is read: %v", err)
	}
	r := w.record(chain, "mars")
	r.Issued, r.Expires = r.Issued.Add(time.Millisecond), r.Expires.Add(time.Millisecond).In(time.FixedZone("", 3600))
	w.sign(t, mk, r)
	if r.Issued != w.now || r.Expires != w.now.Add(MaxLife) {
		t.Errorf("signed with %v and %v", r.Issued, r.Expires)
	}
	c := &ContactRecord{Seq: 1, Issued: w.now.Add(time.Millisecond), Expires: w.now.Add(time.Hour + time.Millisecond), Chain: chain}
	if _, err := c.Sign(seedKey(2), w.o); !errors.Is(err, ErrSignature) {
		t.Errorf("another's contact is signed: %v", err)
	}
	if _, err := c.Sign(mk, w.o); err != nil || c.Issued != w.now || c.Expires != w.now.Add(time.Hour) {
		t.Errorf("%v, %v, %v", c.Issued, c.Expires, err)
	}
	c.Addrs = []string{"192.0.2.1"}
	if _, err := c.Sign(mk, w.o); err == nil || !strings.Contains(err.Error(), `address "192.0.2.1"`) {
		t.Errorf("what is no address: %v", err)
	}
	// As large as a record may be, and a byte more.
	sized := func(n int) error {
		c.Addrs = nil
		for range 7 {
			c.Addrs = append(c.Addrs, "/dns4/"+strings.Repeat("a", 230)+"/udp/1")
		}
		body, err := c.appendBody(nil)
		if err != nil {
			t.Fatal(err)
		}
		rest := n - len(body) - canon.SignatureSize - 8 // what stands around the name
		c.Addrs = append(c.Addrs, "/dns4/"+strings.Repeat("b", rest)+"/udp/1")
		_, err = c.Sign(mk, w.o)
		return err
	}
	chain = w.confirmed(t, mk, "mars", false, 1)
	if err := sized(MaxRecord); err != nil {
		t.Errorf("as large as may be: %v", err)
	}
	if err := sized(MaxRecord + 1); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a byte more: %v", err)
	}
	if k := Key(w.o.ID, "mars", 0)[len("/idloc/"):]; isKey(k) {
		t.Error("a key without its namespace")
	}
	list := w.follow(t, nil)
	for list.Seq() < 255 {
		list = w.follow(t, list)
	}
	next := w.follow(t, list) // number 256 begins with a lower byte than 255
	a, b := rank{list: list, value: RevocationValue(list)}, rank{list: next, value: RevocationValue(next)}
	if a.compare(b) != -1 || b.compare(a) != 1 {
		t.Error("lists go by their bytes, not their numbers")
	}
	if _, err := w.v.OpenRevocation(RevocationKey(w.o.ID), []byte{'R', 7, 1}); err == nil || !strings.Contains(err.Error(), "version 7") {
		t.Error(err)
	}
	good := w.sign(t, mk, w.record(chain, "mars"))
	bad := bytes.Clone(good)
	bad[len(bad)-1] ^= 1
	if r := must(w.v.SelectName("mars", [][]byte{good, bad, nil}))(t); r.Peer != idOf(mk) {
		t.Error("a bad record after a good one")
	}
}

// Origin says whose a record is, of both kinds that are a peer's, and nothing of
// what is no peer's.
func TestOrigin(t *testing.T) {
	w := newWorld(t)
	mk := seedKey(1)
	chain := w.confirmed(t, mk, "mars", false, 1)
	contact := &ContactRecord{Seq: 1, Issued: w.now, Expires: w.now.Add(time.Hour), Chain: chain}
	for what, value := range map[string][]byte{"name": w.sign(t, mk, w.record(chain, "mars")), "contact": must(contact.Sign(mk, w.o))(t)} {
		peer, charged, ok := Origin(value)
		if want := must(membership.Claimed(chain))(t).Account(); !ok || peer != idOf(mk) || charged != want {
			t.Errorf("%s: %v, %v, %v", what, peer, charged, ok)
		}
	}
	for what, value := range map[string][]byte{"list": RevocationValue(w.follow(t, nil)), "nothing": nil} {
		if peer, _, ok := Origin(value); ok || !peer.IsZero() {
			t.Errorf("%s: %v", what, peer)
		}
	}
}
