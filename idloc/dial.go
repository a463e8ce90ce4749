package idloc

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/lsi"
	"github.com/idloc/idloc/overlay"
)

// connectTimeout bounds a TCP handshake inside a pipe when the caller's
// context has no earlier deadline. A pipe that cannot be opened ends a Dial
// sooner, with its own error.
const connectTimeout = 30 * time.Second

// Dial connects to address, "host:port", over the overlay. The networks are
// "tcp", "tcp4", "tcp6", "udp", "udp4" and "udp6": the suffix chooses the
// kind of LSI, not of path. Host is the name of a member ("mars.example.com",
// or "mars" alone), an LSI of this node, or the label of a peer ID
// ("k51….example.com"); port is a number or a service name.
//
// The context covers the Dial only, not the conn. A TCP Dial returns when
// the connection is established; a UDP Dial when the name is resolved, and
// the pipe is opened by the first datagram. Errors are *net.OpError; a
// failure on the way says its stage in a *StageError. A name that nobody has
// is a *net.DNSError with IsNotFound.
//
// The conn of a TCP network has the methods of *net.TCPConn that make sense
// here (CloseWrite, CloseRead, SetNoDelay, SetLinger, SetKeepAlive…).
func (n *Node) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	t := n.track(ctx, network, address)
	c, err := n.dial(ctx, network, address, t)
	t.end(err)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) && op == err {
			return nil, err
		}
		return nil, &net.OpError{Op: "dial", Net: network, Addr: textAddr{network, address}, Err: err}
	}
	return c, nil
}

func (n *Node) dial(ctx context.Context, network, address string, track *tracked) (net.Conn, error) {
	family, err := familyOf(network)
	if err != nil {
		return nil, err
	}
	host, port, err := splitHostPort(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if err := n.alive(); err != nil {
		return nil, err
	}
	ctx, cancel := n.bind(ctx)
	defer cancel()
	t, err := n.lookup(ctx, host)
	if err != nil {
		return nil, n.ended(err)
	}
	track.found(t.peer)
	addr, err := t.addr(family)
	if err != nil {
		return nil, err
	}
	raddr := netip.AddrPortFrom(addr, port)
	if strings.HasPrefix(network, "udp") {
		c, err := n.stack.DialUDP(ctx, netip.AddrPort{}, raddr)
		return c, n.ended(err)
	}
	if _, ok := ctx.Deadline(); !ok {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, connectTimeout)
		defer stop()
	}
	c, err := n.stack.DialTCP(ctx, netip.AddrPort{}, raddr)
	if err != nil {
		return nil, n.ended(n.explain(t.peer, err))
	}
	return c, nil
}

