package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/p2p"
)

// A protocol that has its own messages is served to members, who may also be on
// their way in, and to nobody else.
func TestHandleStreams(t *testing.T) {
	t.Parallel()
	const pid = testPrefix + "/own/1"
	f := newFleet(t)
	a, b := f.launch(), f.launch()
	b.HandleStreams(pid, func(s network.Stream, from *membership.Member) {
		if from.Peer != a.id || !b.Admitted(s) {
			t.Errorf("a stream of %v", from.Peer)
		}
		_, _ = io.Copy(s, s)
		_ = s.Close()
	})
	if _, err := a.Stream(t.Context(), b.peer(), pid); !errors.Is(err, network.ErrNoConn) {
		t.Errorf("without a connection: %v", err)
	}
	if err := a.Dial(t.Context(), b.info()); err != nil { // its hello is on the way
		t.Fatal(err)
	}
	s, err := a.Stream(t.Context(), b.peer(), pid)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte("words")); err != nil {
		t.Fatal(err)
	}
	_ = s.CloseWrite()
	if got, err := io.ReadAll(s); err != nil || string(got) != "words" {
		t.Errorf("%q, %v", got, err)
	}
	_ = s.Close()
}

// Connections from addresses that are gone are closed, and no others.
func TestHangUp(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b := f.launch(), f.launch()
	a.meet(b)
	c := a.Host().Network().ConnsToPeer(b.peer())[0]
	a.HangUp(map[string]bool{"192.0.2.1:443": true})
	if c.IsClosed() {
		t.Error("closed with another address")
	}
	at, _ := p2p.AddrPort(c.LocalMultiaddr())
	a.HangUp(map[string]bool{at.String(): true})
	if !c.IsClosed() {
		t.Error("not closed with its address")
	}
}

// A member that has gone without a word is found out by a question, and dialled
// where its pipe is, in vain.
func TestSuspectDead(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b := f.launch(), f.launch()
	a.meet(b)
	at, _ := p2p.AddrPort(b.Host().Addrs()[0])
	a.mu.Lock()
	a.pipes[b.id] = []netip.AddrPort{at}
	a.mu.Unlock()
	c := a.Host().Network().ConnsToPeer(b.peer())[0]
	_ = b.port.Close() // without a word; libp2p says that its listener was closed unintentionally
	start := time.Now()
	a.SuspectAll()
	await(t, "the connection closed", c.IsClosed)
	if took := time.Since(start); took < suspectMin {
		t.Errorf("closed after %v", took)
	}
	await(t, "the member gone", func() bool { _, ok := a.Member(b.peer()); return !ok })
	await(t, "nobody is asked any more", func() bool { return a.suspects.begin(b.peer()) })
}

// Who begins a hello and does not end it, and who says nonsense, is closed.
func TestBadHello(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a := f.launch()
	hello := Hello{Chain: f.chain(testID(7))}.appendTo([]byte{helloWelcome})
	for what, say := range map[string][]byte{
		"nothing":         nil,
		"half a word":     hello[:len(hello)/2],
		"nonsense":        []byte("GET / HTTP/1.1\r\n\r\n"),
		"another version": {helloWelcome, helloVersion + 1, 0},
		"another's chain": hello,
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			b := f.quiet()
			if err := b.Dial(t.Context(), a.info()); err != nil {
				t.Fatal(err)
			}
			s, err := stream(t.Context(), b.Host(), a.peer(), testPrefix+"/hello/1")
			if err != nil {
				t.Fatal(err)
			}
			if len(say) > 0 {
				if _, err := s.Write(say); err != nil {
					t.Fatal(err)
				}
			}
			await(t, "closed", func() bool { return b.Host().Network().Connectedness(a.peer()) != network.Connected })
			if _, ok := a.Member(b.peer()); ok {
				t.Error("a member")
			}
		})
	}
}

