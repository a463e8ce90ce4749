package mesh

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// maxProposal bounds one message of multistream-select.
const maxProposal = 1024

var errProposal = errors.New("malformed negotiation")

// serveStream is what the swarm calls for each stream that a peer opens. It does what
// libp2p's host would, but a peer that has not come through the gate is answered
// nothing but its hello, not even whether a protocol is known. A member may ask before
// its hello was read; such a stream waits.
func (g *gate) serveStream(s network.Stream) {
	_ = s.SetDeadline(time.Now().Add(negotiateTimeout))
	if !g.inside(s.Conn()) {
		said, proposal, err := peekProposal(s)
		if err == nil && proposal != g.proto {
			err = g.awaitEntry(s.Conn())
		}
		if err != nil {
			_ = s.ResetWithError(network.StreamProtocolNegotiationFailed)
			return
		}
		s = &peekedStream{s, io.MultiReader(bytes.NewReader(said), s)}
	}
	paid, err := g.admitStream(s)
	if err != nil {
		_ = s.ResetWithError(network.StreamRateLimited)
		return
	}
	s = paid
	_ = s.SetDeadline(time.Now().Add(negotiateTimeout)) // what it waited for is not its fault
	id, handle, err := g.host.Mux().Negotiate(s)
	if err != nil {
		_ = s.ResetWithError(network.StreamProtocolNegotiationFailed)
		return
	}
	_ = s.SetDeadline(time.Time{})
	if err := s.SetProtocol(id); err != nil {
		_ = s.ResetWithError(network.StreamResourceLimitExceeded)
		return
	}
	_ = handle(id, s)
}

// inside says whether the peer of a connection has come through the gate.
func (g *gate) inside(c network.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := g.doors[c.RemotePeer()]
	return d != nil && d.Member != nil
}

// awaitEntry waits until the peer of a connection has come through the gate.
func (g *gate) awaitEntry(c network.Conn) error {
	ctx, cancel := context.WithTimeout(g.ctx, helloTimeout)
	defer cancel()
	_, err := g.wait(ctx, c.RemotePeer())
	return err
}

// peekedStream is a stream of which something was read that is to be read again.
type peekedStream struct {
	network.Stream
	r io.Reader
}

func (s *peekedStream) Read(b []byte) (int, error) { return s.r.Read(b) }

// peekProposal reads what a stream begins with by multistream-select, its header and
// the first protocol that is proposed, and returns the bytes as they came.
func peekProposal(r io.Reader) (said []byte, proposal protocol.ID, err error) {
	for range 2 {
		n, err := binary.ReadUvarint(tee{r, &said})
		if err != nil {
			return nil, "", err
		}
		if n == 0 || n > maxProposal {
			return nil, "", errProposal
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, "", err
		}
		if b[n-1] != '\n' {
			return nil, "", errProposal
		}
		said = append(said, b...)
		proposal = protocol.ID(b[:n-1])
	}
	return said, proposal, nil
}

// tee reads byte by byte and keeps what it has read.
type tee struct {
	r    io.Reader
	kept *[]byte
}

func (k tee) ReadByte() (byte, error) {
	var b [1]byte
	_, err := io.ReadFull(k.r, b[:])
	if err == nil {
		*k.kept = append(*k.kept, b[0])
	}
	return b[0], err
}
