package handshake

import (
	"fmt"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/wire"
)

// What offers and answers have around the Noise messages.

const (
	// MaxMessage is how many bytes an offer or an answer may have.
	MaxMessage = 4096
	// AnswerOverhead is how many an answer has beyond its payload.
	AnswerOverhead = 1 + ephemeralLen + wire.TagLen

	offerHeader = 1 + peerid.Size
	noiseIKHead = ephemeralLen + 32 + wire.TagLen // e, sealed s
)

// AppendOfferHeader writes the clear part before Noise message 1: the responder
// needs the initiator's ID for the prologue, by which it is bound.
func AppendOfferHeader(b []byte, initiator peerid.ID) []byte {
	return append(append(b, Version), initiator[:]...)
}

// AppendAnswerHeader writes the clear part before Noise message 2.
func AppendAnswerHeader(b []byte) []byte { return append(b, Version) }

// ParseOffer returns who claims to have made an offer, and Noise message 1,
// which aliases b.
func ParseOffer(b []byte) (initiator peerid.ID, msg []byte, err error) {
	switch {
	case len(b) > MaxMessage:
		return peerid.ID{}, nil, fmt.Errorf("%w: offer of %d bytes", ErrFailed, len(b))
	case len(b) < offerHeader+noiseIKHead+wire.TagLen:
		return peerid.ID{}, nil, fmt.Errorf("%w: offer ends early", ErrFailed)
	case b[0] != Version:
		return peerid.ID{}, nil, fmt.Errorf("%w: offer of version %d", ErrFailed, b[0])
	}
	return peerid.ID(b[1:offerHeader]), b[offerHeader:], nil
}

// ParseAnswer returns Noise message 2 of an answer, which aliases b.
func ParseAnswer(b []byte) (msg []byte, err error) {
	switch {
	case len(b) > MaxMessage:
		return nil, fmt.Errorf("%w: answer of %d bytes", ErrFailed, len(b))
	case len(b) < AnswerOverhead:
		return nil, fmt.Errorf("%w: answer ends early", ErrFailed)
	case b[0] != Version:
		return nil, fmt.Errorf("%w: answer of version %d", ErrFailed, b[0])
	}
	return b[1:], nil
}
