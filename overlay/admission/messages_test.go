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
	for _, n := range []numbered{{}, {number: 7}, {number: 1 << 63, list: []byte("list")}} {
		b := n.append(nil)
		if got, err := readNumbered(b); err != nil || !reflect.DeepEqual(got, n) {
			t.Errorf("%+v is read as %+v, %v", n, got, err)
		}
		for i := range b {
			if got, err := readNumbered(b[:i]); err == nil && i != 8 {
				t.Errorf("%d of %d bytes are %+v", i, len(b), got)
			}
		}
	}
	long := numbered{number: 1}.append(nil)
	if got, err := readNumbered(append(long, 0xff, 0xff, 0xff, 0xff, 1)); err == nil {
		t.Errorf("a list that is too long is %+v", got)
	}
}

// fuzz runs a parser: it must not panic, and what it accepts must come out of
// append as it went in, but for what follows it.
func fuzz[T interface{ append([]byte) []byte }](f *testing.F, read func([]byte) (T, error), seeds ...[]byte) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := read(b)
		if err != nil {
			return
		}
		if again := v.append(nil); !bytes.HasPrefix(b, again) {
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
	fuzz(f, readNumbered, numbered{number: 7}.append(nil), numbered{7, []byte("list")}.append(nil))
}
