package idloc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// Dialer dials names of several overlays and, if Real is set, everything
// else: "applications can freely intermix LSIs with ordinary addresses"
// (draft §4.1). The zero Dialer reaches nothing. It may be used concurrently;
// its fields must not change after the first use.
type Dialer struct {
	// Nodes are the overlays to dial in. A name goes to the node whose
	// domain is its longest suffix, a label alone ("mars") to the node in
	// whose overlay a member has it, an LSI to the one node that has
	// assigned it.
	Nodes []*Node
	// Encapsulation of the flows in an overlay (draft §4.3). With Null each
	// flow has real addresses of its own and no byte is added to it. Config.Null
	// of both nodes must allow that; if not, or if no real addresses are found
	// that reach each other, Dial fails and says so: it never falls back to the
	// pipe.
	Encapsulation Encapsulation
	// LocalPort is the port to dial from; 0 lets the stack choose. It is one of
	// the node's LSI, with null encapsulation too. EADDRINUSE if the port is
	// taken, as the kernel says. Real has a LocalAddr of its own.
	LocalPort uint16
	// Real dials names and addresses outside every overlay; nil refuses
	// them with ErrRefusedByPolicy. A label alone is given to it only if it
	// is certain that no member has it.
	Real *net.Dialer
}

// Dial connects to address as Node.Dial does, in the overlay that it belongs
// to. An LSI that several nodes have assigned is an error that names their
// overlays: LSIs are of local significance (draft §9.1). So is a label alone
// that members of several overlays have.
func (d *Dialer) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	node, err := d.node(ctx, network, address)
	if err != nil {
		return nil, opError("dial", network, address, err)
	}
	if node == nil {
		return d.Real.DialContext(ctx, network, address)
	}
	if d.LocalPort != 0 {
		ctx = context.WithValue(ctx, localPort{}, d.LocalPort)
	}
	return node.dialAs(ctx, network, address, d.Encapsulation)
}

// node chooses the node for address; nil means Real.
func (d *Dialer) node(ctx context.Context, network, address string) (*Node, error) {
	host, _, err := splitHostPort(ctx, network, address)
	if err != nil {
		return nil, err
	}
	var n *Node
	if a, notAddr := netip.ParseAddr(host); notAddr == nil {
		n, err = d.ofAddr(host, a.Unmap())
	} else {
		n, err = d.ofName(ctx, host)
	}
	if n == nil && err == nil && d.Real == nil {
		err = fmt.Errorf("%w: in none of the Dialer's overlays, and Dialer.Real is nil", ErrRefusedByPolicy)
	}
	return n, err
}

// ofAddr chooses the node for an address; nil means that it is no LSI.
func (d *Dialer) ofAddr(host string, a netip.Addr) (*Node, error) {
	var owners []*Node
	inside := false
	for _, n := range d.Nodes {
		if _, ok := n.table.Peer(a); ok {
			owners = append(owners, n)
		}
		v4, v6 := n.table.Prefixes()
		inside = inside || v4.Contains(a) || v6.Contains(a)
	}
	switch {
	case len(owners) == 1:
		return owners[0], nil
	case len(owners) > 1:
		domains := make([]string, len(owners))
		for i, n := range owners {
			domains[i] = n.ov.Domain()
		}
		return nil, &net.AddrError{Err: "this LSI stands for a peer in several overlays: " + strings.Join(domains, ", "), Addr: host}
	case inside:
		return nil, &net.AddrError{Err: "an LSI that no node of this Dialer has assigned", Addr: host}
	}
	return nil, nil
}

// ofName chooses the node for a name; nil means that it is in no overlay.
func (d *Dialer) ofName(ctx context.Context, host string) (*Node, error) {
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	var best *Node
	for _, n := range d.Nodes {
		// The domain itself is no member, but its name stays inside too.
		if strings.HasSuffix("."+name, "."+n.ov.Domain()) && (best == nil || len(n.ov.Domain()) > len(best.ov.Domain())) {
			best = n
		}
	}
	if best == nil && isBare(name) {
		return d.owner(ctx, host, name)
	}
	return best, nil
}

// isBare says whether a name is a label without a domain that a member may
// have. The name of the host itself is not one (RFC 6761 §6.3).
func isBare(name string) bool {
	return name != "" && name != "localhost" && !strings.Contains(name, ".")
}

// owner finds the node in whose overlay a member has a label; nil if none has.
// An overlay in which that cannot be found out now counts only if no other has
// it: the label must not be given to Real then.
func (d *Dialer) owner(ctx context.Context, host, label string) (*Node, error) {
	errs := make([]error, len(d.Nodes))
	var asking sync.WaitGroup
	for i, n := range d.Nodes {
		asking.Go(func() { errs[i] = n.has(ctx, label) })
	}
	asking.Wait()
	var owner *Node
	var names []string
	var unknown error
	for i, n := range d.Nodes {
		var dns *net.DNSError
		switch full := label + "." + n.ov.Domain(); {
		case errs[i] == nil && !slices.Contains(names, full): // several nodes may be in one overlay
			names = append(names, full)
			owner = cmp.Or(owner, n)
		case errs[i] != nil && unknown == nil && !(errors.As(errs[i], &dns) && dns.IsNotFound):
			unknown = errs[i]
		}
	}
	if len(names) > 1 {
		return nil, &net.AddrError{Err: "members of several overlays have this label: " + strings.Join(names, ", "), Addr: host}
	}
	if owner == nil {
		return nil, unknown
	}
	return owner, nil
}

// has returns nil if a member has a label.
func (n *Node) has(ctx context.Context, label string) error {
	if err := n.alive(); err != nil {
		return err
	}
	ctx, cancel := n.bind(ctx)
	defer cancel()
	_, _, err := n.resolve(ctx, label)
	return n.ended(err)
}
