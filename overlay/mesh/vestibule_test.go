package mesh

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// identify is libp2p's protocol by which peers tell each other what they speak, and where.
const identify = protocol.ID("/ipfs/id/1.0.0")

// TestStrangerLearnsNothing is the attack: who connects and says no hello asks libp2p's
// identify, and every other protocol, what is here. Nothing is answered on its streams,
// not even whether a protocol is known, for as long as it is connected.
func TestStrangerLearnsNothing(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b := f.launch(), f.quiet()
	if err := b.Dial(t.Context(), a.info()); err != nil {
		t.Fatal(err)
	}
	known := len(b.Host().Peerstore().Addrs(a.peer())) // where it connects to
	conns := b.Host().Network().ConnsToPeer(a.peer())
	if len(conns) != 1 {
		t.Fatalf("%d connections", len(conns))
	}
	header := "\x13/multistream/1.0.0\n"
	asked := map[string][]byte{}
	got := make(chan string)
	for what, said := range map[string]string{
		"identify": header + "\x0f" + string(identify) + "\n", "a protocol that is not there": header + "\x07/nobody"[:1] + "/nobody\n"[:7],
		"the header alone": header, "nothing": "", "ls": header + "\x03ls\n", "no negotiation": "GET / HTTP/1.1\r\n\r\n",
		"a protocol of the overlay": header + string(rune(len(echo.ID(testPrefix))+1)) + string(echo.ID(testPrefix)) + "\n",
	} {
		s, err := conns[0].NewStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Write([]byte(said)); err != nil {
			t.Fatal(err)
		}
		asked[what] = nil
		go func() {
			b, _ := io.ReadAll(s)
			got <- what + ": " + string(b)
		}()
	}
	for range asked {
		if line := <-got; !strings.HasSuffix(line, ": ") {
			t.Errorf("answered with %q", line)
		}
	}
	await(t, "the stranger closed", func() bool { return b.Host().Network().Connectedness(a.peer()) != network.Connected })
	if ps, err := b.Host().Peerstore().GetProtocols(a.peer()); err != nil || len(ps) > 0 {
		t.Errorf("it knows the protocols %v, %v", ps, err)
	}
	if v, err := b.Host().Peerstore().Get(a.peer(), "AgentVersion"); err == nil {
		t.Errorf("it knows the program %v", v)
	}
	if n := len(b.Host().Peerstore().Addrs(a.peer())); n > known {
		t.Errorf("it knows %d addresses", n)
	}
}

// A member speaks no identify either: all that another has to know is in the hello,
// where it listens too, and is forgotten a while after it has left.
func TestMembersSayAllInHellos(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b := f.launch(), f.launch()
	a.meet(b)
	if _, err := b.Host().NewStream(network.WithNoDial(t.Context(), "connected"), a.peer(), identify); err == nil {
		t.Error("identify is answered")
	}
	for _, pair := range [][2]*ship{{a, b}, {b, a}} {
		at := pair[1].info().Addrs
		if known := pair[0].Host().Peerstore().Addrs(pair[1].peer()); !slices.ContainsFunc(known, at[0].Equal) {
			t.Errorf("known at %v, is at %v", known, at)
		}
	}
}

func TestPeekProposal(t *testing.T) {
	t.Parallel()
	good := "\x13/multistream/1.0.0\n\x06/echo\n"
	for _, r := range []io.Reader{strings.NewReader(good + "more"), iotest.OneByteReader(strings.NewReader(good + "more"))} {
		said, proposal, err := peekProposal(r)
		rest, _ := io.ReadAll(r)
		if string(said) != good || proposal != "/echo" || err != nil || string(rest) != "more" {
			t.Errorf("%q, %q, %v, then %q", said, proposal, err, rest)
		}
	}
	for n := range len(good) {
		if _, _, err := peekProposal(strings.NewReader(good[:n])); err == nil {
			t.Errorf("%d bytes are enough", n)
		}
	}
	for _, bad := range []string{"\x00", "\x13/multistream/1.0.0\n\x00", "\x02ab", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "\x81\x08" + strings.Repeat("x", 1025)} {
		if _, p, err := peekProposal(bytes.NewReader([]byte(bad))); err == nil {
			t.Errorf("%q is read as %q", bad, protocol.ID(p))
		}
	}
}
