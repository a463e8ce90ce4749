package pipe

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// A responder that ended before it heard anything cannot say so: it has no
// confirmed keys. The initiator must find out without sending data.
func TestNeverHeardPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		sa, sb := sessions(t, a, b)
		sb.Cancel()
		n.setDrop(func(from, to netip.AddrPort, d []byte) bool { return to == b.s.addr })
		pa, err := a.Up(sa, a.path(b))
		if err != nil {
			t.Fatal(err)
		}
		settle(2 * time.Second)
		if !errors.Is(pa.Err(), ErrDead) || !errors.Is(a.r.lastDown(), ErrDead) {
			t.Fatalf("a peer that was never heard is not dead: %v", pa.Err())
		}
	})
}

// A Ping of a peer that went away ends with the pipe, not with its context.
func TestPingDeadPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
		pa, _ := connect(t, a, b)
		settle(time.Second)
		if _, _, err := pa.Ping(context.Background()); err != nil {
			t.Fatal(err)
		}
		n.setDrop(func(from, to netip.AddrPort, d []byte) bool { return true })
		begin := time.Now()
		_, _, err := pa.Ping(context.Background())
		if !errors.Is(err, ErrDead) {
			t.Errorf("Ping of a dead peer: %v", err)
		}
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("took %v", took)
		}
	})
}