// bind returns a context that ends with the node, too.
func (n *Node) bind(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(n.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// ended replaces an error that came because the node closed.
func (n *Node) ended(err error) error {
	if err != nil && n.ctx.Err() != nil {
		return net.ErrClosed
	}
	return err
}

// explain puts the stage to an error of TCP's connect: when the SYN could not
// leave because no pipe could be opened, that is what the caller wants to
// read, not the ICMP error that the shim answered.
func (n *Node) explain(peer PeerID, err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) {
		return err
	}
	if cause := n.shim.LastError(peer); cause != nil {
		return stageOf(peer, cause)
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	return &StageError{Stage: StageConnect, Peer: peer, Err: err}
}

// stageOf turns the overlay's error into the public one.
func stageOf(peer PeerID, err error) error {
	var s *overlay.StageError
	if errors.As(err, &s) {
		return &StageError{Stage: s.Stage, Peer: peer, Err: s.Err}
	}
	return &StageError{Stage: StageOffer, Peer: peer, Err: err}
}

// target is what a host stands for: a peer and its LSIs on this node.
type target struct {
	peer   PeerID
	v4, v6 netip.Addr
	only   bool // v4 or v6 was given literally: no choice
}

// addr chooses the LSI for a network's family (0, 4 or 6).
func (t target) addr(family int) (netip.Addr, error) {
	switch {
	case family == 6 && t.v6.IsValid():
		return t.v6, nil
	case family == 4 && t.v4.IsValid():
		return t.v4, nil
	case family == 0 && t.v4.IsValid():
		return t.v4, nil
	case family == 0 && t.v6.IsValid():
		return t.v6, nil
	}
	return netip.Addr{}, &net.AddrError{Err: "no suitable LSI for this network", Addr: t.peer.String()}
}

// lookup finds the peer that host stands for and gives it LSIs. An LSI is
// assigned only once the peer is known (draft §4.1; DESIGN "LSIs").
func (n *Node) lookup(ctx context.Context, host string) (target, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		a = a.Unmap()
		if a == n.table.Resolver() {
			return target{peer: n.id, v4: a, only: true}, nil
		}
		peer, ok := n.table.Peer(a)
		if !ok {
			return target{}, &net.AddrError{Err: "not an LSI of this node", Addr: host}
		}
		if a.Is4() {
			return target{peer: peer, v4: a, only: true}, nil
		}
		return target{peer: peer, v6: a, only: true}, nil
	}
	peer, name, err := n.resolve(ctx, host)
	if err != nil {
		return target{}, err
	}
	v4, v6, err := n.assign(peer, name)
	if err != nil {
		return target{}, err
	}
	return target{peer: peer, v4: v4, v6: v6}, nil
}

// assign gives a resolved peer its LSIs.
func (n *Node) assign(peer PeerID, name string) (v4, v6 netip.Addr, err error) {
	if peer == n.id {
		v4, v6 = n.table.Self()
		return v4, v6, nil
	}
	v4, v6, fresh, err := n.table.Assign(peer)
	if err != nil {
		if errors.Is(err, lsi.ErrExhausted) {
			err = errors.Join(ErrLSIExhausted, err)
		}
		return v4, v6, err
	}
	if fresh {
		n.emit(Event{Kind: event.LSIAssigned, Peer: peer, Name: name, LSI: v4})
	}
	return v4, v6, nil
}

// resolve turns a name of the overlay into a peer. Errors are *net.DNSError,
// IsNotFound only if the database said so.
func (n *Node) resolve(ctx context.Context, host string) (PeerID, string, error) {
	label, err := n.label(host)
	if err != nil {
		return PeerID{}, "", err
	}
	full := label + "." + n.ov.Domain()
	if full == n.Name() {
		return n.id, full, nil
	}
	found, err := n.ov.Resolve(ctx, label)
	if err == nil {
		return found.Peer, full, nil
	}
	if errors.Is(err, overlay.ErrNotFound) {
		what := "no such host"
		if errors.Is(err, overlay.ErrRevoked) {
			what += ": its membership was revoked"
		}
		return PeerID{}, "", &net.DNSError{Err: what, Name: full, Server: "the overlay's database", IsNotFound: true}
	}
	return PeerID{}, "", &StageError{Stage: StageName, Err: &net.DNSError{
		Err: err.Error(), UnwrapErr: err, Name: full, Server: "the overlay's database",
		IsTimeout: errors.Is(err, context.DeadlineExceeded), IsTemporary: true,
	}}
}

// label cuts host to its label in this overlay: "mars", "mars.example.com",
// "mars.example.com.".
func (n *Node) label(host string) (string, error) {
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if label, ok := strings.CutSuffix(name, "."+n.ov.Domain()); ok {
		name = label
	} else if strings.Contains(name, ".") || name == "" {
		return "", &net.DNSError{Err: "not a name of the overlay " + n.ov.Domain(), Name: host, IsNotFound: true}
	}
	if strings.Contains(name, ".") {
		return "", &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return name, nil
}

// HTTPClient returns a client that reaches the members of the overlay by
// name. It follows no proxy settings and does not reach other hosts. Each
// call returns a client with its own connections; keep one, and call its
// CloseIdleConnections when done. Node.Close closes them as well.
func (n *Node) HTTPClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext:           n.Dial,
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          100,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
	}}
}

// familyOf reads a network's name: 0 for either family.
func familyOf(network string) (int, error) {
	switch network {
	case "tcp", "udp":
		return 0, nil
	case "tcp4", "udp4":
		return 4, nil
	case "tcp6", "udp6":
		return 6, nil
	}
	return 0, net.UnknownNetworkError(network)
}

func splitHostPort(ctx context.Context, network, address string) (string, uint16, error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	// Numbers and the service names that Go knows need no system file.
	port, err := net.DefaultResolver.LookupPort(ctx, network, service)
	if err != nil {
		return "", 0, err
	}
	return host, uint16(port), nil
}

// textAddr is an address that was never resolved.
type textAddr struct{ network, text string }

func (a textAddr) Network() string { return a.network }
func (a textAddr) String() string  { return a.text }
