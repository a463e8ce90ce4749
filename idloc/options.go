package idloc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/idloc/idloc/internal/netconn"
	"github.com/idloc/idloc/internal/null"
)

// TCPInfo is what a TCP connection knows of itself, as the kernel's TCP_INFO
// has it: State, RTT, RTTVar, RTO, PathRTT (of the pipe), Retransmits,
// CongestionWindow and SlowStartThreshold in segments, DeliveryRate in bytes a
// second (0 where TCP runs in the process, which does not measure it),
// BytesWritten and BytesReceived.
type TCPInfo = netconn.TCPInfo

// Message is one datagram of UDPConn's ReadBatch or WriteBatch: Buf, N, Addr
// and Truncated.
type Message = netconn.Message

// TCPConn is what Dial and Accept return for a TCP network, with or without
// null encapsulation; under NullTLS it is what the NetConn of the *tls.Conn
// returns. Further methods may come: do not implement it. Methods that make no
// sense for a conn return an error that is errors.ErrUnsupported.
type TCPConn interface {
	net.Conn
	CloseRead() error
	CloseWrite() error
	SetNoDelay(noDelay bool) error
	SetLinger(sec int) error
	SetKeepAlive(keepalive bool) error
	SetKeepAlivePeriod(d time.Duration) error
	SetKeepAliveConfig(config net.KeepAliveConfig) error
	SetReadBuffer(bytes int) error
	SetWriteBuffer(bytes int) error
	// SetUserTimeout is Linux' TCP_USER_TIMEOUT; 0: none.
	SetUserTimeout(d time.Duration) error
	// SetTrafficClass gives what is sent from now on a DSCP, in the upper six
	// bits of class: 0xb8 is EF. It stands in the IP headers that the real
	// network sees, on Linux, on direct paths and on the way to a relay, not to
	// a TURN server. The peer does not learn it.
	SetTrafficClass(class int) error
	TrafficClass() (int, error)
	Info() (TCPInfo, error)
	// SyscallConn is there for those who look for it. Without a TUN device
	// there is no descriptor, and the error is errors.ErrUnsupported.
	SyscallConn() (syscall.RawConn, error)
}

// UDPConn is what Dial and ListenPacket return for a UDP network. Further
// methods may come: do not implement it. A conn that is not connected returns a
// nil RemoteAddr.
type UDPConn interface {
	net.Conn
	net.PacketConn
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error)
	SetReadBuffer(bytes int) error
	SetWriteBuffer(bytes int) error
	// SetTrafficClass is TCPConn's.
	SetTrafficClass(class int) error
	TrafficClass() (int, error)
	// ReadBatch reads datagrams into ms, as many as are there, and says how
	// many: it waits for the first only, until the read deadline.
	ReadBatch(ms []Message) (int, error)
	// WriteBatch sends ms and says how many, n. If n is less than len(ms)
	// without an error, ms[n] has failed, and sending it again tells how.
	WriteBatch(ms []Message) (int, error)
	// SyscallConn is TCPConn's.
	SyscallConn() (syscall.RawConn, error)
}

var _ TCPConn = (*null.Stream)(nil)

// SetTrafficClass is not there for datagrams with null encapsulation.
func (c *bareConn) SetTrafficClass(int) error { return c.unsupported("set") }

// TrafficClass is not there for datagrams with null encapsulation.
func (c *bareConn) TrafficClass() (int, error) { return 0, c.unsupported("get") }

func (c *bareConn) unsupported(op string) error {
	return &net.OpError{Op: op, Net: "udp", Source: c.LocalAddr(), Addr: c.RemoteAddr(),
		Err: fmt.Errorf("a traffic class with null encapsulation of UDP: %w", errors.ErrUnsupported)}
}

// localPort is the key under which a Dialer's LocalPort goes through the stages
// of a Dial.
type localPort struct{}

// localAddr is where a conn to an address of remote's family is to be bound,
// invalid if the stack may choose.
func (n *Node) localAddr(ctx context.Context, remote netip.Addr) netip.AddrPort {
	port, _ := ctx.Value(localPort{}).(uint16)
	if port == 0 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(n.selfLSI(remote.Is6()), port)
}
