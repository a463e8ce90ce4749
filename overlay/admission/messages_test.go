package admission

import (
	"bytes"
	"reflect"
	"testing"
)

func TestConfirmRoundTrip(t *testing.T) {
	q := confirmQuestion{hops: 1, label: "mars", chain: []byte("chain")}
	b := q.append(nil)
	if got, err := readConfirmQuestion(b); err != nil || !reflect.DeepEqual(got, q) {
		t.Errorf("got %+v, %v", got, err)
	}
	for i := range b {
		if got, err := readConfirmQuestion(b[:i]); err == nil {
			t.Errorf("%d of %d bytes are %+v", i, len(b), got)
		}
	}
	if got, err := readConfirmQuestion(append([]byte{confirmVersion + 1}, b[1:]...)); err == nil {
		t.Errorf("a newer version is %+v", got)
	}
	a := confirmAnswer{status: confirmOK, text: "mars-2", chain: []byte("chain"), delegation: []byte("delegation")}
	b = a.append(nil)
	if got, err := readConfirmAnswer(b); err != nil || !reflect.DeepEqual(got, a) {
		t.Errorf("got %+v, %v", got, err)
	}
	for i := range b {
		if got, err := readConfirmAnswer(b[:i]); err == nil {
			t.Errorf("%d of %d bytes are %+v", i, len(b), got)
		}
	}
}

func TestNumberedRoundTrip(t *testing.T) {
	for _, n := range []numbered{{}, {number: 7}, {number: 1 << 63, list: []byte("list")}, {number: 1, at: 1 << 40, assurance: []byte("assurance")}, {list: []byte("l"), digest: 3, proposed: 1 << 62, proposals: []byte("proposals")}} {
		b := n.append(nil)
		got, err := readNumbered(b)
		if err != nil || got.number != n.number || string(got.list) != string(n.list) || got.at != n.at || string(got.assurance) != string(n.assurance) ||
			got.digest != n.digest || got.proposed != n.proposed || string(got.proposals) != string(n.proposals) {
			t.Errorf("%+v is read as %+v, %v", n, got, err)
		}
		for i := range b {
			if got, err := readNumbered(b[:i]); err == nil && i != 16+4+len(n.list) && i != 16+4+len(n.list)+8+2+len(n.assurance) {
				t.Errorf("%d of %d bytes are %+v", i, len(b), got)
			}
		}
	}
	long := numbered{number: 1}.append(nil)[:16]
	if got, err := readNumbered(append(long, 0xff, 0xff, 0xff, 0xff, 1)); err == nil {
		t.Errorf("a list that is too long is %+v", got)
	}
}

// fuzz runs a parser: it must not panic, and what it accepts must come out of
// append as it went in, but for what follows it, or is left out at its end.
func fuzz[T interface{ append([]byte) []byte }](f *testing.F, read func([]byte) (T, error), seeds ...[]byte) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := read(b)
		if err != nil {
			return
		}
		if again := v.append(nil); !bytes.HasPrefix(b, again) && !bytes.HasPrefix(again, b) {
			t.Errorf("%x read, %x written", b, again)
		}
	})
}

func FuzzConfirmQuestion(f *testing.F) {
	fuzz(f, readConfirmQuestion, confirmQuestion{hops: 1, label: "mars", chain: []byte("chain")}.append(nil))
}

func FuzzConfirmAnswer(f *testing.F) {
	fuzz(f, readConfirmAnswer, confirmAnswer{text: "mars", chain: []byte("chain")}.append(nil))
}

func FuzzNumbered(f *testing.F) {
	fuzz(f, readNumbered, numbered{number: 7}.append(nil), numbered{number: 7, list: []byte("list"), at: 8, assurance: []byte("assurance"), proposed: 9, proposals: []byte("proposals")}.append(nil))
}
