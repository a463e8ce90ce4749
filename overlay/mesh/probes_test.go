package mesh

import (
	"context"
	"fmt"
	"net/netip"
	"syscall"
	"testing"

	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/quic-go/quic-go"

	"github.com/idloc/idloc/overlay/p2p"
)

func port(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func TestDialProbes(t *testing.T) {
	t.Parallel()
	m := func(ip string) ma.Multiaddr { return p2p.QUIC(port(ip + ":4000")) }
	dial := func(cause error) error {
		return fmt.Errorf("wrapped: %w", &swarm.DialError{DialErrors: []swarm.TransportError{{Address: m("20.0.0.1"), Cause: cause}}})
	}
	for _, c := range []struct {
		what  string
		err   error
		count int
		heard bool
		wrong bool
	}{
		{"no error", nil, 0, false, false},
		{"given up by the caller", context.Canceled, 0, false, false},
		{"another address was faster", dial(context.Canceled), 0, false, false},
		{"libp2p waits", dial(swarm.ErrDialBackoff), 0, false, false},
		{"the caller's time is over", context.DeadlineExceeded, 2, false, false},
		{"the dial's time is over", dial(context.DeadlineExceeded), 1, false, false},
		{"QUIC's patience is over", dial(&quic.HandshakeTimeoutError{}), 1, false, false},
		{"no route", dial(syscall.ENETUNREACH), 1, false, true},
		{"its certificate is bad", dial(&quic.TransportError{ErrorCode: 0x12a, ErrorMessage: "bad certificate"}), 1, true, true},
		{"it closes", dial(&quic.ApplicationError{Remote: true}), 1, true, true},
	} {
		got := dialProbes([]ma.Multiaddr{m("20.0.0.1"), m("20.0.0.2")}, c.err)
		if len(got) != c.count {
			t.Errorf("%s: %+v", c.what, got)
			continue
		}
		for _, p := range got {
			if p.Heard != c.heard || (p.Err != "") != c.wrong || p.Addr.Port() != 4000 {
				t.Errorf("%s: %+v", c.what, p)
			}
		}
	}
}
