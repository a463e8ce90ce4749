package ice

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/overlay/ice/stun"
)

func newFlow(t *testing.T) *FlowSockets {
	t.Helper()
	u, err := NewFlowSockets(t.Context(), FlowConfig{Addrs: []netip.Addr{loopback}, STUNServers: func() []netip.AddrPort { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.Close)
	return u
}

// flowPair is two sides that have agreed upon a pair.
func flowPair(t *testing.T) [2]*FlowSockets {
	t.Helper()
	sides := [2]*FlowSockets{newFlow(t), newFlow(t)}
	var wg sync.WaitGroup
	for i, u := range sides {
		other := sides[1-i]
		wg.Go(func() {
			p, err := u.Run(t.Context(), i == 0, other.Credentials(), other.Candidates())
			if err != nil || p.Remote != other.port.Conns()[0].LocalAddr() {
				t.Errorf("side %d: %v, %v", i, p, err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return sides
}

// inbox collects datagrams.
type inbox chan string

func (in inbox) take(b []byte) { in <- string(b) }

// synced returns when all that from has sent before has come in at to: a check is
// answered after that.
func synced(t *testing.T, from *FlowSockets) {
	t.Helper()
	for {
		answered := make(chan struct{}, 1)
		forget := from.Check(func() { answered <- struct{}{} })
		select {
		case <-answered:
			forget()
			return
		case <-t.Context().Done():
			t.Fatal("a check is not answered")
		}
	}
}

// What is the application's passes as it is, STUN of its own included, in both
// directions; what came before somebody received it is kept.
func TestFlowSocketsCarryDatagrams(t *testing.T) {
	t.Parallel()
	sides := flowPair(t)
	question, _ := stun.Question()
	ours, _, err := stun.Check{Local: "mine", Remote: Credentials{Ufrag: "yours", Pwd: "secret"}}.Message()
	if err != nil {
		t.Fatal(err)
	}
	answer, err := stun.Success(stun.TransactionID{1}, netip.MustParseAddrPort("192.0.2.1:1"), "secret")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"first", "second", string(question), string(ours), string(answer), "", string(make([]byte, 1200))}
	for i, u := range sides {
		other := sides[1-i]
		for _, b := range want[:3] {
			if err := u.Send([]byte(b)); err != nil {
				t.Fatal(err)
			}
		}
		synced(t, u)
		in := make(inbox, len(want))
		other.Receive(in.take)
		for _, b := range want[3:] {
			if err := u.Send([]byte(b)); err != nil {
				t.Fatal(err)
			}
		}
		for n, w := range want {
			if got := <-in; got != w {
				t.Errorf("datagram %d: %.50q, want %.50q", n, got, w)
			}
		}
	}
	if err := sides[0].Send(make([]byte, 70000)); !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("a datagram of 70,000 bytes: %v", err)
	}
}

// An answer to a check that comes when nobody waits for it any more is not the
// application's, before and after somebody receives that.
func TestFlowSocketsLateAnswer(t *testing.T) {
	t.Parallel()
	sides := flowPair(t)
	late, err := stun.Success(stun.TransactionID{1}, netip.MustParseAddrPort("192.0.2.1:1"), sides[0].Credentials().Pwd)
	if err != nil {
		t.Fatal(err)
	}
	send := func(b []byte) {
		if err := sides[0].Send(b); err != nil {
			t.Fatal(err)
		}
	}
	send(late)
	synced(t, sides[0])
	in := make(inbox, 3)
	sides[1].Receive(in.take)
	send(late)
	send([]byte("data"))
	if got := <-in; got != "data" {
		t.Errorf("%q", got)
	}
	if n := sides[1].demux.Drops()[dropNames[dropTransaction]]; n != 2 {
		t.Errorf("%d counted", n)
	}
}

// No more than a few datagrams wait for who receives them.
func TestFlowSocketsKeepFew(t *testing.T) {
	t.Parallel()
	sides := flowPair(t)
	for range 3 * maxUndelivered {
		if err := sides[0].Send([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	synced(t, sides[0])
	in := make(inbox, 4*maxUndelivered)
	sides[1].Receive(in.take)
	if len(in) != maxUndelivered {
		t.Errorf("%d were kept, want %d", len(in), maxUndelivered)
	}
}

// What comes from elsewhere than the nominated address is nobody's, though it
// comes to the right socket: strangers do not get into a flow.
func TestFlowSocketsDropStrangers(t *testing.T) {
	t.Parallel()
	sides := flowPair(t)
	in := make(inbox, 4)
	sides[1].Receive(in.take)
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(sides[1].port.Conns()[0].LocalAddr()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("from a stranger")); err != nil {
		t.Fatal(err)
	}
	// A stranger's check is answered by nobody either, and its next question
	// comes after the datagram.
	b, _, err := stun.Check{Local: "theirs", Remote: Credentials{Ufrag: sides[1].Credentials().Ufrag, Pwd: "guessed"}}.Message()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	synced(t, sides[0])
	if err := sides[0].Send([]byte("from the peer")); err != nil {
		t.Fatal(err)
	}
	if got := <-in; got != "from the peer" {
		t.Errorf("%q was delivered", got)
	}
}

// The peer shows its consent (RFC 7675) by answering checks, also when the agent
// is gone; a response that was not made with its password is none.
func TestFlowSocketsConsent(t *testing.T) {
	t.Parallel()
	sides := flowPair(t)
	for _, u := range sides {
		synced(t, u)
		u.Retire()
	}
	for _, u := range sides {
		synced(t, u)
	}
	// Only the peer can answer.
	forged := make(chan struct{}, 1)
	u := sides[0]
	remote := *u.remote.Load()
	sides[1].Close() // nobody answers any more
	forget := u.Check(func() { forged <- struct{}{} })
	u.demux.mu.RLock()
	var id stun.TransactionID
	for id = range u.demux.awaited {
	}
	u.demux.mu.RUnlock()
	answer, err := stun.Success(id, netip.MustParseAddrPort("192.0.2.1:1"), "guessed")
	if err != nil {
		t.Fatal(err)
	}
	u.input(remote.conn, remote.at, answer, len(answer))
	right, err := stun.Success(id, netip.MustParseAddrPort("192.0.2.1:1"), remote.Pwd)
	if err != nil {
		t.Fatal(err)
	}
	u.input(remote.conn, netip.MustParseAddrPort("127.0.0.1:1"), right, len(right))
	select {
	case <-forged:
		t.Error("a forged response counts as consent")
	default:
	}
	u.input(remote.conn, remote.at, right, len(right))
	<-forged
	forget()
	if u.demux.Awaits(id) {
		t.Error("a question that was forgotten is waited for")
	}
}

// Run ends with ctx, and at once where there is nobody to check.
func TestFlowSocketsWithoutAPeer(t *testing.T) {
	t.Parallel()
	u := newFlow(t)
	if _, err := u.Run(t.Context(), true, Credentials{Ufrag: "u", Pwd: "p"}, nil); !errors.Is(err, ErrNoPair) {
		t.Errorf("without candidates: %v", err)
	}
	over := errors.New("over")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(over)
	u = newFlow(t)
	other := newFlow(t)
	if _, err := u.Run(ctx, true, other.Credentials(), other.Candidates()); !errors.Is(err, ErrNoPair) || !errors.Is(err, over) {
		t.Errorf("after its time: %v", err)
	}
}

// Mapped addresses that servers see of the flow's sockets are candidates, and
// nobody waits for a server that is silent.
func TestFlowSocketsAreMeasured(t *testing.T) {
	t.Parallel()
	server := NewDemux(DemuxConfig{})
	at := listen(t, server).Conns()[0].LocalAddr()
	deaf, err := socket.Listen(socket.Config{Addrs: []netip.Addr{loopback}})
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	asked := false
	u, err := NewFlowSockets(t.Context(), FlowConfig{Addrs: []netip.Addr{loopback}, STUNServers: func() []netip.AddrPort {
		asked = true
		return []netip.AddrPort{deaf.Conns()[0].LocalAddr(), at}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	var addrs []netip.AddrPort
	for _, c := range u.Candidates() {
		addrs = append(addrs, c.Addr)
	}
	if !asked || !slices.Equal(addrs, []netip.AddrPort{u.port.Conns()[0].LocalAddr()}) {
		t.Errorf("asked %v, candidates %v", asked, addrs)
	}
}
