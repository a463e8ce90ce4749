package offers

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/idloc/idloc/internal/peerid"
)

const (
	version = 1
	// MaxTTL is how many members may pass a request on, one after the other.
	MaxTTL = 3
	// MaxOffer bounds an offer and an answer, in bytes.
	MaxOffer = 4096

	requestHead  = 1 + 1 + 16 + 2*peerid.Size + 2
	responseHead = 1 + peerid.Size + 2

	// MaxRequest and MaxResponse bound the messages, in bytes.
	MaxRequest  = requestHead + MaxOffer
	MaxResponse = responseHead + MaxOffer
)

var errShort = errors.New("offer: the message ends too soon")

// Status is what a Response says of the request. It is the word of whoever says
// it: refuse.go tells when it counts.
type Status uint8

// The statuses, with their values on the wire.
const (
	Answered Status = 0
	NotHere  Status = 1 // the forwarder has no connection to the target
	Glare    Status = 2 // the target's own offer, under way, stands
	Busy     Status = 3 // rate limit
	Refused  Status = 4 // the target does not accept it
	Loop     Status = 5 // the forwarder has seen it before
	Silent   Status = 6 // the target, though connected, did not answer in time
)

// Request is an offer, or late candidates in its place, on the way to its target.
type Request struct {
	TTL          uint8
	Transaction  [16]byte // of one way; a forwarder passes it on once
	Target, From peerid.ID
	Offer        []byte
}

// Response is what comes back.
type Response struct {
	Status    Status
	Forwarder peerid.ID // the member that passed the request on; zero is none
	Answer    []byte
}

// Append appends the request's wire form to b.
func (q Request) Append(b []byte) []byte {
	b = append(b, version, q.TTL)
	b = append(b, q.Transaction[:]...)
	b = append(b, q.Target[:]...)
	b = append(b, q.From[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(q.Offer)))
	return append(b, q.Offer...)
}

// Append appends the response's wire form to b.
func (a Response) Append(b []byte) []byte {
	b = append(b, uint8(a.Status))
	b = append(b, a.Forwarder[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(a.Answer)))
	return append(b, a.Answer...)
}

// ParseRequest reads a request, whose offer is a part of b.
func ParseRequest(b []byte) (Request, error) {
	var q Request
	if len(b) < requestHead {
		return q, errShort
	}
	if b[0] != version {
		return q, fmt.Errorf("offer: version %d", b[0])
	}
	if q.TTL = b[1]; q.TTL > MaxTTL {
		return q, fmt.Errorf("offer: TTL %d", q.TTL)
	}
	b = b[2:]
	b = b[copy(q.Transaction[:], b):]
	b = b[copy(q.Target[:], b):]
	b = b[copy(q.From[:], b):]
	var err error
	q.Offer, err = parseBody(b)
	return q, err
}

// ParseResponse reads a response, whose answer is a part of b.
func ParseResponse(b []byte) (Response, error) {
	var a Response
	if len(b) < responseHead {
		return a, errShort
	}
	a.Status = Status(b[0])
	b = b[1:]
	b = b[copy(a.Forwarder[:], b):]
	var err error
	a.Answer, err = parseBody(b)
	return a, err
}

// parseBody reads the rest of a message: a length, in two bytes that are there,
// and so many bytes.
func parseBody(b []byte) ([]byte, error) {
	n := int(binary.BigEndian.Uint16(b))
	b = b[2:]
	switch {
	case n > MaxOffer:
		return nil, fmt.Errorf("offer: %d bytes, at most %d", n, MaxOffer)
	case n > len(b):
		return nil, errShort
	case n < len(b):
		return nil, fmt.Errorf("offer: %d bytes too many", len(b)-n)
	}
	return b, nil
}
