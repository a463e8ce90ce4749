package carrier

import (
	"encoding/binary"
	"errors"
)

// MaxDatagram is the longest datagram that a carrier takes.
const MaxDatagram = 2048

const frameHeader = 2

// errFrame ends a carrier: what comes next cannot be found.
var errFrame = errors.New("a frame of no length, or longer than any datagram")

// appendFrame appends a datagram of 1 to MaxDatagram bytes as a frame.
func appendFrame(b, datagram []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(datagram)))
	return append(b, datagram...)
}

// nextFrame takes the first frame off b. datagram is a part of b; nil without an
// error says that b does not hold all of it yet.
func nextFrame(b []byte) (datagram, rest []byte, err error) {
	if len(b) < frameHeader {
		return nil, b, nil
	}
	n := int(binary.BigEndian.Uint16(b))
	switch {
	case n == 0 || n > MaxDatagram:
		return nil, b, errFrame
	case len(b) < frameHeader+n:
		return nil, b, nil
	}
	return b[frameHeader : frameHeader+n], b[frameHeader+n:], nil
}

// runs hands out the datagrams of b, whole frames back to back, and returns what is
// left: the head of one that has not come yet. Datagrams of one length, and of one
// first byte, that follow each other are handed out as one run, the last of which may
// be shorter; they are moved together in b for that. What is handed out is borrowed.
func runs(b []byte, out func(run []byte, seg int)) (rest []byte, n int, err error) {
	var run []byte
	seg := 0
	flush := func() {
		if len(run) > 0 {
			out(run, seg)
		}
		run = nil
	}
	for {
		d, after, err := nextFrame(b)
		if d == nil || err != nil {
			flush()
			return b, n, err
		}
		n++
		b = after
		if run != nil && len(d) <= seg && d[0] == run[0] {
			run = append(run, d...) // lies before d in the same array
			if len(d) < seg {
				flush()
			}
			continue
		}
		flush()
		run, seg = d, len(d)
	}
}
