package idloc_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pion/stun/v2"
	"github.com/pion/transport/v3"

	"github.com/idloc/idloc/idloc"
)

var garbageCount = flag.Int("garbage", 20_000, "how many datagrams TestGarbage sends")

// tap is the kernel's network with an ear at it: it keeps some of what a host
// sends to one port, and lends its sockets to whoever wants to send in its
// name.
type tap struct {
	*wired
	to atomic.Uint32 // the port

	mu    sync.Mutex // guards what follows
	socks []*net.UDPConn
	kept  [3][]sample // by kind
	next  [3]int
}

// sample is a datagram as it left the host.
type sample struct {
	b  []byte
	to netip.AddrPort
}

// Kinds of samples, by first byte (RFC 7983, RFC 9443).
const (
	ofPipe = iota
	ofSTUN
	ofQUIC
)

const samples = 64 // kept of each kind: the newest

func newTap(t testing.TB) *tap { return &tap{wired: newWired(t, "127.0.0.1")} }

func (p *tap) ListenUDP(network string, laddr *net.UDPAddr) (transport.UDPConn, error) {
	c, err := net.ListenUDP(network, laddr)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.socks = append(p.socks, c)
	return &tapConn{c, p}, nil
}

type tapConn struct {
	*net.UDPConn
	tap *tap
}

func (c *tapConn) WriteTo(b []byte, to net.Addr) (int, error) {
	n, err := c.UDPConn.WriteTo(b, to)
	if a := to.(*net.UDPAddr).AddrPort(); err == nil && len(b) > 0 && uint32(a.Port()) == c.tap.to.Load() {
		c.tap.keep(sample{slices.Clone(b), netip.AddrPortFrom(a.Addr().Unmap(), a.Port())})
	}
	return n, err
}

func (p *tap) keep(s sample) {
	kind := ofQUIC
	switch first := s.b[0]; {
	case first <= 3:
		kind = ofSTUN
	case first&0xc0 == 0x80:
		kind = ofPipe
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.kept[kind]) < samples {
		p.kept[kind] = append(p.kept[kind], s)
		return
	}
	p.kept[kind][p.next[kind]] = s
	p.next[kind] = (p.next[kind] + 1) % samples
}

// sample returns a copy of one that was kept, nil if there is none.
func (p *tap) sample(rnd *rand.Rand, kind int) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.kept[kind]) == 0 {
		return nil
	}
	return slices.Clone(p.kept[kind][rnd.IntN(len(p.kept[kind]))].b)
}

// garbage makes datagrams that a node should drop.
type garbage struct {
	rnd *rand.Rand
	tap *tap // what passes between the node and a peer of its
}

func (g *garbage) random(n int) []byte {
	b := make([]byte, n)
	for i := 0; i < len(b); i += 8 {
		var w [8]byte
		binary.LittleEndian.PutUint64(w[:], g.rnd.Uint64())
		copy(b[i:], w[:])
	}
	return b
}

// flip changes one bit of b.
func (g *garbage) flip(b []byte) []byte {
	if len(b) > 0 {
		b[g.rnd.IntN(len(b))] ^= 1 << g.rnd.IntN(8)
	}
	return b
}

