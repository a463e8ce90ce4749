package mesh

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/idloc/idloc/overlay/membership"
)

// Protocol is one of the protocols that members speak with each other: one
// request and one answer, on a stream of their own; the end of the stream ends
// each. Both sides have the same value.
type Protocol struct {
	Name       string        // in libp2p's ID, after the overlay's prefix
	MaxRequest int           // bytes
	MaxAnswer  int           // bytes
	Timeout    time.Duration // of who answers, from the stream's start to the answer's last byte
}

// Prefix begins the protocol IDs of an overlay: peers of two overlays on one address
// do not even agree on a protocol.
func Prefix(overlay [32]byte) protocol.ID {
	return protocol.ID("/idloc/" + hex.EncodeToString(overlay[:8]))
}

// ID is the protocol's name as libp2p has it, in the overlay with a prefix.
func (p Protocol) ID(prefix protocol.ID) protocol.ID { return prefix + protocol.ID("/"+p.Name+"/1") }

// Handler answers the requests of members. It is called on a goroutine of its own
// for each, with the member as it is admitted and the request, which is the
// handler's. The answer is sent, and nothing of it kept; an error ends the stream
// without one. ctx ends when the host does, or with the protocol's Timeout.
type Handler func(ctx context.Context, from *membership.Member, request []byte) (answer []byte, err error)

// TooLongError says that a request or an answer has more bytes than its protocol
// allows.
type TooLongError struct {
	What string
	Most int // bytes
}

func (e *TooLongError) Error() string { return fmt.Sprintf("%s of more than %d bytes", e.What, e.Most) }

// Exchange sends a request, which is borrowed, on a stream that nothing was sent
// on, and returns the answer, which may be empty and is the caller's. It waits
// until ctx ends, and returns ctx.Err() then. The stream is over when it returns.
func (p Protocol) Exchange(ctx context.Context, s network.Stream, request []byte) ([]byte, error) {
	defer s.Reset()
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	defer stop()
	answer, err := p.exchange(s, request)
	if err != nil && ctx.Err() != nil {
		err = ctx.Err() // why the stream was reset
	}
	return answer, err
}

func (p Protocol) exchange(s network.Stream, request []byte) ([]byte, error) {
	if len(request) > 0 {
		if _, err := s.Write(request); err != nil {
			return nil, err
		}
	}
	// Where an answer has come before the request's end, this fails: the answer
	// is read all the same.
	_ = s.CloseWrite()
	return readAll(s, "answer", p.MaxAnswer)
}

// Serve reads a member's request from a stream, answers it and ends the stream.
// The error says why there was no answer, or that it did not get through.
func (p Protocol) Serve(ctx context.Context, s network.Stream, from *membership.Member, answer Handler) error {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	_ = s.SetDeadline(deadline)
	request, err := readAll(s, "request", p.MaxRequest)
	var b []byte
	if err == nil {
		b, err = answer(ctx, from, request)
	}
	if err == nil && len(b) > 0 {
		_, err = s.Write(b)
	}
	if err != nil {
		_ = s.Reset()
		return err
	}
	return s.Close()
}

// readAll reads to the end of a stream, at most so many bytes.
func readAll(r io.Reader, what string, most int) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, int64(most)+1))
	if err == nil && len(b) > most {
		err = &TooLongError{what, most}
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}
