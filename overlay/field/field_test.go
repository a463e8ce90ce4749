package field

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func TestFields(t *testing.T) {
	b := Append16(Append8([]byte{7, 1, 2}, []byte("mars")), []byte("earth"))
	b = append(b, 0, 0, 0, 3, 'a', 'b', 'c', 0, 0, 0, 0, 0, 0, 0, 9, 'x', 'y')
	f := NewReader(bytes.NewReader(b))
	var two [2]byte
	if f.Uint8() != 7 || f.Uint16() != 0x102 || string(f.Short8()) != "mars" || string(f.Short16(5)) != "earth" || string(f.Long32(3)) != "abc" || f.Uint64() != 9 {
		t.Error("not what was written")
	}
	if f.Copy(two[:]); string(two[:]) != "xy" || f.Err() != nil {
		t.Errorf("%q, %v", two, f.Err())
	}
	for i := range b {
		f := NewReader(bytes.NewReader(b[:i]))
		f.Uint8()
		f.Uint16()
		f.Short8()
		f.Short16(5)
		f.Long32(3)
		f.Uint64()
		f.Copy(two[:])
		if err := f.Err(); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d of %d bytes: %v", i, len(b), err)
		}
		if f.Bytes(1) != nil || f.Uint32() != 0 || len(f.Short16(9)) != 0 {
			t.Errorf("%d of %d bytes: something after the error", i, len(b))
		}
	}
}

func TestTooLong(t *testing.T) {
	f := NewReader(bytes.NewReader(Append16(nil, []byte("earth"))))
	if got := f.Short16(4); got != nil || f.Err() == nil {
		t.Errorf("%q, %v", got, f.Err())
	}
	f = NewReader(bytes.NewReader([]byte{0xff, 0xff, 0xff, 0xff, 1}))
	if got := f.Long32(1 << 20); got != nil || f.Err() == nil {
		t.Errorf("%q, %v", got, f.Err())
	}
	first := errors.New("first")
	f = NewReader(bytes.NewReader([]byte{1}))
	f.Fail(first)
	f.Fail(errors.New("second"))
	if f.Uint8() != 0 || f.Err() != first {
		t.Errorf("%v", f.Err())
	}
}

// A reader that fails in the middle of a field is told as it fails, and a field without
// a byte is one all the same.
func TestAnnounced(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	f := NewReader(io.MultiReader(bytes.NewReader([]byte{0, 9, 'm', 'a'}), errReader{broken}))
	if got := f.Short16(9); got != nil || !errors.Is(f.Err(), broken) {
		t.Errorf("%q, %v", got, f.Err())
	}
	f = NewReader(bytes.NewReader([]byte{0, 0, 0, 0, 0}))
	if a, b := f.Short16(0), f.Short16(0); a == nil || b == nil || f.Err() != nil {
		t.Errorf("empty fields: %v, %v, %v", a, b, f.Err())
	}
}

// errReader fails.
type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }
