package overlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A hello, in both directions (DESIGN §8, §14.1):
//
//	0      0 welcome: a hello follows; 1 refused: the reason follows
//	1      version, 1
//	2      flags
//	3..10  number of the newest revocation list known, big endian
//	11..12 length of the chain, big endian
//	13..   the sender's membership chain
//
// A refusal is the byte 1, a two-byte length and the reason as text.
const (
	helloWelcome = 0
	helloRefused = 1

	helloVersion   = 1
	helloHeaderLen = 12
	maxChain       = 8 << 10
	maxReason      = 512

	// Flags of a hello.
	flagServer  = 1 << 0 // keeps a part of the distributed database
	flagNoRelay = 1 << 1 // forwards nothing for others
	flagIssuer  = 1 << 2 // can confirm memberships (founder or delegate)
	flagKeep    = 1 << 3 // the sender is found through this connection (keep.go)
)

var errHello = errors.New("malformed hello")

// hello is what a peer says about itself before anything else.
type hello struct {
	flags      uint8
	revocation uint64
	chain      []byte
}

func (h hello) append(b []byte) []byte {
	b = append(b, helloVersion, h.flags)
	b = binary.BigEndian.AppendUint64(b, h.revocation)
	b = binary.BigEndian.AppendUint16(b, uint16(len(h.chain)))
	return append(b, h.chain...)
}

func appendRefusal(b []byte, reason string) []byte {
	if len(reason) > maxReason {
		reason = reason[:maxReason]
	}
	b = append(b, helloRefused)
	b = binary.BigEndian.AppendUint16(b, uint16(len(reason)))
	return append(b, reason...)
}

// refusedError is the other side's reason to refuse us. It is a stranger's
// text: shown, never acted on.
type refusedError struct{ reason string }

func (e *refusedError) Error() string { return fmt.Sprintf("refused by the peer: %q", e.reason) }

// readHello reads one hello or refusal.
func readHello(r io.Reader) (hello, error) {
	var status [1]byte
	if _, err := io.ReadFull(r, status[:]); err != nil {
		return hello{}, err
	}
	switch status[0] {
	case helloWelcome:
	case helloRefused:
		var n [2]byte
		if _, err := io.ReadFull(r, n[:]); err != nil {
			return hello{}, err
		}
		size := int(binary.BigEndian.Uint16(n[:]))
		if size > maxReason {
			return hello{}, errHello
		}
		reason := make([]byte, size)
		if _, err := io.ReadFull(r, reason); err != nil {
			return hello{}, err
		}
		return hello{}, &refusedError{string(reason)}
	default:
		return hello{}, errHello
	}
	var head [helloHeaderLen]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return hello{}, err
	}
	if head[0] != helloVersion {
		return hello{}, fmt.Errorf("%w: version %d", errHello, head[0])
	}
	h := hello{flags: head[1], revocation: binary.BigEndian.Uint64(head[2:])}
	size := int(binary.BigEndian.Uint16(head[10:]))
	if size > maxChain {
		return hello{}, fmt.Errorf("%w: chain of %d bytes", errHello, size)
	}
	h.chain = make([]byte, size)
	if _, err := io.ReadFull(r, h.chain); err != nil {
		return hello{}, err
	}
	return h, nil
}
