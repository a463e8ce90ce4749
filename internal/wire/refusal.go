package wire

import "fmt"

// Refusal is what stands in the place of an answer's payload when the peer does
// not accept an offer, and why. It is sealed as an answer is: whoever carries it
// cannot make one.
//
//	1  kind    3 refusal
//	1  reason
type Refusal uint8

// The reasons.
const (
	Refused Refusal = 1 // the peer will not
	Glare   Refusal = 2 // the peer's own offer, under way, stands
)

const kindRefusal = 3

// Append appends r.
func (r Refusal) Append(b []byte) []byte { return append(b, kindRefusal, byte(r)) }

// ParseRefusal reads a refusal that fills b; ok is false if it is something
// else, such as an answer.
func ParseRefusal(b []byte) (r Refusal, ok bool) {
	if len(b) != 2 || b[0] != kindRefusal || Refusal(b[1]) != Refused && Refusal(b[1]) != Glare {
		return 0, false
	}
	return Refusal(b[1]), true
}

// String returns the reason as errors say it.
func (r Refusal) String() string {
	switch r {
	case Refused:
		return "refused"
	case Glare:
		return "the peer's own offer stands"
	}
	return fmt.Sprintf("Refusal(%d)", uint8(r))
}
