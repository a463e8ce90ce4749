package mesh

import (
	"context"
	"slices"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	msmux "github.com/multiformats/go-multistream"
)

// openStream opens a stream on the newest connection to p, the one that proved
// alive last: after a crash of p the old one looks alive for half a minute. The
// protocol is negotiated with the first bytes written, which saves a round trip.
func openStream(ctx context.Context, h host.Host, p peer.ID, pid protocol.ID) (network.Stream, error) {
	conns := h.Network().ConnsToPeer(p)
	slices.SortStableFunc(conns, func(a, b network.Conn) int { return b.Stat().Opened.Compare(a.Stat().Opened) })
	err := network.ErrNoConn
	for _, c := range conns {
		var s network.Stream
		if s, err = c.NewStream(ctx); err != nil {
			continue
		}
		if err = s.SetProtocol(pid); err != nil {
			_ = s.Reset()
			continue
		}
		return &lazyStream{Stream: s, rw: msmux.NewMSSelect(s, pid)}, nil
	}
	return nil, err
}

// lazyStream is a stream whose protocol is negotiated along with its first
// bytes. Reads and writes may each be used by one goroutine.
type lazyStream struct {
	network.Stream
	rw msmux.LazyConn
}

func (s *lazyStream) Read(b []byte) (int, error)  { return s.rw.Read(b) }
func (s *lazyStream) Write(b []byte) (int, error) { return s.rw.Write(b) }

// CloseWrite negotiates too, for a question without words.
func (s *lazyStream) CloseWrite() error {
	if err := s.rw.Flush(); err != nil {
		return err
	}
	return s.Stream.CloseWrite()
}

// stream opens a stream to a connected member without dialling.
func (g *gate) stream(ctx context.Context, p peer.ID, pid protocol.ID) (network.Stream, error) {
	if _, err := g.wait(ctx, p); err != nil {
		return nil, err
	}
	return openStream(ctx, g.host, p, pid)
}
