package idloc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"github.com/idloc/idloc/internal/pause"
	"github.com/idloc/idloc/netstack"
	"github.com/idloc/idloc/overlay/nullflow"
	"github.com/idloc/idloc/shim"
)

// Flows with null encapsulation (draft §4.3): what they are inside is told by
// the package documentation of internal/null. Here they meet the stack, whose
// ports, listeners and LSIs they use.

func (n *Node) nullConfig() nullflow.Handler {
	return nullflow.Handler{Policy: uint8(n.cfg.Null), Addrs: n.nullAddrs, TCP: n.nullTCP, UDP: n.nullUDP}
}

// nullAddrs names a flow by LSIs, and keeps the peer's until ended is called.
func (n *Node) nullAddrs(f nullflow.Flow) (local, remote netip.AddrPort, ended func(), err error) {
	v4, v6, err := n.assign(f.Peer, n.ov.NameOf(f.Peer))
	if err != nil {
		return local, remote, nil, err
	}
	self, peer := n.selfLSI(f.V6), v4
	if f.V6 {
		peer = v6
	}
	if !self.IsValid() || !peer.IsValid() {
		return local, remote, nil, &net.AddrError{Err: "no suitable LSI", Addr: f.Peer.String()}
	}
	ended = func() {}
	if n.table.Pin(f.Peer) {
		ended = func() { n.table.Unpin(f.Peer) }
	}
	return netip.AddrPortFrom(self, f.Local), netip.AddrPortFrom(peer, f.Remote), ended, nil
}

func (n *Node) selfLSI(v6 bool) netip.Addr {
	a4, a6 := n.table.Self()
	if v6 {
		return a6
	}
	return a4
}

// admitNull asks the grants and Config.Admit about a flow that a peer opens.
func (n *Node) admitNull(network string, f nullflow.Flow, local, remote netip.AddrPort) bool {
	if !n.grants(f.Peer, network, local) {
		return false
	}
	if n.cfg.Admit == nil {
		return true
	}
	return n.cfg.Admit(Flow{Peer: n.peer(f.Peer), Network: network, Local: local, Remote: remote, Encapsulation: Null})
}

// nullTCP is asked about a TCP flow of a peer's.
func (n *Node) nullTCP(f nullflow.Flow) (take func(net.Conn) error, err error) {
	if n.late.Load() == nil {
		return nil, errStarting
	}
	local, remote, ended, err := n.nullAddrs(f)
	if err != nil {
		return nil, err
	}
	ended()
	stack, err := n.inProcess()
	if err != nil {
		return nil, err
	}
	if !stack.ListensTCP(local) || !n.admitNull("tcp", f, local, remote) {
		return nil, syscall.ECONNREFUSED
	}
	return func(c net.Conn) error { return stack.HandTCP(local, c) }, nil
}

// nullUDP puts a UDP flow, ours or a peer's, into the shim.
func (n *Node) nullUDP(f nullflow.Flow, send func([]byte) error) (receive func([]byte), ended func(), err error) {
	if n.late.Load() == nil {
		return nil, nil, errStarting
	}
	local, remote, unpin, err := n.nullAddrs(f)
	if err != nil {
		return nil, nil, err
	}
	b := shim.BareFlow{Local: local, Remote: remote}
	stack, err := n.inProcess()
	if err != nil {
		unpin()
		return nil, nil, err
	}
	if !f.Opener && (!stack.ListensUDP(local, remote) || !n.admitNull("udp", f, local, remote)) {
		unpin()
		return nil, nil, syscall.ECONNREFUSED
	}
	receive, remove, err := n.shim.AddBare(b, send)
	if err != nil {
		unpin()
		return nil, nil, err
	}
	n.bare.Store(b, struct{}{})
	return receive, func() {
		remove()
		n.bare.Delete(b)
		unpin()
	}, nil
}

// dialNull opens a flow of its own to a peer, in as many attempts as it takes.
// Nothing of it goes through a pipe, and nothing falls back to one.
func (n *Node) dialNull(ctx context.Context, network string, t target, to netip.AddrPort) (net.Conn, error) {
	stack, err := n.inProcess()
	if err != nil {
		return nil, err
	}
	open := n.openNullTCP
	if strings.HasPrefix(network, "udp") {
		open = n.openNullUDP
	}
	f := nullflow.Flow{Peer: t.peer, V6: to.Addr().Is6(), Remote: to.Port()}
	return n.tryNull(ctx, t, func(ctx context.Context) (net.Conn, error) { return open(ctx, stack, network, f, to) })
}

