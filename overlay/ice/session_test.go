package ice

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/overlay/ice/stun"
)

// TestPacing says how many checks leave for addresses that never answer, when
// an agent wants to send one every five milliseconds for eight seconds: to one
// address, and to sixteen ports of one victim.
func TestPacing(t *testing.T) {
	port, err := socket.Listen(socket.Config{Addrs: []netip.Addr{loopback}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = port.Close() })
	synctest.Test(t, func(t *testing.T) {
		for _, ports := range []int{1, 16} {
			d := NewDemux(DemuxConfig{})
			s := newSession(d, Credentials{Ufrag: "ufrag", Pwd: "password"}, nil)
			c := newMuxConn(s, port.Conns()[0])
			sent := 0
			victim := netip.MustParseAddr("192.0.2.1")
			for range 1600 {
				for p := range ports {
					_, id := stun.Question()
					if s.permit(c, netip.AddrPortFrom(victim, uint16(2000+p)), false, id) {
						sent++
					}
				}
				time.Sleep(5 * time.Millisecond)
			}
			if sent > victimBurst || sent < 10 {
				t.Errorf("%d ports: %d checks", ports, sent)
			}
			t.Logf("%d ports: %d checks in 8 s", ports, sent)
			s.close()
			if len(d.awaited) != 0 || len(d.sessions) != 0 {
				t.Errorf("left: %d transactions, %d sessions", len(d.awaited), len(d.sessions))
			}
		}
	})
}

// TestAnswerElsewhere: a peer that answers a check of ours as if from a host that
// it has also named opens nothing there; its own address counts for nothing more.
func TestAnswerElsewhere(t *testing.T) {
	port, err := socket.Listen(socket.Config{Addrs: []netip.Addr{loopback}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = port.Close() })
	synctest.Test(t, func(t *testing.T) {
		d := NewDemux(DemuxConfig{})
		sock := port.Conns()[0]
		s := newSession(d, Credentials{Ufrag: "ufrag", Pwd: "password"}, nil)
		defer s.close()
		s.begin("theirs", true)
		c := newMuxConn(s, sock)
		peer, victim := netip.MustParseAddrPort("192.0.2.1:5000"), netip.MustParseAddrPort("192.0.2.2:5000")
		_, id := stun.Question()
		if !s.permit(c, peer, false, id) {
			t.Fatal("no first check")
		}
		answer, err := stun.Success(id, netip.MustParseAddrPort("127.0.0.1:1"), "theirs")
		if err != nil {
			t.Fatal(err)
		}
		checks := func() (sent int) {
			for range 4000 {
				if _, id := stun.Question(); s.permit(c, victim, false, id) {
					sent++
				}
				time.Sleep(5 * time.Millisecond)
			}
			return sent
		}
		d.Handle(sock, victim, answer)
		if n := checks(); n > checksPerTarget {
			t.Errorf("%d checks to who has not answered", n)
		}
		d.Handle(sock, peer, answer)
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.answered[peer.Addr()] || s.answered[victim.Addr()] {
			t.Errorf("alive: %v", s.answered)
		}
	})
}
