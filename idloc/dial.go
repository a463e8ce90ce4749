package idloc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/overlay"
	"github.com/idloc/idloc/overlay/membership"
)

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
// A TCP Dial to a peer that cannot be reached goes on, as a kernel repeats its
// SYN, until the deadline of its context: the peer may be just restarting. The
// error then says why the last attempt has failed, and is a timeout. Without a
// deadline a Dial looks for such a peer for 9 s, so that it ends within ten,
// and returns the last attempt's error. What is known is final at once: that
// enough servers know no such name, or that its peer was put out; that the port
// is closed (ECONNREFUSED); that the peer's node or a policy refuses; that the
// peer has shown no valid membership; an address that is no LSI; no free LSI.
// So it is with null encapsulation, for UDP too, which has no pipe.
//
// The conn of a TCP network has the methods of *net.TCPConn that make sense
// here, and what else would need a descriptor: CloseWrite, CloseRead,
// SetNoDelay, SetLinger, SetKeepAlive, SetUserTimeout, SetReadBuffer,
// SetWriteBuffer, SetTrafficClass, Info… It is a [TCPConn], and that of a UDP
// network a [UDPConn], which has ReadBatch and WriteBatch: a type assertion
// gets at them. A [Dialer] has a LocalPort.
func (n *Node) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return n.dialAs(ctx, network, address, OuterUDP)
}

func (n *Node) dialAs(ctx context.Context, network, address string, enc Encapsulation) (net.Conn, error) {
	t := n.track(ctx, network, address)
	c, err := n.dial(ctx, network, address, enc, t)
	t.end(err)
	if err != nil {
		return nil, dialError(network, address, err)
	}
	return c, nil
}

func (n *Node) dial(ctx context.Context, network, address string, enc Encapsulation, track *tracked) (net.Conn, error) {
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
	tcp := strings.HasPrefix(network, "tcp")
	_, bounded := ctx.Deadline()
	var limit time.Duration
	if tcp && enc != Null && !bounded {
		limit = connectTimeout
	}
	ctx, cancel := n.bindWithin(ctx, limit)
	defer cancel()
	t, err := n.find(ctx, host, family, bounded)
	if err != nil {
		return nil, n.ended(nameStage(err))
	}
	track.found(t.peer)
	addrs, err := t.of(family)
	if err != nil {
		return nil, err
	}
	if enc == Null && t.peer != n.id { // packets to oneself have no encapsulation
		to := netip.AddrPortFrom(addrs[0], port)
		c, err := n.dialNull(ctx, network, t, to)
		return c, n.ended(opErrorAt("dial", network, to, err))
	}
	if !tcp {
		c, err := n.stack.DialUDP(ctx, network, n.localAddr(ctx, addrs[0]), netip.AddrPortFrom(addrs[0], port))
		return c, n.ended(err)
	}
	c, err := n.redial(ctx, network, t, addrs, port, track.start, limit == 0)
	return c, n.ended(opErrorAt("dial", network, netip.AddrPortFrom(addrs[0], port), err))
}

// bind returns a context that ends with the node, too.
func (n *Node) bind(ctx context.Context) (context.Context, context.CancelFunc) {
	return n.bindWithin(ctx, 0)
}

// bindWithin is bind for limit at the most; zero: as long as ctx has.
func (n *Node) bindWithin(ctx context.Context, limit time.Duration) (bound context.Context, done context.CancelFunc) {
	var cancel context.CancelFunc
	if limit > 0 {
		bound, cancel = context.WithTimeout(ctx, limit)
	} else {
		bound, cancel = context.WithCancel(ctx)
	}
	stop := context.AfterFunc(n.ctx, cancel)
	return bound, func() { stop(); cancel() }
}

// ended replaces an error that came because the node closed.
func (n *Node) ended(err error) error {
	if err != nil && n.ctx.Err() != nil {
		return net.ErrClosed
	}
	return err
}

// explain puts the stage to an error of TCP's connect. When the SYN could not
// leave because no pipe could be opened, that is what the caller wants to
// read, not the ICMP error that the shim answered; when the caller's patience
// ended, how far the pipe had come.
func (n *Node) explain(to target, err error) error {
	var op *net.OpError
	if n.ctx.Err() != nil || !errors.As(err, &op) {
		return err
	}
	e := &StageError{Stage: StageConnect, Peer: to.peer, Err: op.Err}
	switch {
	case errors.Is(err, syscall.EADDRINUSE), errors.Is(err, syscall.EADDRNOTAVAIL): // a local port
		return err
	case errors.Is(err, syscall.ECONNREFUSED): // the peer's own answer
		e.Err = n.refusedBy(to.peer, op)
	case errors.Is(err, syscall.ECONNRESET):
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		if stage := n.meter.at(to.peer); stage != "" {
			e.Stage = stage
		}
	default:
		if cause := n.shim.LastError(to.peer); cause != nil {
			e = n.stageOf(to, cause)
		}
	}
	return &net.OpError{Op: op.Op, Net: op.Net, Source: op.Source, Addr: op.Addr, Err: e}
}

