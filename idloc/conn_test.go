package idloc_test

import (
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/idloc/idloc/idloc"
	"github.com/idloc/idloc/internal/yardstick"
)

var (
	manyConns  = flag.Int("conns", 500, "how many connections TestManyConns holds at once; 10000 take ten seconds")
	leakRounds = flag.Int("rounds", 3, "how many rounds TestLeakRounds goes")
)

// Conns between two nodes are what golang.org/x/net/nettest wants of a
// net.Conn. It gives each of its own tests a minute, among them a thousand turns one
// after another, each of which waits for every processor that another test keeps: so
// no other runs beside it.
func TestNettest(t *testing.T) {
	_, venus, mars := solar(t)
	for _, network := range []string{"tcp4", "tcp6"} {
		t.Run(network, func(t *testing.T) {
			l, err := mars.Listen(network, ":0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			_, port, _ := net.SplitHostPort(l.Addr().String())
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				c1, err = dialTimeout(t, venus, network, "mars.example.com:"+port)
				if err != nil {
					return nil, nil, nil, err
				}
				if c2, err = l.Accept(); err != nil {
					c1.Close()
					return nil, nil, nil, err
				}
				return c1, c2, func() { c1.Close(); c2.Close() }, nil
			})
		})
	}
}

// Many connections at once, each of which still carries its own bytes when
// all are open.
func TestManyConns(t *testing.T) {
	_, venus, mars := solar(t)
	l, err := mars.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())

	count := *manyConns
	clients, servers := make([]net.Conn, count), make([]net.Conn, count)
	defer func() {
		for _, c := range append(clients, servers...) {
			if c != nil {
				c.Close()
			}
		}
	}()
	var accepting, dialing sync.WaitGroup
	for range 16 {
		accepting.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				var b [4]byte
				c.SetDeadline(time.Now().Add(patience))
				if _, err := io.ReadFull(c, b[:]); err != nil {
					t.Error(err)
					return
				}
				servers[binary.BigEndian.Uint32(b[:])] = c
				if _, err := c.Write(b[:]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	next := make(chan int)
	for range 64 {
		dialing.Go(func() {
			for i := range next {
				c, err := dialTimeout(t, venus, "tcp", "mars.example.com:"+port)
				if err != nil {
					t.Error(err)
					continue
				}
				clients[i] = c
				if err := roundTrip(c, binary.BigEndian.AppendUint32(nil, uint32(i))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	began := time.Now()
	for i := range count {
		next <- i
	}
	close(next)
	dialing.Wait()
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	t.Logf("%d connections in %v; heap of both nodes and the founder %d MiB", count, time.Since(began).Round(time.Millisecond), m.HeapAlloc>>20)
	if t.Failed() {
		t.FailNow()
	}
	for i := range count {
		msg := fmt.Appendf(nil, "connection %d", i)
		servers[i].SetDeadline(time.Now().Add(patience))
		clients[i].SetDeadline(time.Now().Add(patience))
		if _, err := clients[i].Write(msg); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(msg))
		if _, err := io.ReadFull(servers[i], got); err != nil || string(got) != string(msg) {
			t.Fatalf("%q, want %q: %v", got, msg, err)
		}
	}
	l.Close()
	accepting.Wait()
}

// Nodes that join, dial and close leave nothing with those that stay:
// goroutines, file descriptors, conns, TCP endpoints, pipes. It is not parallel, so that the
// process is its own.
func TestLeakRounds(t *testing.T) {
	earth := found(t, idloc.Config{})
	port := echo(t, earth)
	round := func(i int) {
		token, err := earth.Invite(idloc.InviteOptions{})
		if err != nil {
			t.Fatal(err)
		}
		n, err := idloc.Join(t.Context(), token, idloc.Config{Name: fmt.Sprintf("n%d", i), Addrs: loopback})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := n.Close(); err != nil {
				t.Fatal(err)
			}
		}()
		for _, network := range []string{"tcp", "udp"} {
			c, err := dialTimeout(t, n, network, "earth.example.com:"+port)
			if err != nil {
				t.Fatal(err)
			}
			if err := roundTrip(c, []byte("a round")); err != nil {
				t.Fatal(err)
			}
			if i%2 == 0 || network == "udp" { // else the node's Close closes it
				c.Close()
			}
		}
	}
	round(0)
	// How much is there once what ends has ended: the least of a while.
	while := 20 * time.Second
	if *leakRounds > 100 {
		// A node's last packet may be lost. Its peer then finds out by keepalives
		// or, if it was closing, gives up after orphanFor.
		while = 4 * time.Minute
	}
	least := func(enough func(level) bool) level {
		c := yardstick.Start()
		defer c.Stop()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			if now := levelOf(earth); enough(now) || c.Elapsed() > while {
				return now
			}
		}
		panic("unreachable")
	}
	quiet := 0
	before := least(func(level) bool { quiet++; return quiet > 100 })
	for i := 1; i <= *leakRounds; i++ {
		round(i)
	}
	// A node's leftovers would be one at least in each round.
	limit, slack := before, min(4, *leakRounds-1)
	limit.goroutines += slack
	if *leakRounds <= 100 { // for the lost packet
		limit.conns, limit.endpoints = limit.conns+slack, limit.endpoints+slack
	}
	after := least(func(l level) bool { return l.within(limit) })
	t.Logf("%d rounds: %v → %v", *leakRounds, before, after)
	if !after.within(limit) {
		b := make([]byte, 1<<20)
		t.Errorf("leaks: %v → %v\n%s", before, after, b[:runtime.Stack(b, true)])
	}
}

// level is how much there is of what a node could leave: in the process, and
// with the peer that stays.
type level struct {
	goroutines, files       int
	conns, endpoints, pipes int
}

func levelOf(n *idloc.Node) level {
	st := n.Status()
	l := level{goroutines: runtime.NumGoroutine(), files: openFiles(), conns: st.Self.Conns, endpoints: st.Self.Endpoints}
	for _, p := range st.Peers {
		if p.Connected {
			l.pipes++
		}
	}
	return l
}

func (l level) within(m level) bool {
	return l.goroutines <= m.goroutines && l.files <= m.files && l.conns <= m.conns && l.endpoints <= m.endpoints && l.pipes <= m.pipes
}

func (l level) String() string {
	return fmt.Sprintf("goroutines %d, file descriptors %d, conns %d, TCP endpoints %d, pipes %d", l.goroutines, l.files, l.conns, l.endpoints, l.pipes)
}

// openFiles is 0 where /proc does not say.
func openFiles() int {
	f, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(f)
}
