package offers

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/idloc/idloc/internal/peerid"
)

func TestRoundTrip(t *testing.T) {
	q := Request{TTL: 2, Transaction: [16]byte{1}, Target: peerid.ID{2}, From: peerid.ID{3}, Offer: bytes.Repeat([]byte{4}, MaxOffer)}
	b := q.Append(nil)
	if got, err := ParseRequest(b); err != nil || !reflect.DeepEqual(got, q) {
		t.Errorf("got %+v, %v", got, err)
	}
	for i := range b {
		if _, err := ParseRequest(b[:i]); err == nil {
			t.Fatalf("accepted %d of %d bytes", i, len(b))
		}
	}
	q.Offer = make([]byte, MaxOffer+1)
	if _, err := ParseRequest(q.Append(nil)); err == nil {
		t.Error("accepted an offer that is too long")
	}
	q.Offer, q.TTL = nil, MaxTTL+1
	if _, err := ParseRequest(q.Append(nil)); err == nil {
		t.Error("accepted a TTL that is too high")
	}
	if _, err := ParseRequest(append(b, 0)); err == nil {
		t.Error("accepted a byte too many")
	}
	b = Request{TTL: 1}.Append(nil)
	b[0] = version + 1
	if _, err := ParseRequest(b); err == nil {
		t.Error("accepted another version")
	}
	a := Response{Status: Answered, Forwarder: peerid.ID{9}, Answer: []byte("answer")}
	b = a.Append(nil)
	if got, err := ParseResponse(b); err != nil || !reflect.DeepEqual(got, a) {
		t.Errorf("got %+v, %v", got, err)
	}
	for i := range b {
		if _, err := ParseResponse(b[:i]); err == nil {
			t.Fatalf("accepted %d of %d bytes of a response", i, len(b))
		}
	}
	a.Answer = make([]byte, MaxOffer+1)
	if _, err := ParseResponse(a.Append(nil)); err == nil {
		t.Error("accepted an answer that is too long")
	}
}

// TestLayout: the first byte of each field stands where doc.go says.
func TestLayout(t *testing.T) {
	q := Request{TTL: 3, Transaction: [16]byte{0xA1}, Target: peerid.ID{0xA2}, From: peerid.ID{0xA3}, Offer: []byte{0xA4}}.Append(nil)
	for at, want := range map[int]byte{0: 1, 1: 3, 2: 0xA1, 18: 0xA2, 50: 0xA3, 82: 0, 83: 1, 84: 0xA4} {
		if q[at] != want {
			t.Errorf("request byte %d is %#x, want %#x", at, q[at], want)
		}
	}
	a := Response{Status: Silent, Forwarder: peerid.ID{0xA1}, Answer: []byte{0xA2}}.Append(nil)
	for at, want := range map[int]byte{0: 6, 1: 0xA1, 33: 0, 34: 1, 35: 0xA2} {
		if a[at] != want {
			t.Errorf("response byte %d is %#x, want %#x", at, a[at], want)
		}
	}
}

// fuzz parses b: it must not panic, and what it accepts must come out of Append
// as it went in.
func fuzz[T interface{ Append([]byte) []byte }](f *testing.F, parse func([]byte) (T, error), seeds ...[]byte) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := parse(b)
		if err != nil {
			return
		}
		if again := v.Append(nil); !bytes.Equal(again, b) {
			t.Errorf("%x parsed, %x written", b, again)
		}
	})
}

func FuzzRequest(f *testing.F) {
	fuzz(f, ParseRequest, Request{TTL: 3, Target: peerid.ID{1}, From: peerid.ID{2}, Offer: []byte("offer")}.Append(nil))
}

func FuzzResponse(f *testing.F) {
	fuzz(f, ParseResponse, Response{Forwarder: peerid.ID{1}, Answer: []byte("answer")}.Append(nil))
}
