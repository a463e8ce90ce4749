package null

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/idloc/idloc/internal/netconn"
)

// What streams have beyond package net's methods, and those of its methods that
// make no sense here and say so: a stream looks after its connections itself.

// options are those of a Conn that is one of the kernel's.
type options interface {
	SetTrafficClass(class int) error
	Info() (netconn.TCPInfo, error)
}

func (c *tcpConn) SetTrafficClass(class int) error { return netconn.SetTrafficClass(c.TCPConn, class) }
func (c *tcpConn) Info() (netconn.TCPInfo, error)  { return netconn.Info(c.TCPConn) }

var _ options = (*tcpConn)(nil)

// SetTrafficClass gives what is sent from now on a traffic class, a DSCP in the
// upper six bits, over this connection and those that take its place.
func (s *Stream) SetTrafficClass(class int) error {
	k, err := netconn.CheckClass(class)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return s.opError("set", net.ErrClosed)
	case err != nil:
		return s.opError("set", err)
	}
	s.class = int(k)
	if err := s.classLocked(); err != nil {
		return s.opError("set", err)
	}
	return nil
}

// classLocked hands the class to the connection, if there is one.
func (s *Stream) classLocked() error {
	if s.conn == nil {
		return nil
	}
	if o, ok := s.conn.(options); ok {
		return bare(o.SetTrafficClass(s.class))
	}
	return errors.ErrUnsupported
}

// bare takes the addresses of the real connection off an error.
func bare(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// TrafficClass returns what SetTrafficClass has set, 0 at first.
func (s *Stream) TrafficClass() (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, s.opError("get", net.ErrClosed)
	}
	return s.class, nil
}

// Info is the kernel's of the present connection, but for the bytes, which are
// the stream's. The State is STANDING while there is none.
func (s *Stream) Info() (netconn.TCPInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return netconn.TCPInfo{}, s.opError("get", net.ErrClosed)
	}
	info := netconn.TCPInfo{State: "STANDING"}
	switch {
	case s.err != nil:
		info.State = "CLOSED"
	case s.conn != nil:
		o, ok := s.conn.(options)
		err := error(errors.ErrUnsupported)
		if ok {
			info, err = o.Info()
		}
		if err != nil {
			return info, s.opError("get", bare(err))
		}
	}
	info.BytesWritten, info.BytesReceived = s.sent, s.taken
	return info, nil
}

// unsupported is the error of a method that makes no sense here.
func (s *Stream) unsupported(what string) error {
	if err := s.alive(); err != nil {
		return err
	}
	return s.opError("set", fmt.Errorf("%s with null encapsulation: %w", what, errors.ErrUnsupported))
}

// SetKeepAlive has no effect but an error that is errors.ErrUnsupported: a
// stream always looks whether its path lives.
func (s *Stream) SetKeepAlive(bool) error { return s.unsupported("keep-alive of one's own") }

// SetKeepAlivePeriod is SetKeepAlive.
func (s *Stream) SetKeepAlivePeriod(time.Duration) error {
	return s.unsupported("keep-alive of one's own")
}

// SetKeepAliveConfig is SetKeepAlive.
func (s *Stream) SetKeepAliveConfig(net.KeepAliveConfig) error {
	return s.unsupported("keep-alive of one's own")
}

// SetUserTimeout has no effect but an error that is errors.ErrUnsupported: how
// long a stream may stand without a path is fixed (Config.Patience).
func (s *Stream) SetUserTimeout(time.Duration) error { return s.unsupported("a user timeout") }

// SetReadBuffer has no effect but an error that is errors.ErrUnsupported: the
// other end has been told the size.
func (s *Stream) SetReadBuffer(int) error { return s.unsupported("a buffer size of one's own") }

// SetWriteBuffer has no effect but an error that is errors.ErrUnsupported.
func (s *Stream) SetWriteBuffer(int) error { return s.unsupported("a buffer size of one's own") }

// MultipathTCP is net.TCPConn's: it is not used.
func (s *Stream) MultipathTCP() (bool, error) { return false, nil }

// SyscallConn is there for those who look for it: the error says that it is not
// supported, as the stream's descriptors come and go.
func (s *Stream) SyscallConn() (syscall.RawConn, error) {
	return nil, s.opError("raw-control", fmt.Errorf("a stream has no descriptor of its own: %w", errors.ErrUnsupported))
}
