package idloc_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"flag"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"runtime/metrics"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pion/stun/v2"

	"github.com/idloc/idloc/idloc"
)

var (
	nullBytes = flag.Int64("null.bytes", 64<<20, "how much TestNullResumes transfers")
	nullCut   = flag.Int64("null.cut", 16<<20, "after how many bytes it cuts the path, each time")
)

// wiredPair is venus and mars, each on a wired network of its own.
func wiredPair(t testing.TB, policy idloc.NullPolicy, record bool) (venus, mars *idloc.Node, vw, mw *wired) {
	earth := found(t, idloc.Config{})
	vw, mw = newWired(t, "127.1.0.1"), newWired(t, "127.2.0.1")
	vw.record, mw.record = record, record
	start := func(name string, w *wired) *idloc.Node {
		token, err := earth.Invite(idloc.InviteOptions{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		n, err := idloc.Join(ctx, token, idloc.Config{Name: name, Null: policy, Net: w})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close() })
		return n
	}
	return start("venus", vw), start("mars", mw), vw, mw
}

// unframed takes the messages of the connectivity checks off the front of what
// crossed a connection (RFC 4571), and says how many there were.
func unframed(b []byte) (rest []byte, messages int) {
	for len(b) >= 22 && binary.BigEndian.Uint32(b[6:]) == 0x2112a442 {
		n := 2 + int(binary.BigEndian.Uint16(b))
		if n > len(b) {
			break
		}
		b = b[n:]
		messages++
	}
	return b, messages
}

// On the wire of a null TCP flow are the framed checks and then the
// application's bytes; not one is added.
func TestNullWireTCP(t *testing.T) {
	t.Parallel()
	venus, mars, vw, mw := wiredPair(t, idloc.NullPlain, true)
	l, err := mars.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := dialNull(t, venus, "tcp", "mars.example.com:80")
	if err != nil {
		t.Fatal(err)
	}
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	there, back := []byte("GET / HTTP/1.0\r\n\r\n"), bytes.Repeat([]byte("response "), 100)
	go func() { c.Write(there); c.(interface{ CloseWrite() error }).CloseWrite() }()
	if got, err := io.ReadAll(in); err != nil || !bytes.Equal(got, there) {
		t.Errorf("%q, %v", got, err)
	}
	go func() { in.Write(back); in.Close() }()
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, back) {
		t.Errorf("%q, %v", got, err)
	}
	c.Close()
	flows := 0
	for _, w := range []struct {
		w       *wired
		out, in []byte
	}{{vw, there, back}, {mw, back, there}} {
		w.w.mu.Lock()
		for _, k := range w.w.seen {
			k.mu.Lock()
			out, asked := unframed(k.out)
			in, answered := unframed(k.in)
			k.mu.Unlock()
			if len(out) == 0 && (len(in) == 0 || len(in) < 22 && in[0] == 0) {
				continue // not chosen, and perhaps closed within a message
			}
			flows++
			if !bytes.Equal(out, w.out) || !bytes.Equal(in, w.in) || asked == 0 || answered == 0 {
				t.Errorf("%d messages and %q out; %d messages and %q in", asked, out, answered, in)
			}
		}
		w.w.mu.Unlock()
	}
	if flows != 2 {
		t.Errorf("%d connections carried bytes, seen from both ends", flows)
	}
}

