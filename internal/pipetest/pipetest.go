// Package pipetest makes pipes between endpoints in memory, for tests of what has to do
// with pipes and is none. It works in a bubble of testing/synctest and without one.
package pipetest

import (
	"bytes"
	"crypto/ed25519"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
)

const latency = time.Millisecond // of a datagram

// Net is what carries datagrams between the ends.
type Net struct {
	mu   sync.Mutex // guards ends
	ends map[netip.AddrPort]*End
}

// End is an endpoint with one socket.
type End struct {
	*pipe.Endpoint
	ID   peerid.ID
	At   netip.AddrPort
	Key  ed25519.PrivateKey
	tb   testing.TB
	net  *Net
	wait sync.WaitGroup // datagrams on their way here
}

var _ pipe.Sender = (*End)(nil)

// New makes an end whose key is made of seed, which its address ends with, and ends it
// with the test.
func (n *Net) New(tb testing.TB, seed byte) *End {
	tb.Helper()
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	id, err := peerid.FromPublicKey(key.Public().(ed25519.PublicKey))
	if err != nil {
		tb.Fatal(err)
	}
	e := &End{ID: id, Key: key, At: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, seed}), 7000), tb: tb, net: n}
	if e.Endpoint, err = pipe.NewEndpoint(pipe.Config{Key: key, Handler: nobody{}}); err != nil {
		tb.Fatal(err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ends == nil {
		n.ends = map[netip.AddrPort]*End{}
	}
	n.ends[e.At] = e
	tb.Cleanup(func() {
		_ = e.Close()
		n.mu.Lock()
		delete(n.ends, e.At) // nothing is sent here any more
		n.mu.Unlock()
		e.wait.Wait()
	})
	return e
}

// LocalAddr implements pipe.Sender.
func (e *End) LocalAddr() netip.AddrPort { return e.At }

// WriteBatch implements pipe.Sender.
func (e *End) WriteBatch(b []byte, seg int, to netip.AddrPort) error {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	other := e.net.ends[to]
	if other == nil {
		return nil
	}
	b = bytes.Clone(b)
	other.wait.Go(func() {
		time.Sleep(latency)
		other.Receive(other, e.At, b, seg)
	})
	return nil
}

// Connect makes a pipe between two ends, which show the chains, and returns both
// sides. The other's is up as soon as it hears of it.
func (e *End) Connect(other *End, mine, theirs []byte) (here, there *pipe.Pipe) {
	e.tb.Helper()
	must := func(err error) {
		if err != nil {
			e.tb.Helper()
			e.tb.Fatal(err)
		}
	}
	offer, err := e.NewOffer(other.ID, pipe.Local{Chain: mine})
	must(err)
	defer offer.Cancel()
	in, err := other.ReadOffer(offer.Bytes())
	must(err)
	answer, session, err := in.Accept(pipe.Local{Chain: theirs})
	must(err)
	there, err = other.Up(session, pipe.Path{Local: other, Remote: e.At})
	must(err)
	session, err = offer.Finish(answer)
	must(err)
	here, err = e.Up(session, pipe.Path{Local: e, Remote: other.At})
	must(err)
	return here, there
}

// nobody takes what comes.
type nobody struct{}

func (nobody) Data(*pipe.Pipe, []byte, int)   {}
func (nobody) Large(*pipe.Pipe, bool, []byte) {}
func (nobody) Up(*pipe.Pipe)                  {}
func (nobody) Down(*pipe.Pipe, error)         {}
func (nobody) Gone(peerid.ID, error)          {}
