package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/idloc"
)

// TestNoCrew: a run that cannot be is refused before anything is begun.
func TestNoCrew(t *testing.T) {
	for _, cfg := range []config{{nodes: 1, streams: 1}, {nodes: 2}} {
		if got, err := run(context.Background(), cfg); err == nil || got != nil {
			t.Errorf("%+v: %v, %v", cfg, got, err)
		}
	}
	cfg := config{nodes: 2, streams: 1, out: io.Discard}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := run(ctx, cfg); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if runtime.GOOS != "windows" {
		t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "missing"))
		if _, err := run(context.Background(), cfg); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("no place for the nodes: %v", err)
		}
	}
}

// TestEchoed: a peer that changes a byte, keeps some, adds one or resets the
// stream is found out, and only wrong bytes count as such.
func TestEchoed(t *testing.T) {
	const size = 300_000
	read := func(c *net.TCPConn) []byte {
		b, err := io.ReadAll(c)
		if err != nil || len(b) != size {
			t.Errorf("the peer got %d bytes, %v", len(b), err)
		}
		return b
	}
	for name, x := range map[string]struct {
		peer  func(c *net.TCPConn)
		ok    bool
		wrong bool
	}{
		"honest":  {peer: func(c *net.TCPConn) { _, _ = c.Write(read(c)) }, ok: true},
		"changes": {peer: func(c *net.TCPConn) { b := read(c); b[size-1]++; _, _ = c.Write(b) }, wrong: true},
		"keeps":   {peer: func(c *net.TCPConn) { _, _ = c.Write(read(c)[:size-1]) }},
		"adds":    {peer: func(c *net.TCPConn) { _, _ = c.Write(append(read(c), 0)) }, wrong: true},
		"resets":  {peer: func(c *net.TCPConn) { _, _ = c.Read(make([]byte, 1)); _ = c.SetLinger(0) }},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			if c, err := l.Accept(); err != nil {
				t.Error(err)
			} else {
				x.peer(c.(*net.TCPConn))
				_ = c.Close()
			}
		}()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if err := echoed(c, 5, size); (err == nil) != x.ok || errors.Is(err, errWrong) != x.wrong {
			t.Errorf("%s: %v", name, err)
		}
		_ = c.Close()
		<-done
		_ = l.Close()
		if err := echoed(c, 5, size); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s, closed: %v", name, err)
		}
	}
}

// TestVerdict: what must not be makes a run bad, and is told once for each
// kind; a long run does not fill the memory with it.
func TestVerdict(t *testing.T) {
	v := new(tally)
	for _, err := range []error{
		&net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", IsNotFound: true}},
		&idloc.StageError{Stage: "check", Err: io.EOF},
		fmt.Errorf("dial: %w", &idloc.StageError{Stage: "check", Err: io.EOF}),
		io.ErrUnexpectedEOF,
	} {
		v.failed("a", "b", err)
	}
	if kinds := v.byKind(); len(kinds) != 3 || kinds["check"] != 2 || kinds["no such host"] != 1 || kinds["other"] != 1 || len(v.firsts) != 3 {
		t.Errorf("%v, first %q", kinds, v.firsts)
	}
	if v.bad() {
		t.Error("dials that fail make a run bad")
	}
	for i := range 100 {
		v.complain(&v.lost, "stream %d", i)
	}
	if !v.bad() || v.lost.Load() != 100 || len(v.complaints) >= 100 || v.complaints[0] != "stream 0" {
		t.Errorf("bad %v, %d complaints kept of %d", v.bad(), len(v.complaints), v.lost.Load())
	}
	if s := v.String(); !strings.Contains(s, "failed 4 map[check:2 no such host:1 other:1]") || !strings.Contains(s, "lost streams 100") {
		t.Error(s)
	}
}

// TestVerdictOnClose: only a lossy link excuses what was cut.
func TestVerdictOnClose(t *testing.T) {
	v := new(tally)
	w, err := newWire(v, 0)
	if err != nil {
		t.Fatal(err)
	}
	c := &crew{t: v, posts: []*post{{name: "a", wire: w}}}
	slow := fmt.Errorf("idloc: %w", &idloc.CutError{Err: context.DeadlineExceeded})
	for _, x := range []struct {
		percent   int32
		err       error
		cut, lost uint64
	}{
		{0, nil, 0, 0},
		{9, nil, 0, 0},
		{9, slow, 1, 0},
		{9, io.ErrClosedPipe, 1, 1},
		{0, slow, 1, 2},
	} {
		w.percent.Store(x.percent)
		c.left(c.posts[0], x.err)
		if v.closesCut.Load() != x.cut || v.lost.Load() != x.lost {
			t.Errorf("%d %% lost, %v: %v", x.percent, x.err, v)
		}
	}
}