// The same of UDP, whose application speaks STUN itself.
func TestNullWireUDP(t *testing.T) {
	t.Parallel()
	venus, mars, vw, _ := wiredPair(t, idloc.NullPlain, true)
	pc, err := mars.ListenPacket("udp", ":3478")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	c, err := dialNull(t, venus, "udp", "mars.example.com:3478")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	build := func(s ...stun.Setter) []byte {
		m, err := stun.Build(s...)
		if err != nil {
			t.Fatal(err)
		}
		return m.Raw
	}
	payloads := [][]byte{
		[]byte("hello"),
		build(stun.BindingRequest, stun.TransactionID, stun.Fingerprint),
		build(stun.BindingRequest, stun.TransactionID, stun.NewUsername("somebody:else"), stun.NewShortTermIntegrity("their own"), stun.Fingerprint),
		build(stun.BindingSuccess, stun.TransactionID, stun.Fingerprint),
		{0x80, 1, 2, 3}, {0x40}, {0}, {}, bytes.Repeat([]byte{0xff}, 1400),
	}
	flow := flowsTo(venus, mars.ID())
	if len(flow) != 1 {
		t.Fatalf("flows: %+v", flow)
	}
	b := make([]byte, 2000)
	for _, p := range payloads {
		if _, err := c.Write(p); err != nil {
			t.Fatal(err)
		}
		_ = pc.SetReadDeadline(time.Now().Add(patience))
		n, from, err := pc.ReadFrom(b)
		if err != nil || !bytes.Equal(b[:n], p) {
			t.Fatalf("%x became %x, %v", p, b[:n], err)
		}
		if who, err := mars.WhoIs(from); err != nil || who.ID != venus.ID() {
			t.Errorf("WhoIs(%v) = %v, %v", from, who, err)
		}
		if _, err := pc.WriteTo(b[:n], from); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if n, err := c.Read(b); err != nil || !bytes.Equal(b[:n], p) {
			t.Fatalf("%x came back as %x, %v", p, b[:n], err)
		}
	}
	// A stranger who sends to the flow's socket is not heard.
	stranger, err := net.Dial("udp", flow[0].RealRemote.String())
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	stranger.Write([]byte("I am venus"))
	_ = pc.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, _, err := pc.ReadFrom(b); err == nil {
		t.Errorf("a stranger's %q was delivered", b[:n])
	}
	// What venus has sent from the flow's socket: checks, and the payloads.
	vw.mu.Lock()
	defer vw.mu.Unlock()
	var bare [][]byte
	for _, p := range vw.sent {
		if p.from != flow[0].RealLocal || p.to != flow[0].RealRemote {
			continue
		}
		m := &stun.Message{Raw: p.b}
		var name stun.Username
		if m.Decode() == nil && (name.GetFrom(m) == nil && !strings.Contains(name.String(), "somebody") || m.Contains(stun.AttrMessageIntegrity) && name == nil) {
			continue // ours
		}
		bare = append(bare, p.b)
	}
	if len(bare) != len(payloads) {
		t.Fatalf("%d datagrams on the wire for %d", len(bare), len(payloads))
	}
	for i, p := range payloads {
		if !bytes.Equal(bare[i], p) {
			t.Errorf("%x on the wire is %x", p, bare[i])
		}
	}
}

// A transfer goes on over cut paths and changed addresses, in both directions
// at once, through a half-close, and when the connections that follow die in
// their turn, during the checks and soon after. Every byte comes once.
func TestNullResumes(t *testing.T) {
	for _, policy := range []idloc.NullPolicy{idloc.NullPlain, idloc.NullTLS} {
		name := "plain"
		if policy == idloc.NullTLS {
			name = "TLS"
		}
		t.Run(name, func(t *testing.T) { nullResumes(t, policy) })
	}
}