// stageOf turns the overlay's error into the public one.
func (n *Node) stageOf(to target, err error) *StageError {
	e := &StageError{Stage: StageOffer, Peer: to.peer, Err: err}
	var s *overlay.StageError
	if errors.As(err, &s) {
		e.Stage, e.Err = s.Stage, s.Err
	}
	var gone *overlay.OfflineError
	if errors.As(e.Err, &gone) {
		e.Err = &offline{cmp.Or(n.ov.NameOf(to.peer), to.host), gone}
	}
	if errors.Is(e.Err, membership.ErrStale) {
		e.Err = fmt.Errorf("%w: %w", ErrRefusedByPolicy, e.Err)
	}
	if errors.Is(e.Err, net.ErrClosed) {
		e.Err = notOurs{e.Err} // of this node's own end Dial says so itself
	}
	return e
}

// nameStage puts the stage to an error of a name; an address has none.
func nameStage(err error) error {
	var stage *StageError
	var addr *net.AddrError
	if errors.As(err, &stage) || errors.As(err, &addr) {
		return err
	}
	return &StageError{Stage: StageName, Err: err}
}

// target is what a host stands for: a peer and its LSIs on this node.
type target struct {
	host  string // as it was given
	peer  PeerID
	addrs []netip.Addr // in the order in which they are tried; valid ones
}

// of returns the LSIs for a network's family (0, 4 or 6), at least one.
func (t target) of(family int) ([]netip.Addr, error) {
	var addrs []netip.Addr
	for _, a := range t.addrs {
		if a.IsValid() && (family == 0 || a.Is4() == (family == 4)) {
			addrs = append(addrs, a)
		}
	}
	if len(addrs) == 0 {
		return nil, errNoSuitable(t.host)
	}
	return addrs, nil
}

// errNoSuitable is what package net says of a host that has no address of the
// network's family.
func errNoSuitable(host string) error {
	return &net.AddrError{Err: "no suitable address found", Addr: host}
}

// lookup finds the peer that host stands for and gives it LSIs, for a network
// of a family. An LSI is assigned only once the peer is known (draft §4.1;
// DESIGN §10). No host and the unspecified addresses mean this node, as
// they mean the local system in package net.
func (n *Node) lookup(ctx context.Context, host string, family int) (target, error) {
	v4, v6 := n.table.Self()
	self := target{host: host, peer: n.id, addrs: []netip.Addr{v4, v6}}
	if host == "" {
		if family != 6 {
			self.addrs = self.addrs[:1]
		}
		return self, nil
	}
	if a, err := netip.ParseAddr(host); err == nil {
		a = a.Unmap().WithZone("") // an LSI needs none
		switch {
		case a == netip.IPv6Unspecified():
			self.addrs = []netip.Addr{v6, v4}
			return self, nil
		case family != 0 && a.Is4() != (family == 4):
			return target{}, errNoSuitable(host)
		case a.IsUnspecified():
			self.addrs = []netip.Addr{v4}
			return self, nil
		case a == n.table.Resolver():
			return target{host: host, peer: n.id, addrs: []netip.Addr{a}}, nil
		}
		peer, ok := n.table.Peer(a)
		if !ok {
			return target{}, &net.AddrError{Err: "not an LSI of this node", Addr: host}
		}
		return target{host: host, peer: peer, addrs: []netip.Addr{a}}, nil
	}
	peer, name, err := n.resolve(ctx, host)
	if err != nil {
		return target{}, err
	}
	v4, v6, err = n.assign(peer, name)
	if err != nil {
		return target{}, err
	}
	return target{host: host, peer: peer, addrs: []netip.Addr{v4, v6}}, nil
}

// assign gives a resolved peer its LSIs.
func (n *Node) assign(peer PeerID, name string) (v4, v6 netip.Addr, err error) {
	if peer == n.id {
		v4, v6 = n.table.Self()
		return v4, v6, nil
	}
	v4, v6, fresh, err := n.table.Assign(peer)
	if err != nil {
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
	if label == n.ov.Label() {
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
	text := err.Error()
	switch { // as package net has it
	case errors.Is(err, context.Canceled):
		text = "operation was canceled"
	case errors.Is(err, context.DeadlineExceeded):
		text = "i/o timeout"
	}
	return PeerID{}, "", &StageError{Stage: StageName, Err: &net.DNSError{
		Err: text, UnwrapErr: err, Name: full, Server: "the overlay's database",
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
// name. For https it takes the certificates that the overlay gives (ListenTLS) and those that
// the system takes. It follows no proxy settings and does not reach other hosts. Each
// call returns a client with its own connections; keep one, and call its
// CloseIdleConnections when done. Node.Close closes them as well.
func (n *Node) HTTPClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext:           n.Dial,
		DialTLSContext:        n.dialHTTPS,
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
	if address == "" {
		return "", 0, errMissingAddress
	}
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
