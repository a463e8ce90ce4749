package netstack

import (
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/idloc/idloc/internal/netconn"
)

// traffic is what a tcpConn knows of its bytes that its endpoint does not.
type traffic struct{ written, read atomic.Uint64 }

// Info tells what the connection knows of itself, until Close. A segment is up
// to two of the pipe's datagrams (link.go), and a super packet that was sent
// again is one.
func (c *tcpConn) Info() (netconn.TCPInfo, error) {
	if err := c.alive("get"); err != nil {
		return netconn.TCPInfo{}, err
	}
	var o tcpip.TCPInfoOption
	if err := c.ep.GetSockOpt(&o); err != nil {
		return netconn.TCPInfo{}, c.opError("get", syscallError("getsockopt", sysError(err)))
	}
	unread, _ := c.ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption)
	info := netconn.TCPInfo{
		State: tcp.EndpointState(o.State).String(),
		RTT:   o.RTT, RTTVar: o.RTTVar, RTO: o.RTO,
		PathRTT:          c.s.shim.RTT(c.raddr.AddrPort().Addr().Unmap()),
		CongestionWindow: int(o.SndCwnd),
		BytesWritten:     c.traffic.written.Load(),
		BytesReceived:    c.traffic.read.Load() + uint64(max(unread, 0)),
	}
	if s, ok := c.ep.Stats().(*tcp.Stats); ok {
		info.Retransmits = s.SendErrors.Retransmits.Value()
	}
	if o.SndSsthresh < noThreshold {
		info.SlowStartThreshold = int(o.SndSsthresh)
	}
	if c.ep.State() == uint32(tcp.StateError) {
		info.State = tcp.StateClose.String()
	}
	return info, nil
}

// noThreshold is gVisor's slow start threshold of a connection that has lost
// nothing, as it fits into a uint32.
const noThreshold = 1<<31 - 1

// errNoDescriptor is what SyscallConn says.
var errNoDescriptor = fmt.Errorf("this conn has no descriptor: TCP/IP runs in the process: %w", errors.ErrUnsupported)

// SyscallConn is there for those who look for it: the error says that it is not
// supported (errors.ErrUnsupported), as there is no descriptor.
func (c *tcpConn) SyscallConn() (syscall.RawConn, error) {
	return nil, c.opError("raw-control", errNoDescriptor)
}

// SyscallConn is there for those who look for it: the error says that it is not
// supported (errors.ErrUnsupported), as there is no descriptor.
func (c *udpConn) SyscallConn() (syscall.RawConn, error) {
	return nil, &net.OpError{Op: "raw-control", Net: c.network, Source: c.laddr, Addr: c.opAddr(), Err: errNoDescriptor}
}