// make returns the next one. What is a true copy of a peer's datagram may come
// from that peer's address only: from elsewhere it is the sign of a NAT that
// has given the peer another address, and is followed up.
func (g *garbage) make() (b []byte, copied bool) {
	const long = 1472
	switch g.rnd.IntN(16) {
	case 0: // nothing, in one of eight
		return g.random(max(0, g.rnd.IntN(long*8/7)-long/7)), false
	case 1: // of no protocol
		b = g.random(1 + g.rnd.IntN(long))
		b[0] = 4 + b[0]%60
	case 2: // a pipe's, of no session, of each type and some that are none
		b = g.random(1 + g.rnd.IntN(long))
		b[0] = 0x80 + b[0]%8
	case 3, 4: // of a live session, of each type: data, control and so rekey, piece, relay
		b = append(g.tap.sample(g.rnd, ofPipe)[:4], g.random(20+g.rnd.IntN(long-24))...)
		b[0] = 0x80 + byte(g.rnd.IntN(6))
	case 5, 6:
		b = g.flip(g.tap.sample(g.rnd, ofPipe))
	case 7:
		b = g.tap.sample(g.rnd, ofPipe)
		b = append(b[:g.rnd.IntN(len(b))], g.random(g.rnd.IntN(8)*4+1)...)
	case 8:
		return g.tap.sample(g.rnd, ofPipe), true
	case 9:
		b = g.flip(g.tap.sample(g.rnd, ofSTUN))
	case 10: // STUN with attributes of any kind, a request, a response or nothing that there is
		b = g.random(20 + 4*g.rnd.IntN(100))
		binary.BigEndian.PutUint16(b, []uint16{0x0001, 0x0101, 0x0111, 0x0011, 0x0003, 0x0113}[g.rnd.IntN(6)])
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)-20))
		binary.BigEndian.PutUint32(b[4:], 0x2112a442)
	case 11: // a check of no establishment
		m, err := stun.Build(stun.TransactionID, stun.BindingRequest, stun.NewUsername("none:you"), stun.Fingerprint)
		if err != nil {
			panic(err)
		}
		b = m.Raw
	case 12: // the first packet of a QUIC connection
		b = append([]byte{0xc0 | byte(g.rnd.IntN(16)), 0, 0, 0, 1, 8}, g.random(1250)...)
		b[14], b[15], b[16], b[17] = 0, 0, 0x44, 0xb0 // no source ID, no token, a length of 1,200
	case 13: // other QUIC with a long header
		b = g.random(7 + g.rnd.IntN(long-7))
		b[0] |= 0xc0
		if g.rnd.IntN(2) == 0 {
			copy(b[1:], []byte{0, 0, 0, 1, 8})
		}
	case 14:
		b = g.random(1 + g.rnd.IntN(long))
		b[0] = 0x40 | b[0]&0x3f
	case 15:
		if b = g.tap.sample(g.rnd, ofQUIC); b == nil {
			b = g.random(100)
		}
		b[1+g.rnd.IntN(min(8, len(b)-1))] ^= 1 << g.rnd.IntN(8) // the version or the connection ID
	}
	return b, false
}

// transfer sends bytes from a to a listener of b's until told to stop, and
// says how many came. Both ends hash them.
type transfer struct {
	stop chan struct{}
	came atomic.Int64
	done chan error
}

func startTransfer(t testing.TB, a, b *idloc.Node) *transfer {
	t.Helper()
	l, err := b.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	out, err := dialTimeout(t, a, "tcp", b.Name()+":"+port)
	if err != nil {
		t.Fatal(err)
	}
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	x := &transfer{stop: make(chan struct{}), done: make(chan error, 1)}
	sent, got := sha256.New(), sha256.New()
	written := make(chan error, 1)
	go func() { written <- x.send(out, sent) }()
	go func() {
		defer in.Close()
		_, err := io.Copy(io.MultiWriter(got, counted{&x.came}), in)
		if werr := <-written; err == nil {
			err = werr
		}
		out.Close()
		if err == nil && !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
			err = errors.New("what came is not what was sent")
		}
		x.done <- err
	}()
	return x
}

func (x *transfer) send(c net.Conn, sum hash.Hash) error {
	var seed [32]byte
	r := io.TeeReader(rand.NewChaCha8(seed), sum)
	b := make([]byte, 64<<10)
	for {
		select {
		case <-x.stop:
			return c.(interface{ CloseWrite() error }).CloseWrite()
		default:
		}
		_, _ = io.ReadFull(r, b)
		if _, err := c.Write(b); err != nil {
			return err
		}
	}
}

// end stops it and waits.
func (x *transfer) end() error {
	close(x.stop)
	return <-x.done
}

type counted struct{ n *atomic.Int64 }

func (c counted) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	return len(b), nil
}

// strangers are sockets from which garbage comes. They read what comes back; others may
// send to whoever had their ports before.
type strangers struct {
	at      netip.AddrPort // where it goes
	socks   []*net.UDPConn
	reading sync.WaitGroup

	mu      sync.Mutex // guards what follows
	replies map[string]int
}

// stunReply is the one kind of replies that there may be.
const stunReply = "STUN response"

func newStrangers(t testing.TB, n int, at netip.AddrPort) *strangers {
	t.Helper()
	s := &strangers{at: at, replies: map[string]int{}}
	for range n {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		s.socks = append(s.socks, c)
		s.reading.Go(func() { s.read(c) })
	}
	return s
}

func (s *strangers) read(c *net.UDPConn) {
	b := make([]byte, 2048)
	for {
		n, from, err := c.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || from != s.at {
			continue
		}
		what := fmt.Sprintf("first byte %#02x", b[0])
		if n >= 20 && b[0] == 1 && (b[1] == 0x01 || b[1] == 0x11) && binary.BigEndian.Uint32(b[4:]) == 0x2112a442 {
			what = stunReply
		}
		s.mu.Lock()
		s.replies[what]++
		s.mu.Unlock()
	}
}

func (s *strangers) close() {
	for _, c := range s.socks {
		c.Close()
	}
	s.reading.Wait()
}

