package canon

import (
	"encoding/binary"
	"errors"
	"fmt"
)

var (
	// ErrNonCanonical: the bytes are not the one encoding of a value: cut
	// short, followed by more, a varint longer than needed, a flag that does
	// not exist.
	ErrNonCanonical = errors.New("not in canonical form")
	// ErrSignature: a signature does not verify.
	ErrSignature = errors.New("signature does not verify")
)

// A Reader takes values off the front of a byte string. The first failure
// sticks: later calls return zero values, and Err and End report it. Not for
// concurrent use.
type Reader struct {
	b   []byte // aliased, never written
	err error
}

// NewReader reads b, which it aliases.
func NewReader(b []byte) *Reader { return &Reader{b: b} }

// Err returns the first failure.
func (r *Reader) Err() error { return r.err }

// Len returns how many bytes are left; 0 after a failure.
func (r *Reader) Len() int { return len(r.b) }

// Fail records a failure found by the caller, wrapped in ErrNonCanonical.
func (r *Reader) Fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrNonCanonical, fmt.Sprintf(format, args...))
		r.b = nil
	}
}

// End says that nothing may follow, and returns the first failure.
func (r *Reader) End() error {
	if r.err == nil && len(r.b) != 0 {
		r.Fail("%d bytes after the end", len(r.b))
	}
	return r.err
}

// Byte takes one byte.
func (r *Reader) Byte() byte {
	b := r.Bytes(1)
	if b == nil {
		return 0
	}
	return b[0]
}

// Bytes takes n bytes; the result aliases the input. nil after a failure.
func (r *Reader) Bytes(n int) []byte {
	if r.err != nil {
		return nil
	}
	if n < 0 || len(r.b) < n {
		r.Fail("%d bytes where %d are needed", len(r.b), n)
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

// Key takes 32 bytes.
func (r *Reader) Key() (k [32]byte) {
	copy(k[:], r.Bytes(len(k)))
	return k
}

// Uvarint takes an unsigned varint in its shortest form.
func (r *Reader) Uvarint() uint64 {
	if r.err != nil {
		return 0
	}
	v, n := binary.Uvarint(r.b)
	if n <= 0 || (n > 1 && r.b[n-1] == 0) {
		r.Fail("varint")
		return 0
	}
	r.b = r.b[n:]
	return v
}

// Short takes a byte string behind a one-byte length; the result aliases the
// input.
func (r *Reader) Short() []byte { return r.Bytes(int(r.Byte())) }

// Long takes a byte string behind a two-byte big-endian length; the result
// aliases the input.
func (r *Reader) Long() []byte {
	n := r.Bytes(2)
	if n == nil {
		return nil
	}
	return r.Bytes(int(binary.BigEndian.Uint16(n)))
}

// AppendShort is Short's counterpart; s must not exceed 255 bytes.
func AppendShort[S ~string | ~[]byte](b []byte, s S) []byte {
	if len(s) > 0xff {
		panic("canon: short string too long")
	}
	return append(append(b, byte(len(s))), s...)
}

// AppendLong is Long's counterpart; s must not exceed 65,535 bytes.
func AppendLong(b, s []byte) []byte {
	if len(s) > 0xffff {
		panic("canon: long string too long")
	}
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}
