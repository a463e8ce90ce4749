package netstack

import (
	"context"
	"io"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/shim"
	"github.com/idloc/idloc/shim/shimtest"
)

func TestShareCountsThoseThatWrite(t *testing.T) {
	type step struct {
		epoch   int64
		counted bool
		want    int
	}
	for what, steps := range map[string][]step{
		"one, again and again":          {{1, false, 1}, {1, true, 1}, {2, false, 1}},
		"three":                         {{1, false, 1}, {1, false, 2}, {1, false, 3}, {1, true, 3}},
		"three, still, an epoch after":  {{1, false, 1}, {1, false, 2}, {1, false, 3}, {2, false, 3}},
		"two of three stopped":          {{1, false, 1}, {1, false, 2}, {1, false, 3}, {2, false, 3}, {3, false, 1}},
		"all stopped, one begins again": {{1, false, 1}, {1, false, 2}, {9, false, 1}},
	} {
		var s nearPeer
		for i, x := range steps {
			if got := s.join(x.epoch, x.counted); got != x.want {
				t.Errorf("%s, step %d: %d, want %d", what, i, got, x.want)
			}
		}
	}
}

// bulk writes n bytes to c, whose other end reads them.
func bulk(t *testing.T, c, peer *tcpConn, n int) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.Discard, peer, int64(n))
		done <- err
	}()
	if _, err := c.Write(make([]byte, n)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// paceOf returns c's pace, which near makes find its path short, whatever the
// machine's load does to round trips.
func paceOf(c *tcpConn, near bool) *pace {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	p := c.ownPace()
	if near {
		p.near, _, _ = c.s.shim.Path(p.peer.addr)
	}
	return p
}

func TestNearConnsShareAWindow(t *testing.T) {
	r := newRig(t)
	var conns, peers [3]*tcpConn
	var paces [3]*pace
	for i := range conns {
		conns[i], peers[i] = r.pair(t, r.b4)
		bulk(t, conns[i], peers[i], 1) // the pipe is up
		paces[i] = paceOf(conns[i], true)
	}
	own := int64(1 << 20)
	if err := conns[2].SetWriteBuffer(int(own)); err != nil {
		t.Fatal(err)
	}
	for i, c := range conns {
		bulk(t, c, peers[i], 8*paceEvery)
	}
	if got := conns[2].ep.SocketOptions().GetSendBufferSize(); got != own {
		t.Errorf("the application's choice of %d became %d", own, got)
	}
	for i, c := range conns[:2] {
		limit := int64(paces[i].limit)
		if got := c.ep.SocketOptions().GetSendBufferSize(); got != limit || limit < nearShare || limit > nearWindow {
			t.Errorf("conn %d: send buffer %d, share %d", i, got, limit)
		}
	}
	if s := paces[0].peer; s != paces[1].peer || s.refs != 3 {
		t.Errorf("three conns to one peer share with %d", s.refs)
	}
	for _, c := range conns {
		_ = c.Close()
		if c.ownPace() != nil {
			t.Error("a closed conn has a pace")
		}
	}
	r.a.mu.Lock()
	defer r.a.mu.Unlock()
	if len(r.a.near) != 0 {
		t.Errorf("%d peers after the last conn closed", len(r.a.near))
	}
}

// Far away the buffers are gVisor's if nothing is repaired; a path that was short and
// is not any more has room for what is under way on a long one.
func TestFarConnsAreNotLimited(t *testing.T) {
	r := newBareRig(t)
	r.net.SetDelay(5 * time.Millisecond)
	c, s := r.pair(t, r.b4)
	bulk(t, c, s, 8*paceEvery)
	p := paceOf(c, false)
	if p.limit != 0 {
		t.Errorf("limit %d on a path of 10 ms", p.limit)
	}
	c.writeMu.Lock()
	p.near, p.limit, p.epoch = netip.MustParseAddrPort("192.0.2.1:1"), nearShare, 0
	c.writeMu.Unlock()
	bulk(t, c, s, 8*paceEvery)
	if p.limit != tcpBufferMax {
		t.Errorf("limit %d after the path became long", p.limit)
	}
}

// A peer that announces our own MSS, as every stack of this package does, gets
// segments as long as the path takes; one that asks for less gets less.
func TestSegmentsOfAPeersChoice(t *testing.T) {
	for _, x := range []struct {
		gso  stack.GSO
		want int
	}{
		{stack.GSO{}, 0},
		{stack.GSO{Type: stack.GSOTCPv4, MSS: gsoMSS}, 0},
		{stack.GSO{Type: stack.GSOTCPv6, MSS: tcpMSS}, 0},
		{stack.GSO{Type: stack.GSOTCPv4, MSS: gsoMSS - 1}, gsoMSS - 1},
		{stack.GSO{Type: stack.GSOTCPv6, MSS: 536}, 536},
	} {
		p := stack.NewPacketBuffer(stack.PacketBufferOptions{})
		p.GSOOptions = x.gso
		var pk shim.Packet
		if borrow(&pk, p); pk.MSS != x.want {
			t.Errorf("%+v: cut at %d, want %d", x.gso, pk.MSS, x.want)
		}
		p.DecRef()
	}
}

// Where the pipe repairs, connections share what their pipe says, TCP's timeout is
// that of RFC 6298, and TCP knows nothing of what is lost.
func TestRepairedConnsShare(t *testing.T) {
	r := newRig(t)
	_, _ = r.pair(t, r.b4)
	r.net.SetDelay(10 * time.Millisecond)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	p, err := r.a.Connect(ctx, r.b.ID)
	if err != nil {
		t.Fatal(err)
	}
	q, err := r.b.Connect(ctx, r.a.ID)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pipe does not repair", func() bool {
		_, _, _ = p.Ping(ctx)
		_, _, _ = q.Ping(ctx)
		return p.Repairs() && q.Repairs()
	})
	c, s := r.pair(t, r.b4)
	if rto := leastRTO(t, c); rto < patientRTO {
		t.Errorf("a timeout of %v where the pipe repairs", rto)
	}
	bulk(t, c, s, 16*paceEvery)
	checkShare(t, c)
	if st := p.Status().Repair; st.Sent == 0 {
		t.Errorf("nothing went through it: %+v", st)
	}
	was := r.a.Stack.stack.Stats().TCP.Retransmits.Value()
	var n atomic.Int64
	r.net.SetFilter(func(from, _ *shimtest.Node, b []byte, seg int) []byte {
		if from == r.a.Node && b[0] <= wire.TypeData6 && n.Add(1)%20 == 0 {
			return b[:len(b)-min(seg, len(b))]
		}
		return b
	})
	bulk(t, c, s, 32*paceEvery)
	st := p.Status().Repair
	if st.Repaired == 0 {
		t.Errorf("nothing was sent again: %+v", st)
	}
	if now := r.a.Stack.stack.Stats().TCP.Retransmits.Value(); now-was > st.Repaired/4 {
		t.Errorf("TCP sent %d segments again, the pipe %d", now-was, st.Repaired)
	}
}

// checkShare wants c's writes to have set its send buffer, to its peer's whole share, give or
// take the quarter that is not worth a change.
func checkShare(t *testing.T, c *tcpConn) {
	t.Helper()
	p := paceOf(c, true)
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if p.limit == 0 {
		t.Error("no limit was set")
	}
	for range 100 { // until the share was the same before and after
		share, ok := c.s.shim.Repairing(p.peer.addr)
		if !ok {
			t.Fatal("it does not repair any more")
		}
		p.look(c)
		if again, _ := c.s.shim.Repairing(p.peer.addr); again != share {
			continue
		}
		share = min(max(share, 2*superPacket), tcpBufferMax)
		if 4*share < 3*p.limit || 4*share > 5*p.limit {
			t.Errorf("limit %d of a share of %d", p.limit, share)
		}
		return
	}
	t.Error("the share does not stand still")
}

func leastRTO(t *testing.T, c *tcpConn) time.Duration {
	t.Helper()
	var info tcpip.TCPInfoOption
	if err := c.ep.GetSockOpt(&info); err != nil {
		t.Fatal(err)
	}
	return info.RTO
}
