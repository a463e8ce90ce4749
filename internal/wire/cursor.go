package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Errors of the parsers off the hot path; each is wrapped with the field's
// name.
var (
	ErrShort    = errors.New("wire: message ends early")
	ErrTrailing = errors.New("wire: bytes left over")
	ErrInvalid  = errors.New("wire: invalid value")
)

// cursor reads fields from the front of b. The first failure sticks: every
// later read returns zero, so that a parser checks err once per unit.
type cursor struct {
	b   []byte
	err error
}

func (c *cursor) fail(err error, field string) {
	if c.err == nil {
		c.err = fmt.Errorf("%w: %s", err, field)
	}
}

// take returns the next n bytes, aliasing the input; nil after a failure.
func (c *cursor) take(n int, field string) []byte {
	if c.err != nil {
		return nil
	}
	if len(c.b) < n {
		c.fail(ErrShort, field)
		return nil
	}
	v := c.b[:n:n]
	c.b = c.b[n:]
	return v
}

func (c *cursor) uint8(field string) uint8 {
	if v := c.take(1, field); v != nil {
		return v[0]
	}
	return 0
}

func (c *cursor) uint16(field string) uint16 {
	if v := c.take(2, field); v != nil {
		return binary.BigEndian.Uint16(v)
	}
	return 0
}

func (c *cursor) uint24(field string) uint32 {
	if v := c.take(3, field); v != nil {
		return uint24(v)
	}
	return 0
}

func (c *cursor) uint32(field string) uint32 {
	if v := c.take(4, field); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (c *cursor) uint64(field string) uint64 {
	if v := c.take(8, field); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

// bytes8 reads a length of one byte and that many bytes, at most limit.
func (c *cursor) bytes8(limit int, field string) []byte {
	n := int(c.uint8(field))
	if n > limit {
		c.fail(ErrInvalid, field)
		return nil
	}
	return c.take(n, field)
}

// bytes16 reads a length of two bytes and that many bytes, at most limit.
func (c *cursor) bytes16(limit int, field string) []byte {
	n := int(c.uint16(field))
	if n > limit {
		c.fail(ErrInvalid, field)
		return nil
	}
	return c.take(n, field)
}

func (c *cursor) end() error {
	if c.err == nil && len(c.b) > 0 {
		c.fail(ErrTrailing, fmt.Sprintf("%d bytes", len(c.b)))
	}
	return c.err
}

func uint24(b []byte) uint32 {
	return uint32(b[0])<<16 | uint32(b[1])<<8 | uint32(b[2])
}

func appendUint24(b []byte, v uint32) []byte {
	return append(b, byte(v>>16), byte(v>>8), byte(v))
}
