package quictransport

import (
	"context"
	"errors"
	"math"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/quic-go/quic-go"
)

// conn is a QUIC connection as libp2p sees it. It may be used by any number of
// goroutines.
type conn struct {
	t             *Transport
	over          *Carried // nil: it goes over UDP, or came in
	qc            *quic.Conn
	scope         network.ConnManagementScope
	peer          peer.ID
	key           crypto.PubKey
	local, remote ma.Multiaddr
}

var _ transport.CapableConn = (*conn)(nil)

// As implements network.MuxedConn: the QUIC connection can be had.
func (c *conn) As(target any) bool {
	q, ok := target.(**quic.Conn)
	if ok {
		*q = c.qc
	}
	return ok
}

// Close implements network.MuxedConn.
func (c *conn) Close() error { return c.CloseWithError(0) }

// CloseWithError implements network.MuxedConn. It must be called even if the
// other side has closed.
func (c *conn) CloseWithError(code network.ConnErrorCode) error {
	err := c.qc.CloseWithError(quic.ApplicationErrorCode(code), "")
	c.scope.Done()
	return err
}

// IsClosed implements network.MuxedConn.
func (c *conn) IsClosed() bool { return c.qc.Context().Err() != nil }

// OpenStream implements network.MuxedConn.
func (c *conn) OpenStream(ctx context.Context) (network.MuxedStream, error) {
	s, err := c.qc.OpenStreamSync(ctx)
	if err != nil {
		return nil, libp2pError(err)
	}
	return &stream{s}, nil
}

// AcceptStream implements network.MuxedConn.
func (c *conn) AcceptStream() (network.MuxedStream, error) {
	s, err := c.qc.AcceptStream(context.Background())
	if err != nil {
		return nil, libp2pError(err)
	}
	return &stream{s}, nil
}

// What libp2p asks about a connection.
func (c *conn) LocalPeer() peer.ID             { return c.t.self }
func (c *conn) RemotePeer() peer.ID            { return c.peer }
func (c *conn) RemotePublicKey() crypto.PubKey { return c.key }
func (c *conn) LocalMultiaddr() ma.Multiaddr   { return c.local }
func (c *conn) RemoteMultiaddr() ma.Multiaddr  { return c.remote }
func (c *conn) Transport() transport.Transport {
	if c.over != nil {
		return c.over
	}
	return c.t
}
func (c *conn) Scope() network.ConnScope { return c.scope }
func (c *conn) ConnState() network.ConnectionState {
	return network.ConnectionState{Transport: "quic-v1"}
}

// stream is a QUIC stream as libp2p sees it. Reads and writes may each be used
// by one goroutine.
type stream struct{ *quic.Stream }

var _ network.MuxedStream = (*stream)(nil)

// Read implements network.MuxedStream.
func (s *stream) Read(b []byte) (int, error) {
	n, err := s.Stream.Read(b)
	return n, libp2pError(err)
}

// Write implements network.MuxedStream.
func (s *stream) Write(b []byte) (int, error) {
	n, err := s.Stream.Write(b)
	return n, libp2pError(err)
}

// Reset implements network.MuxedStream.
func (s *stream) Reset() error { return s.ResetWithError(0) }

// ResetWithError implements network.MuxedStream.
func (s *stream) ResetWithError(code network.StreamErrorCode) error {
	s.Stream.CancelRead(quic.StreamErrorCode(code))
	s.Stream.CancelWrite(quic.StreamErrorCode(code))
	return nil
}

// Close implements network.MuxedStream.
func (s *stream) Close() error {
	s.Stream.CancelRead(0)
	return s.Stream.Close()
}

// CloseRead implements network.MuxedStream.
func (s *stream) CloseRead() error {
	s.Stream.CancelRead(0)
	return nil
}

// CloseWrite implements network.MuxedStream.
func (s *stream) CloseWrite() error { return s.Stream.Close() }

// libp2pError turns what QUIC says of a stream's or a connection's end into
// libp2p's words.
func libp2pError(err error) error {
	if err == nil {
		return nil
	}
	if se := (*quic.StreamError)(nil); errors.As(err, &se) {
		code := network.StreamErrorCode(network.StreamCodeOutOfRange)
		if se.ErrorCode <= math.MaxUint32 {
			code = network.StreamErrorCode(se.ErrorCode)
		}
		return &network.StreamError{ErrorCode: code, Remote: se.Remote, TransportError: se}
	}
	if ae := (*quic.ApplicationError)(nil); errors.As(err, &ae) {
		code := network.ConnErrorCode(network.ConnCodeOutOfRange)
		if ae.ErrorCode <= math.MaxUint32 {
			code = network.ConnErrorCode(ae.ErrorCode)
		}
		return &network.ConnError{ErrorCode: code, Remote: ae.Remote, TransportError: ae}
	}
	return err
}