// Garbage of all kinds at a node's one port, from strangers and in the name of
// a peer, copies and near copies of a live pipe's datagrams among it: the pipe
// carries what it carried, nobody gets an answer that is not STUN's, and it is
// counted why each was dropped. It is not parallel, so that the memory is its
// own.
func TestGarbage(t *testing.T) {
	earth := found(t, idloc.Config{})
	mars := join(t, earth, "mars", idloc.Config{})
	ear := newTap(t)
	ear.to.Store(uint32(mars.Status().Self.Port))
	venus := join(t, earth, "venus", idloc.Config{Net: ear})
	port := echo(t, mars)

	x := startTransfer(t, venus, mars)
	session := peerStatus(t, mars, venus).Session
	before, seed := heapNow(), rand.Uint64()
	t.Logf("seed %d", seed)
	from := newStrangers(t, 4, netip.AddrPortFrom(loopback[0], mars.Status().Self.Port))
	count := *garbageCount
	if testing.Short() {
		count = min(count, 6000)
	}
	flood(t, seed, ear, from, mars.Status().Self.Port, count)
	// On a busy machine most of it is lost in a full socket, and of the rare
	// kinds perhaps all.
	for more := range uint64(20) {
		if len(undropped(t, mars, venus)) > 0 {
			flood(t, seed+1+more, ear, from, mars.Status().Self.Port, count/4)
		}
	}
	if err := x.end(); err != nil {
		t.Errorf("the transfer: %v", err)
	}
	grown := heapNow() - before
	from.close()

	st, peer := mars.Status(), peerStatus(t, mars, venus)
	t.Logf("%d MiB came; heap +%d KiB; replies %v\ndrops %v, of the pipe %v", x.came.Load()>>20, grown>>10, from.replies, st.Drops, peer.Drops)
	if x.came.Load() == 0 {
		t.Error("nothing came")
	}
	if grown > 32<<20 {
		t.Errorf("the heap has grown by %d MiB", grown>>20)
	}
	for what, n := range from.replies {
		if what != stunReply {
			t.Errorf("%d replies: %s", n, what)
		}
	}
	for _, reason := range undropped(t, mars, venus) {
		t.Errorf("none was dropped as %q", reason)
	}
	if peer.Session != session || !peer.Connected {
		t.Errorf("the pipe was of session %s, is of %s", session, peer.Session)
	}
	for _, n := range []*idloc.Node{earth, venus} { // a new pipe and the old one
		for _, network := range []string{"tcp", "udp"} {
			c, err := dialTimeout(t, n, network, "mars.example.com:"+port)
			if err != nil {
				t.Fatalf("%s afterwards: %v", n.Name(), err)
			}
			if err := roundTrip(c, []byte("still there")); err != nil {
				t.Errorf("%s, %s: %v", n.Name(), network, err)
			}
			c.Close()
		}
	}
}

// undropped returns for which reasons n has dropped nothing yet, of its own and
// of its pipe with peer.
func undropped(t *testing.T, n, peer *idloc.Node) (reasons []string) {
	t.Helper()
	for _, reason := range []string{
		"socket: empty", "socket: unknown-kind", "socket: quic-version", "socket: quic-length", "socket: quic-stranger", "socket: quic-forged",
		"stun: malformed", "stun: unknown user", "stun: unknown transaction", "pipe: malformed", "pipe: unknown index",
	} {
		if n.Status().Drops[reason] == 0 {
			reasons = append(reasons, reason)
		}
	}
	for _, reason := range []string{"authentication failed", "unknown source", "replay"} {
		if peerStatus(t, n, peer).Drops[reason] == 0 {
			reasons = append(reasons, reason)
		}
	}
	return reasons
}

// flood sends count pieces of garbage to a port, one in four in the name of the
// peer that ear listens to.
func flood(t *testing.T, seed uint64, ear *tap, from *strangers, port uint16, count int) {
	t.Helper()
	g := &garbage{rnd: rand.New(rand.NewPCG(seed, 0)), tap: ear}
	to := netip.AddrPortFrom(loopback[0], port)
	ear.mu.Lock()
	peer := ear.socks[0]
	ear.mu.Unlock()
	for i := range count {
		b, copied := g.make()
		c := from.socks[i%len(from.socks)]
		if copied || i%4 == 0 {
			c = peer
		}
		if _, err := c.WriteToUDPAddrPort(b, to); err != nil && !strings.Contains(err.Error(), "refused") {
			t.Fatal(err)
		}
	}
}

// peerStatus is what n knows of other.
func peerStatus(t testing.TB, n, other *idloc.Node) idloc.PeerStatus {
	t.Helper()
	for _, p := range n.Status().Peers {
		if p.ID == other.ID() {
			return p
		}
	}
	t.Fatalf("%s does not know %s", n.Name(), other.Name())
	return idloc.PeerStatus{}
}

func heapNow() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