// tryNull is dialNull by attempts that open makes.
func (n *Node) tryNull(ctx context.Context, t target, open func(context.Context) (net.Conn, error)) (net.Conn, error) {
	limit := ctx
	if _, bounded := ctx.Deadline(); !bounded {
		var stop context.CancelFunc
		limit, stop = context.WithTimeout(ctx, goneAfter)
		defer stop()
	}
	var last error // why the newest attempt has failed that had all its time
	tries := 0
	for tries == 0 || pause.For(limit, lookAgain) {
		c, err := open(limit)
		var flow *flowError
		own := err != nil && !errors.As(err, &flow) // of this node's
		switch {
		case err == nil:
			return c, nil
		case !own && !passes(err):
			return nil, n.nullError(t, flow.err)
		case limit.Err() != nil && last != nil: // cut off: the one before says more
		case own:
			return nil, err
		case limit.Err() != nil:
			return nil, n.nullError(t, flow.err)
		default:
			last = flow.err
			tries++
		}
	}
	if ctx.Err() == nil {
		return nil, n.nullError(t, last)
	}
	return nil, n.gaveUp(t, last, ctx.Err(), tries)
}

// flowError is why the overlay has opened no flow.
type flowError struct{ err error }

func (e *flowError) Error() string { return e.err.Error() }
func (e *flowError) Unwrap() error { return e.err }

// passes says whether what has kept a flow from being opened may be over in a moment:
// the peer, or a member on the way to it, was not reached.
func passes(err error) bool {
	for _, lasts := range []error{nullflow.ErrRefused, nullflow.ErrForbidden, errors.ErrUnsupported} {
		if errors.Is(err, lasts) {
			return false
		}
	}
	return !final(err)
}

func (n *Node) openNullTCP(ctx context.Context, stack *netstack.Stack, _ string, f nullflow.Flow, to netip.AddrPort) (net.Conn, error) {
	local, release, err := stack.ReserveTCP(to.Addr(), n.localAddr(ctx, to.Addr()).Port())
	if err != nil {
		return nil, err
	}
	f.Local = local.Port()
	c, err := n.ov.DialNull(ctx, f, release)
	if err != nil {
		return nil, &flowError{err}
	}
	return c, nil
}

func (n *Node) openNullUDP(ctx context.Context, stack *netstack.Stack, network string, f nullflow.Flow, to netip.AddrPort) (net.Conn, error) {
	c, err := stack.DialUDP(ctx, network, n.localAddr(ctx, to.Addr()), to)
	if err != nil {
		return nil, err
	}
	u, ok := c.(UDPConn)
	if !ok {
		_ = c.Close()
		return nil, fmt.Errorf("%T as a UDP conn: %w", c, errors.ErrUnsupported)
	}
	f.Local = u.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	end, err := n.ov.DialNullUDP(ctx, f)
	if err != nil {
		_ = c.Close()
		return nil, &flowError{err}
	}
	return &bareConn{u, end}, nil
}

// bareConn is a conn whose flow ends with it.
type bareConn struct {
	UDPConn
	end func()
}

// Close implements net.Conn.
func (c *bareConn) Close() error {
	err := c.UDPConn.Close()
	if err == nil {
		c.end()
	}
	return err
}

// nullError turns an error of the overlay's into the public one.
func (n *Node) nullError(to target, err error) error {
	switch {
	case errors.Is(err, nullflow.ErrRefused):
		return os.NewSyscallError("connect", syscall.ECONNREFUSED)
	case errors.Is(err, nullflow.ErrForbidden):
		e := n.stageOf(to, err)
		e.Err = fmt.Errorf("%w: %w", ErrRefusedByPolicy, e.Err)
		return e
	}
	return n.stageOf(to, err)
}

// nullFlows adds the flows with null encapsulation to a status.
func (n *Node) nullFlows(at func(PeerID) *PeerStatus) {
	for _, f := range n.ov.NullFlows() {
		s := FlowStatus{Network: "tcp", Encapsulation: Null.String(), TLS: f.TLS, RealLocal: f.RealLocal, RealRemote: f.RealPeer, Moved: f.Moved}
		if f.UDP {
			s.Network = "udp"
		}
		p := at(f.Peer)
		peer := p.LSI4
		if f.V6 {
			peer = p.LSI6
		}
		s.Local, s.Remote = netip.AddrPortFrom(n.selfLSI(f.V6), f.Local), netip.AddrPortFrom(peer, f.Remote)
		p.Flows = append(p.Flows, s)
	}
}
