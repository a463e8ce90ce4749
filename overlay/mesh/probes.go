package mesh

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/quic-go/quic-go"

	"github.com/idloc/idloc/overlay/nat"
	"github.com/idloc/idloc/overlay/p2p"
)

// dialProbes reads from the error of a dial to addrs what became of each of
// them. Those that the dial did not come to are left out.
func dialProbes(addrs []ma.Multiaddr, err error) []nat.Probe {
	var out []nat.Probe
	add := func(m ma.Multiaddr, cause error) {
		if a, ok := p2p.AddrPort(m); ok {
			p := nat.Probe{Addr: netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), By: "QUIC"}
			p.Heard, p.Err = judge(cause)
			out = append(out, p)
		}
	}
	var d *swarm.DialError
	if !errors.As(err, &d) {
		if errors.Is(err, context.DeadlineExceeded) {
			for _, m := range addrs {
				add(m, err)
			}
		}
		return out
	}
	for _, t := range d.DialErrors {
		if !errors.Is(t.Cause, swarm.ErrDialBackoff) && !errors.Is(t.Cause, context.Canceled) {
			add(t.Address, t.Cause)
		}
	}
	return out
}

// judge says whether a QUIC dial that failed was answered, and what went wrong;
// "" is silence.
func judge(cause error) (heard bool, wrong string) {
	var (
		timeout     net.Error
		transport   *quic.TransportError
		application *quic.ApplicationError
		version     *quic.VersionNegotiationError
		reset       *quic.StatelessResetError
	)
	switch {
	case errors.As(cause, &transport), errors.As(cause, &application), errors.As(cause, &version), errors.As(cause, &reset):
		return true, cause.Error()
	case errors.As(cause, &timeout) && timeout.Timeout(), errors.Is(cause, context.DeadlineExceeded):
		return false, ""
	}
	return false, cause.Error()
}
