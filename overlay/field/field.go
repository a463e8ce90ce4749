// Package field reads and writes the fields that the overlay's messages on streams are
// made of: single bytes, numbers in big endian, and strings of bytes behind their length
// in one or two bytes.
package field

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Append16 appends the length of v in two bytes, and v, which is shorter than
// 64 KiB, to b.
func Append16(b, v []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(v))), v...)
}

// Append8 appends the length of v in one byte, and v, which is shorter than 256
// bytes, to b.
func Append8(b, v []byte) []byte { return append(append(b, byte(len(v))), v...) }

// Reader reads fields. The first error sticks: after it all fields are empty. It
// is for one goroutine.
type Reader struct {
	r   io.Reader
	err error
}

// NewReader returns a Reader of what r gives.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Err returns the first error; io.EOF or io.ErrUnexpectedEOF if the message ended
// too soon.
func (f *Reader) Err() error { return f.err }

// Fail makes err the first error, if there is none yet.
func (f *Reader) Fail(err error) {
	if f.err == nil {
		f.err = err
	}
}

// Bytes returns the next n bytes, which belong to the caller; nil after an error.
func (f *Reader) Bytes(n int) []byte {
	if f.err != nil {
		return nil
	}
	b := make([]byte, n)
	if _, f.err = io.ReadFull(f.r, b); f.err != nil {
		return nil
	}
	return b
}

// Copy fills b.
func (f *Reader) Copy(b []byte) {
	if f.err == nil {
		_, f.err = io.ReadFull(f.r, b)
	}
}

// Uint8 returns the next byte.
func (f *Reader) Uint8() uint8 {
	if b := f.Bytes(1); b != nil {
		return b[0]
	}
	return 0
}

// Uint16 returns the next two bytes.
func (f *Reader) Uint16() uint16 {
	if b := f.Bytes(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

// Uint32 returns the next four bytes.
func (f *Reader) Uint32() uint32 {
	if b := f.Bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// Uint64 returns the next eight bytes.
func (f *Reader) Uint64() uint64 {
	if b := f.Bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// Short8 returns a field behind its length in one byte.
func (f *Reader) Short8() []byte { return f.Bytes(int(f.Uint8())) }

// Short16 returns a field behind its length in two bytes. More than most bytes
// are an error, and no memory is taken for them.
func (f *Reader) Short16(most int) []byte { return f.atMost(int(f.Uint16()), most) }

// Long32 returns a field behind its length in four bytes. More than most bytes
// are an error, and no memory is taken for them.
func (f *Reader) Long32(most int) []byte {
	n := f.Uint32()
	if uint64(n) > uint64(most) {
		f.Fail(fmt.Errorf("field of %d bytes, at most %d", n, most))
		return nil
	}
	return f.Bytes(int(n))
}

func (f *Reader) atMost(n, most int) []byte {
	if n > most {
		f.Fail(fmt.Errorf("field of %d bytes, at most %d", n, most))
		return nil
	}
	return f.Bytes(n)
}