func nullResumes(t *testing.T, policy idloc.NullPolicy) {
	if testing.Short() && *nullBytes > 16<<20 {
		*nullBytes, *nullCut = 16<<20, 6<<20
	}
	venus, mars, vw, mw := wiredPair(t, policy, false)
	l, err := mars.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := dialNull(t, venus, "tcp", "mars.example.com:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()

	before := heap()
	var peak uint64
	cuts := 0
	step := func(total int64) {
		if total/(*nullCut) <= int64(cuts) {
			return
		}
		cuts++
		peak = max(peak, heap())
		next := []int64{int64(cuts * 37 % 300), int64(cuts * 1000)}[:cuts%3]
		if cuts%2 == 1 {
			vw.move()
			vw.cut(next...)
			venus.NetworkChanged()
		}
		if cuts%2 == 0 || cuts%5 == 0 {
			mw.move()
			mw.cut(next...)
			mars.NetworkChanged()
		}
	}
	// Up in full, at the same time a quarter down; then, with the one
	// direction closed, a quarter more down.
	up, down := *nullBytes, *nullBytes/4
	var wg sync.WaitGroup
	sums := map[string]hash.Hash{}
	var mu sync.Mutex
	moved := int64(0)
	progress := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		moved += int64(n)
		step(moved)
	}
	side := func(name string, h hash.Hash) hash.Hash { mu.Lock(); defer mu.Unlock(); sums[name] = h; return h }
	send := func(name string, c net.Conn, n int64, seed uint64) {
		h := side(name, sha256.New())
		src := rand.NewChaCha8([32]byte{byte(seed)})
		b := make([]byte, 1<<20)
		for n > 0 {
			k := int(min(n, int64(len(b)), 1+int64(src.Uint64()%(1<<20))))
			src.Read(b[:k])
			h.Write(b[:k])
			if _, err := c.Write(b[:k]); err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			n -= int64(k)
		}
	}
	receive := func(name string, c net.Conn, n int64) {
		h := side(name, sha256.New())
		b := make([]byte, 256<<10)
		for n > 0 {
			k, err := c.Read(b[:min(n, int64(len(b)))])
			h.Write(b[:k])
			n -= int64(k)
			progress(k)
			if err != nil {
				t.Errorf("%s: %v with %d bytes to come", name, err, n)
				return
			}
		}
	}
	start := time.Now()
	half := make(chan struct{})
	wg.Go(func() {
		send("up", c, up, 1)
		if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() {
		receive("up'", in, up)
		if n, err := in.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("after the end: %d, %v", n, err)
		}
		close(half)
	})
	wg.Go(func() {
		send("down", in, down, 2)
		<-half
		vw.cut()
		mw.move()
		mars.NetworkChanged()
		send("more", in, down, 3)
		if err := in.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() {
		receive("down'", c, down)
		receive("more'", c, down)
		if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("after the end: %d, %v", n, err)
		}
	})
	wg.Wait()
	for _, name := range []string{"up", "down", "more"} {
		if a, b := fmt.Sprintf("%x", sums[name].Sum(nil)), fmt.Sprintf("%x", sums[name+"'"].Sum(nil)); a != b {
			t.Errorf("%s: sent %s, received %s", name, a, b)
		}
	}
	moves := 0
	for _, f := range flowsTo(venus, mars.ID()) {
		moves += f.Moved
	}
	if moves < cuts {
		t.Errorf("%d cuts, the flow has moved %d times", cuts, moves)
	}
	const bound = 100 << 20
	if peak > before+bound {
		t.Errorf("the heap grew from %d to %d MiB", before>>20, peak>>20)
	}
	t.Logf("%d MiB up, %d down, %d cuts, %d moves, %v; heap %d MiB before, %d at most", up>>20, down>>19, cuts, moves, time.Since(start).Round(time.Millisecond), before>>20, peak>>20)
}

// heap returns the bytes of live and not yet swept objects.
func heap() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// A UDP flow gets another 5-tuple in place of the old when an address of
// either side changes; conns and LSIs stay.
func TestNullUDPMoves(t *testing.T) {
	t.Parallel()
	venus, mars, vw, mw := wiredPair(t, idloc.NullPlain, false)
	port := echo(t, mars)
	c, err := dialNull(t, venus, "udp", "mars.example.com:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answered := func(msg string) func() bool {
		return func() bool {
			if _, err := c.Write([]byte(msg)); err != nil {
				t.Fatal(err)
			}
			_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			b := make([]byte, 100)
			n, err := c.Read(b)
			return err == nil && string(b[:n]) == msg
		}
	}
	eventually(t, "an echo", answered("before"))
	last := flowsTo(venus, mars.ID())[0]
	for i := range 4 {
		w, n := vw, venus
		if i%2 == 1 {
			w, n = mw, mars
		}
		w.move()
		n.NetworkChanged()
		eventually(t, "the flow has moved", func() bool {
			f := flowsTo(venus, mars.ID())
			return len(f) == 1 && f[0].Moved > last.Moved && (f[0].RealLocal != last.RealLocal || f[0].RealRemote != last.RealRemote)
		})
		last = flowsTo(venus, mars.ID())[0]
		eventually(t, "an echo over the new path", answered(fmt.Sprint("after move ", i)))
	}
	if got := last.Remote.String(); got != c.RemoteAddr().String() {
		t.Errorf("the flow's LSI is %v, the conn's %v", got, c.RemoteAddr())
	}
}
