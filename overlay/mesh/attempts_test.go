package mesh

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/carrier"
	"github.com/idloc/idloc/overlay/p2p"
)

// What is said of a network when nobody is reached, by what came of UDP and of TCP.
func TestNobodyReached(t *testing.T) {
	t.Parallel()
	const (
		blocked = "UDP, which is blocked on the way, or nobody runs there"
		portal  = "a captive portal"
	)
	a, err := carrier.ParseAddress("tls://20.0.0.1:443")
	if err != nil {
		t.Fatal(err)
	}
	udp := p2p.QUIC(port("20.0.0.1:4000"))
	tcp, err := p2p.Carrier(a)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := fmt.Errorf("carrier %v: %w", a, carrier.ErrNotServed)
	for _, c := range []struct {
		what              string
		overUDP, overTCP  error
		says, saysNothing string
	}{
		{"silence", context.DeadlineExceeded, context.DeadlineExceeded, blocked, portal},
		{"nobody listens", context.DeadlineExceeded, syscall.ECONNREFUSED, blocked, portal},
		{"a portal", context.DeadlineExceeded, elsewhere, portal, blocked},
		{"another server, and UDP works", errors.New("its certificate is bad"), elsewhere, "no carrier is served there", portal},
	} {
		var tried attempts
		tried.note(peer.AddrInfo{ID: "earth", Addrs: []ma.Multiaddr{udp, tcp}}, &swarm.DialError{DialErrors: []swarm.TransportError{
			{Address: udp, Cause: c.overUDP}, {Address: tcp, Cause: c.overTCP},
		}}, false)
		text := tried.text()
		if !strings.Contains(text, c.says) || strings.Contains(text, c.saysNothing) {
			t.Errorf("%s: %s", c.what, text)
		}
		if strings.Contains(text, "443: carrier tls") {
			t.Errorf("%s: the address is there twice: %s", c.what, text)
		}
	}
}