// TestNobodyThere: a dial to a name whose node restarts is none and does not
// outlast the run.
func TestNobodyThere(t *testing.T) {
	c := &crew{t: new(tally), posts: []*post{{name: "a"}, {name: "b"}}}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	conn, to, _ := c.dial(ctx, "tcp", 0, rand.New(rand.NewPCG(1, 1)))
	if conn != nil || to != c.posts[1] || c.t.dials.Load() != 0 {
		t.Errorf("%v to %v, %d dials", conn, to.name, c.t.dials.Load())
	}
	if err := c.close(); err != nil {
		t.Error(err)
	}
}

// TestFaults: only those that may suffer do, a node that does not come back is
// lost, and in the end every wire is whole.
func TestFaults(t *testing.T) {
	dir := t.TempDir() // no node was ever here
	synctest.Test(t, func(t *testing.T) {
		c := &crew{t: new(tally)}
		for i := range 3 {
			w, err := newWire(c.t, i)
			if err != nil {
				t.Fatal(err)
			}
			c.posts = append(c.posts, &post{name: fmt.Sprint("node", i), dir: filepath.Join(dir, fmt.Sprint(i)), wire: w})
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		c.faults(ctx, rand.New(rand.NewPCG(2, 2)))
		v := c.t
		if n := v.restarts.Load(); n == 0 || v.lost.Load() != n || v.blackouts.Load() == 0 || v.moves.Load() != 0 {
			t.Error(v)
		}
		for i, p := range c.posts {
			if p.wire.dark.Load() || p.wire.percent.Load() != 0 {
				t.Errorf("the wire of %s is left broken", p.name)
			}
			if _, term := p.now(); i < 2 && term != 0 || c.settled(p) != (i < 2) {
				t.Errorf("%s is settled: %v; it left %d times", p.name, c.settled(p), term)
			}
		}
		if len(v.complaints) == 0 || !strings.Contains(v.complaints[0], "node2 does not come back") {
			t.Errorf("%q", v.complaints)
		}
	})
}

// TestWire: the faults that the wire counts are those that a receiver sees.
func TestWire(t *testing.T) {
	v := new(tally)
	w, err := newWire(v, 200)
	if err != nil {
		t.Fatal(err)
	}
	to, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	c, err := w.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	addr := to.LocalAddr().(*net.UDPAddr)
	_ = to.SetReadDeadline(time.Now().Add(2 * time.Minute))
	b := make([]byte, 100)
	receive := func(n int) (changed int) {
		for range n {
			k, err := to.Read(b)
			if err != nil {
				t.Fatalf("%v; %v", err, v)
			}
			if !genuine(b[:k]) {
				changed++
			}
		}
		return changed
	}

	w.percent.Store(100)
	var lost, doubled, changed, late uint64
	for i := 0; i < 1000 && min(lost, doubled, changed, late) == 0; i++ {
		send := c.WriteToUDP
		if i%2 == 1 {
			send = func(b []byte, to *net.UDPAddr) (int, error) { return c.WriteTo(b, to) }
		}
		if n, err := send(datagram(uint64(i), 20), addr); n != 32 || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
		// One after the other: the receiver's buffer is not under test.
		was := lost + doubled + changed + late
		arrive := int(2*(v.wireDoubled.Load()-doubled) + v.wireChanged.Load() - changed + v.wireLate.Load() - late)
		bad := receive(arrive)
		if uint64(bad) != v.wireChanged.Load()-changed {
			t.Errorf("datagram %d: %d changed; %v", i, bad, v)
		}
		lost, doubled, changed, late = v.wireLost.Load(), v.wireDoubled.Load(), v.wireChanged.Load(), v.wireLate.Load()
		if lost+doubled+changed+late != was+1 {
			t.Fatalf("datagram %d suffered %d faults", i, lost+doubled+changed+late-was)
		}
	}
	if min(lost, doubled, changed, late) == 0 {
		t.Errorf("a fault never happened: %v", v)
	}

	w.percent.Store(0)
	w.dark.Store(true)
	_, _ = c.WriteToUDP(datagram(1000, 20), addr)
	if v.wireLost.Load() != lost+1 {
		t.Error("something leaves in the dark")
	}
	w.dark.Store(false)
	_, _ = c.WriteToUDP(datagram(1001, 20), addr)
	if k, err := to.Read(b); err != nil || string(b[:k]) != string(datagram(1001, 20)) {
		t.Errorf("%x, %v", b[:k], err)
	}
	if _, err := w.ListenUDP("udp4", addr); err == nil {
		t.Error("two sockets on one port")
	}

	seen := make(map[string]bool)
	for range 2 * len(w.addrs) {
		is, err := w.Interfaces()
		if err != nil || len(is) != 1 {
			t.Fatalf("%v, %v", is, err)
		}
		as, err := is[0].Addrs()
		if err != nil || len(as) != 1 {
			t.Fatalf("%v, %v", as, err)
		}
		seen[as[0].String()] = true
		w.move()
	}
	if len(seen) != len(w.addrs) || runtime.GOOS == "linux" && len(seen) < 2 {
		t.Errorf("addresses %v, want %v", seen, w.addrs)
	}
}
