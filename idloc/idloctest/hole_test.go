package idloctest_test

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
	. "github.com/idloc/idloc/idloc/idloctest"
)

// The least that works: payloads of 1200 bytes behind the headers of IPv4 and
// of IPv6. And the least that IPv6 has by its standard.
const (
	hole4  = 1228
	hole6  = 1248
	least6 = 1280
)

// tap counts what is larger than what every path is assumed to take.
type tap struct {
	mu     sync.Mutex
	pipes  int // datagrams of pipes, whose way to find a path's size is to send them
	large  int // of these
	others map[byte]int
}

// Demultiplexing as the shared port has it: RFC 7983, RFC 9443.
func (w *tap) see(p Packet) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	b, large := p.Payload[0], len(p.Payload) > 1200
	switch {
	case b&0xc0 == 0x80:
		w.pipes++
		if large {
			w.large++
		}
	case large:
		w.others[b]++
	}
	return true
}

// TestSmallLinks: behind a link that swallows all that is larger than the
// least, on one side or both, a node joins, is dialled and dials, sends much,
// comes back after a crash and is found again. Nothing but a pipe's probes of
// its own path is larger than 1200 bytes.
func TestSmallLinks(t *testing.T) {
	t.Parallel()
	four, six := []NodeOption{}, []NodeOption{IPv6()}
	home := []NodeOption{BehindNAT(PortRestricted)}
	for _, c := range []struct {
		name       string
		mtu        int
		mars, luna []NodeOption
		both       bool // or luna's link is wide
	}{
		{"IPv4", hole4, four, four, false},
		{"IPv4 behind NATs, both", hole4, home, home, true},
		{"IPv6", hole6, six, six, true},
		{"IPv6 at 1280", least6, six, six, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			lab := New(t, Seed(1))
			seen := &tap{others: map[byte]int{}}
			lab.Filter(seen.see)
			lab.Node("earth", DualStack())
			small := Over(Link{Delay: 2 * time.Millisecond, MTU: c.mtu})
			wide := Over(Link{Delay: 2 * time.Millisecond})
			if c.both {
				wide = small
			}
			dir := t.TempDir()
			mars := lab.Node("mars", append(c.mars, small, Config(func(c *idloc.Config) { c.Dir = dir }))...)
			luna := lab.Node("luna", append(c.luna, wide)...)
			for range 2 {
				echo(t, mars)
				l, err := luna.Listen("tcp", ":"+echoPort)
				if err == nil {
					go bounce(l)
				} // else it listens since the first round
				exchange(t, luna, mars)
				exchange(t, mars, luna)
				mars.Restart()
			}
			seen.mu.Lock()
			defer seen.mu.Unlock()
			if len(seen.others) > 0 {
				t.Errorf("larger than 1200 bytes, by their first byte: %v", seen.others)
			}
			if c.both && seen.large*20 > seen.pipes {
				t.Errorf("%d of %d datagrams of pipes were larger than 1200 bytes", seen.large, seen.pipes)
			}
			t.Logf("%d of %d datagrams of pipes were larger than 1200 bytes", seen.large, seen.pipes)
		})
	}
}

// bounce echoes until l is closed.
func bounce(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() { defer c.Close(); io.Copy(c, c) }()
	}
}

// exchange sends half a megabyte to the echo of a node and wants it back.
func exchange(t *testing.T, from, to *Node) {
	t.Helper()
	c, err := from.Dial(t.Context(), "tcp", net.JoinHostPort(to.Name(), echoPort))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	data := bytes.Repeat([]byte("idloc"), 100<<10)
	go func() { c.Write(data) }()
	got := make([]byte, len(data))
	if n, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d of %d bytes came back: %v", n, len(data), err)
	}
}