// Of what is told those addresses are kept that can be dialled; no more than so many
// of one teller are.
func TestTold(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b := f.launch(), f.launch()
	a.meet(b)
	tcp := ma.StringCast("/ip4/192.0.2.1/tcp/443")
	if got := b.Told(a.peer(), append(testAddrs(1), tcp)); len(got) != 1 || !got[0].Equal(testAddrs(1)[0]) {
		t.Errorf("kept: %v", got)
	}
	kept := 0
	const many = 1 << 14
	for i := range many {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{20, 0, byte(i >> 8), byte(i)}), 443)
		kept += len(b.Told(a.peer(), []ma.Multiaddr{p2p.QUIC(at)}))
	}
	if kept == 0 || kept == many {
		t.Errorf("%d of %d are kept of one teller", kept, many)
	}
}

// Errors say in words what has happened.
func TestErrorTexts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want string
	}{
		{&TooLongError{"answer", 10}, "answer of more than 10 bytes"},
		{&RefusedError{Reason: "expired"}, `refused by the peer: "expired"`},
		{&UnreachedError{2 * time.Second, "1 member tried", context.Canceled}, "no member reached in 2s, 1 member tried: context canceled"},
		{errUnanswered, "busy or unreachable"},
	} {
		if !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("%q does not say %q", c.err, c.want)
		}
	}
	var passing interface {
		Temporary() bool
		Timeout() bool
	}
	if !errors.As(errUnanswered, &passing) || !passing.Temporary() || passing.Timeout() {
		t.Error("that nobody has answered does not go away by itself")
	}
}

// After Leave nobody is dialled and nothing decided, but who asks is answered.
func TestLeave(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b, c := f.launch(), f.launch(), f.launch()
	a.meet(b)
	b.Leave()
	b.Run() // returns
	b.AskDialBack()
	b.SuspectAll()
	if b.Back(t.Context()); len(b.Members()) != 1 {
		t.Error("members have changed")
	}
	if err := b.Round(t.Context(), []peer.AddrInfo{c.info()}); err == nil {
		if _, ok := b.Member(c.peer()); ok {
			t.Error("dialled after the end")
		}
	}
	if got, err := a.Ask(t.Context(), b.peer(), peersProtocol, nil); err != nil || len(got) == 0 {
		t.Errorf("not answered before the stop: %v, %v", got, err)
	}
	b.Stop()
	if err := errors.Join(b.Close(), b.Close()); err != nil {
		t.Error(err)
	}
}

// Whoever was met is called once where all answer.
func TestRecallAll(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b := f.launch(), f.launch()
	a.known.Note(b.id, b.Host().Addrs(), false, peerid.ID{})
	a.Recall()
	if _, ok := a.Member(b.peer()); !ok {
		t.Error("b was not called")
	}
	a.Recall() // who is there is not called
	if list := a.known.List(); len(list) != 1 || list[0].Peer != b.id {
		t.Errorf("known: %+v", list)
	}
}

// A search goes on at once when something has changed.
func TestStir(t *testing.T) {
	t.Parallel()
	var b bell
	b.ring() // nobody waits
	first := b.wait()
	if b.wait() != first {
		t.Error("two bells")
	}
	b.ring()
	<-first
	select {
	case <-b.wait():
		t.Error("rung before")
	default:
	}
	f := newFleet(t)
	a := f.launch()
	rung := a.stirred.wait()
	a.Stir()
	<-rung
	if a.tries.justAlone() {
		t.Error("alone before anybody has looked")
	}
}

// Connect is content with a connection by which the member comes in itself, though
// nobody answers where it is dialled.
func TestConnectComesIn(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b := f.launch(), f.launch()
	hole, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}) // says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()
	at := p2p.QUIC(hole.LocalAddr().(*net.UDPAddr).AddrPort())
	nowhere := peer.AddrInfo{ID: b.peer(), Addrs: []ma.Multiaddr{at}}
	done := make(chan error, 1)
	go func() {
		m, err := a.Connect(t.Context(), nowhere)
		if err == nil && m.Peer != b.id {
			err = fmt.Errorf("connected to %v", m.Peer)
		}
		done <- err
	}()
	if _, err := hole.Read(make([]byte, 2000)); err != nil { // it dials
		t.Fatal(err)
	}
	b.meet(a)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if a.Host().Network().(*swarm.Swarm).Backoff().Backoff(b.peer(), at) {
		t.Error("the dial has gone on until it failed")
	}
}
