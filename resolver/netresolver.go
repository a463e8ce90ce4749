package resolver

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// NetResolver returns a resolver for Go programs that asks this server
// without leaving the process, on every system and whatever the system's own
// configuration says about DNS servers. Names of the overlay that do not
// exist give *net.DNSError with IsNotFound, those that cannot be looked up
// now IsTemporary. The system's hosts file still comes first, and the system's
// search list is applied; a label that a member has is that member all the same
// (Config.Search). The errors name the server that the net package took from the
// system's configuration, whoever was asked: it has no place for another.
func (s *Server) NetResolver() *net.Resolver {
	return &net.Resolver{
		PreferGo: true, // or Dial is not asked
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if s.context.Err() != nil {
				return nil, &net.OpError{Op: "dial", Net: network, Addr: procAddr{}, Err: net.ErrClosed}
			}
			return newConn(ctx, s), nil
		},
	}
}

// conn is a connection to the server in the same process. The net package
// takes what is not a net.PacketConn for a stream, so that queries and
// answers carry lengths as over TCP, and nothing is ever truncated.
//
// There is no goroutine behind it: Read answers the queries that were
// written. Its context is that of the Dial, which the net package keeps for
// one question.
type conn struct {
	server *Server
	ctx    context.Context
	cancel context.CancelCauseFunc

	reading sync.Mutex // one Read at a time

	mu    sync.Mutex
	in    bytes.Buffer // written, not yet answered
	out   bytes.Buffer // answers, not yet read
	wake  chan struct{}
	timer *time.Timer
}

var _ net.Conn = (*conn)(nil)

func newConn(ctx context.Context, s *Server) *conn {
	c := &conn{server: s, wake: make(chan struct{}, 1)}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	return c
}

// Write takes queries, in pieces of any size.
func (c *conn) Write(b []byte) (int, error) {
	if err := c.err("write"); err != nil {
		return 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.in.Write(b)
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return len(b), nil
}

// Read answers the next query when all answers before it were read.
func (c *conn) Read(b []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	for {
		if err := c.err("read"); err != nil {
			return 0, err
		}
		query, n := c.next(b)
		if n > 0 || len(b) == 0 {
			return n, nil
		}
		if query == nil {
			select {
			case <-c.wake:
			case <-c.ctx.Done():
			case <-c.server.context.Done():
				return 0, io.EOF
			}
			continue
		}
		answer := c.server.replyWith(c.ctx, query, false, c.server.answerInside)
		if answer == nil {
			return 0, io.EOF
		}
		c.mu.Lock()
		c.out.Write(frame(answer))
		c.mu.Unlock()
	}
}

// next returns bytes of an answer, or else the next whole query.
func (c *conn) next(b []byte) (query []byte, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.out.Len() > 0 {
		n, _ = c.out.Read(b)
		return nil, n
	}
	have := c.in.Bytes()
	if len(have) < 2 {
		return nil, 0
	}
	size := 2 + int(binary.BigEndian.Uint16(have))
	if len(have) < size {
		return nil, 0
	}
	return bytes.Clone(c.in.Next(size)[2:]), 0
}

// Close ends a Read under way.
func (c *conn) Close() error {
	c.cancel(net.ErrClosed)
	return c.SetDeadline(time.Time{})
}

// err says why the conn can no longer be used.
func (c *conn) err(op string) error {
	if c.ctx.Err() == nil {
		return nil
	}
	err := context.Cause(c.ctx)
	if err == context.DeadlineExceeded {
		err = os.ErrDeadlineExceeded
	}
	return &net.OpError{Op: op, Net: "dns", Addr: procAddr{}, Err: err}
}

// SetDeadline ends the conn at t: one question is asked on it, so that there
// is nothing to go on with.
func (c *conn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
	if !t.IsZero() && c.ctx.Err() == nil {
		c.timer = time.AfterFunc(time.Until(t), func() { c.cancel(os.ErrDeadlineExceeded) })
	}
	return nil
}

func (c *conn) SetReadDeadline(t time.Time) error { return c.SetDeadline(t) }

// SetWriteDeadline has no effect: Write does not wait.
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

func (c *conn) LocalAddr() net.Addr  { return procAddr{} }
func (c *conn) RemoteAddr() net.Addr { return procAddr{} }

// procAddr is the address of both ends of a conn.
type procAddr struct{}

func (procAddr) Network() string { return "dns" }
func (procAddr) String() string  { return "in-process" }
