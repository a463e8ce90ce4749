package idloc

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// Dialer dials names of several overlays and, if Real is set, everything
// else: "applications can freely intermix LSIs with ordinary addresses"
// (draft §4.1). The zero Dialer reaches nothing. It may be used concurrently;
// its fields must not change after the first use.
type Dialer struct {
	// Nodes are the overlays to dial in. A name goes to the node whose
	// domain is its longest suffix, an LSI to the one node that has
	// assigned it.
	Nodes []*Node
	// Encapsulation of the flows in an overlay (draft §4.3). With Null each
	// flow has real addresses of its own and no byte is added to it. Config.Null
	// of both nodes must allow that; if not, or if no real addresses are found
	// that reach each other, Dial fails and says so: it never falls back to the
	// pipe.
	Encapsulation Encapsulation
	// Real dials names and addresses outside every overlay; nil refuses
	// them with ErrRefusedByPolicy.
	Real *net.Dialer
}

// Dial connects to address as Node.Dial does, in the overlay that it belongs
// to. An LSI that several nodes have assigned is an error that names their
// overlays: LSIs are of local significance (draft §9.1).
func (d *Dialer) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	node, err := d.node(ctx, network, address)
	if err != nil {
		return nil, opError("dial", network, address, err)
	}
	if node == nil {
		return d.Real.DialContext(ctx, network, address)
	}
	return node.dialAs(ctx, network, address, d.Encapsulation)
}

// node chooses the node for address; nil means Real.
func (d *Dialer) node(ctx context.Context, network, address string) (*Node, error) {
	host, _, err := splitHostPort(ctx, network, address)
	if err != nil {
		return nil, err
	}
	var owners []*Node
	if a, err := netip.ParseAddr(host); err == nil {
		a = a.Unmap()
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
	} else {
		name := strings.ToLower(strings.TrimSuffix(host, "."))
		var best *Node
		for _, n := range d.Nodes {
			// The domain itself is no member, but its name stays inside too.
			if strings.HasSuffix("."+name, "."+n.ov.Domain()) && (best == nil || len(n.ov.Domain()) > len(best.ov.Domain())) {
				best = n
			}
		}
		if best != nil {
			return best, nil
		}
	}
	if d.Real == nil {
		return nil, fmt.Errorf("%w: %s is in none of the Dialer's overlays, and Dialer.Real is nil", ErrRefusedByPolicy, host)
	}
	return nil, nil
}
