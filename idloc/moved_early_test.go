package idloc

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/pion/transport/v3"
	"github.com/pion/transport/v3/stdnet"

	"github.com/idloc/idloc/internal/yardstick"
	"github.com/idloc/idloc/overlay"
)

// oneAddr is the kernel's network as a host on loopback has it.
type oneAddr struct {
	transport.Net
	mu sync.Mutex // guards at
	at netip.Addr
}

func (o *oneAddr) Interfaces() ([]*transport.Interface, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := transport.NewInterface(net.Interface{Index: 1, Name: "one0", MTU: 1500, Flags: net.FlagUp})
	i.AddAddress(&net.IPNet{IP: o.at.AsSlice(), Mask: net.CIDRMask(32, 32)})
	return []*transport.Interface{i}, nil
}

// TestMovedWhileEntering: addresses that change while a node enters its overlay are
// followed once it has: who is invited then finds it at the new one.
func TestMovedWhileEntering(t *testing.T) {
	real, err := stdnet.NewNet()
	if err != nil {
		t.Fatal(err)
	}
	host := &oneAddr{Net: real, at: netip.MustParseAddr("127.9.0.1")}
	if l, err := net.ListenPacket("udp4", "127.9.0.2:0"); err != nil {
		t.Skip("loopback has one address here")
	} else {
		_ = l.Close()
	}
	earth, err := start(t.Context(), Config{Name: "earth", Net: host}, func(ctx context.Context, c overlay.Config) (*overlay.Overlay, error) {
		ov, err := overlay.Create(ctx, "example.com", c)
		host.mu.Lock()
		host.at = host.at.Next()
		host.mu.Unlock()
		if err := c.Socket.Rescan(); err != nil {
			t.Error(err)
		}
		return ov, err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer earth.Close()
	token, err := earth.Invite(InviteOptions{Name: "mars"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	took := yardstick.Start()
	defer took.Stop()
	mars, err := Join(ctx, token, Config{Net: &oneAddr{Net: real, at: netip.MustParseAddr("127.9.1.1")}})
	if err != nil {
		t.Fatal(err)
	}
	if d := took.Stop(); d > 15*time.Second {
		t.Errorf("it was found after %v", d)
	}
	mars.Close()
}
