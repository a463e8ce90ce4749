package null

import (
	"errors"
	"net"
	"net/netip"
)

// Conn is a real connection as a Stream uses it. TCP makes one of a
// *net.TCPConn. Once a Stream has it nobody else may use it.
type Conn interface {
	net.Conn
	// CloseWrite sends a FIN after what was written.
	CloseWrite() error
	// Abort ends the connection with a reset, not with a FIN.
	Abort()
	// Unacked returns how many of the bytes written are not acknowledged by
	// the peer's system, an unacknowledged FIN counting as one more. If the
	// system does not tell, ok is false.
	Unacked() (n int, ok bool)
	// Take reads what has come, without waiting: 0 and nil if nothing has.
	Take(b []byte) (int, error)
	// Silent says whether the connection is broken or the peer's system seems
	// gone: what is sent to it again and again draws no acknowledgement.
	Silent() bool
}

// Buffers of a real connection, asked of the system in bytes; it may give
// less, or as Linux does account twice as much. Both are fixed: a sender has
// to know how much may lie unread at the other end.
const (
	receiveBuffer = 1 << 20
	sendBuffer    = 1 << 20
)

// TCP makes a Conn of c, which it owns from now on, with the options that a
// stream wants.
func TCP(c *net.TCPConn) Conn {
	t := &tcpConn{TCPConn: c}
	_ = Prepare(c)
	_ = c.SetKeepAliveConfig(keepAlive)
	return t
}

// tcpConn is a real connection of the kernel.
type tcpConn struct{ *net.TCPConn }

var _ Conn = (*tcpConn)(nil)

func (c *tcpConn) Abort() {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// Addrs returns the real addresses of a connection.
func Addrs(c Conn) (local, remote netip.AddrPort) {
	return addrPort(c.LocalAddr()), addrPort(c.RemoteAddr())
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// Prepare sets the buffers of a connection; a listener's or a dialler's
// control function sets them before the handshake by PrepareFD.
func Prepare(c *net.TCPConn) error {
	return errors.Join(c.SetReadBuffer(receiveBuffer), c.SetWriteBuffer(sendBuffer))
}
