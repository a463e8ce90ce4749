package idloc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/idloc/idloc/netstack"
	"github.com/idloc/idloc/netstack/tun"
)

// hostStack is the TCP/IP above the shim: gVisor's in the process, or the
// host's kernel behind a TUN device. Either one owns all ports of the node's
// LSIs; there is never a second one beside it.
type hostStack interface {
	DialTCPWhile(ctx, up context.Context, network string, laddr, raddr netip.AddrPort) (net.Conn, error)
	DialUDP(ctx context.Context, network string, laddr, raddr netip.AddrPort) (net.Conn, error)
	ListenTCP(network string, laddr netip.AddrPort, backlog int) (net.Listener, error)
	ListenUDP(network string, laddr netip.AddrPort) (net.PacketConn, error)
	AddAddress(netip.Addr) error
	SetTap(netstack.Tap)
	Ask(on bool)
	Recheck(keep func(network string, local, remote netip.AddrPort) bool) (ended int)
	Stats() netstack.Stats
	Drain(context.Context) error
	Close(context.Context) error
}

var (
	_ hostStack = (*netstack.Stack)(nil)
	_ hostStack = (*tun.Host)(nil)
)

// newStack puts the stack that the Config asks for above the shim.
func (n *Node) newStack() (hostStack, error) {
	if n.cfg.TUN != "" {
		h, err := tun.New(tun.Config{Shim: n.shim, Name: n.cfg.TUN, Admit: n.admit, Logger: n.log})
		if err != nil {
			return nil, err // not a hostStack that holds nil
		}
		n.log.Info("TUN device", "name", h.Name())
		return h, nil
	}
	s, err := netstack.New(netstack.Config{Shim: n.shim, Admit: n.admit, Logger: n.log})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// inProcess returns gVisor's stack, whose ports flows with null encapsulation
// share. The kernel's cannot be shared like that.
func (n *Node) inProcess() (*netstack.Stack, error) {
	if s, ok := n.stack.(*netstack.Stack); ok {
		return s, nil
	}
	return nil, fmt.Errorf("null encapsulation on a node with a TUN device: %w", errors.ErrUnsupported)
}
