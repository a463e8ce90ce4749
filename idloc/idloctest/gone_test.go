package idloctest_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
	. "github.com/idloc/idloc/idloc/idloctest"
	"github.com/idloc/idloc/internal/yardstick"
)

var goneDials = flag.Int("gone-dials", 1000, "how many Dials TestDialGone begins at once; 10000 take some memory")

// goneWithin is what the package doc promises of a Dial to a peer that is gone.
const goneWithin = 10 * time.Second

// TestDialGone: all Dials to peers that are gone end in time, however many they
// are, and each says that the peer is unreachable and at which stage. The first
// peer's pipe still stands when they begin.
func TestDialGone(t *testing.T) {
	t.Parallel()
	for _, peers := range []int{1, 10} {
		t.Run(fmt.Sprint(peers, " peers"), func(t *testing.T) {
			lab := New(t, Seed(1))
			lab.Node("earth")
			venus := lab.Node("venus")
			var names []string
			for i := range peers {
				mars := lab.Node(fmt.Sprint("mars", i))
				echo(t, mars)
				if err := call(t.Context(), venus, mars, []byte("before")); err != nil {
					t.Fatal(err)
				}
				names = append(names, net.JoinHostPort(mars.Name(), echoPort))
				if err := mars.Crash(); err != nil {
					t.Fatal(err)
				}
			}
			var wg sync.WaitGroup
			var mu sync.Mutex
			var slowest time.Duration
			clock := yardstick.Start() // all begin at once: the slowest ends it
			for i := range *goneDials {
				wg.Go(func() {
					start := time.Now()
					c, err := venus.Dial(context.Background(), "tcp", names[i%len(names)])
					took := time.Since(start)
					if err == nil {
						c.Close()
					}
					mu.Lock()
					defer mu.Unlock()
					slowest = max(slowest, took)
					if !errors.Is(err, idloc.ErrUnreachable) {
						t.Errorf("after %v: %v", took, err)
					}
				})
			}
			wg.Wait()
			all := clock.Stop()
			t.Logf("%d Dials to %d peers: the slowest took %v, %v by the yardstick", *goneDials, peers, slowest, all)
			if all > goneWithin {
				t.Errorf("of %d Dials one took longer than %v: %v, %v by the yardstick", *goneDials, goneWithin, slowest, all)
			}
		})
	}
}

// TestDialGoesOn: a Dial with a deadline to a peer that is off waits for it: it
// succeeds when the peer has come back, and at the deadline it is a timeout that
// says why the peer was not reached. Without a deadline it ends by itself.
func TestDialGoesOn(t *testing.T) {
	t.Parallel()
	for what, end := range map[string]func(n *Node) error{
		"crashed": (*Node).Crash,
		"closed":  func(n *Node) error { return n.Close() },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			lab := New(t, Seed(1))
			lab.Node("earth")
			venus := lab.Node("venus")
			dir := t.TempDir()
			mars := lab.Node("mars", Config(func(c *idloc.Config) { c.Dir = dir }))
			echo(t, mars)
			if err := call(t.Context(), venus, mars, []byte("before")); err != nil {
				t.Fatal(err)
			}
			if err := end(mars); err != nil {
				t.Fatal(err)
			}
			address := net.JoinHostPort(mars.Name(), echoPort)
			ctx, cancel := context.WithTimeout(t.Context(), 12*time.Second)
			_, err := venus.Dial(ctx, "tcp", address)
			early := ctx.Err() == nil
			cancel()
			var stage *idloc.StageError
			if early || !errors.Is(err, idloc.ErrUnreachable) || !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &stage) || stage.Stage != idloc.StageOffer {
				t.Errorf("off until the deadline: %v, early %v", err, early)
			}
			var timeout net.Error
			if !errors.As(err, &timeout) || !timeout.Timeout() {
				t.Errorf("no timeout: %v", err)
			}
			t.Log(err)
			ctx, cancel = context.WithTimeout(t.Context(), patience)
			defer cancel()
			dialled := make(chan error, 100)
			events := venus.Watch(ctx)
			for range cap(dialled) {
				go func() {
					c, err := venus.Dial(ctx, "tcp", address)
					if err == nil {
						c.Close()
					}
					dialled <- err
				}()
			}
			failed := 0
			for e := range events { // it has been tried, more than once
				if e.Kind == idloc.EventPipeFailed && e.Peer == mars.ID() {
					if failed++; failed == 2 {
						break
					}
				}
			}
			select {
			case err := <-dialled:
				t.Fatalf("ended before its time: %v", err)
			default:
			}
			mars.Restart()
			echo(t, mars)
			back := time.Now()
			defer func() { t.Logf("all Dials have ended %v after it was back", time.Since(back)) }()
			for range cap(dialled) {
				if err := <-dialled; err != nil && !errors.Is(err, syscall.ECONNREFUSED) { // its listener is a moment later
					t.Error(err)
				}
			}
		})
	}
}

// TestPooledConnAfterRestart: a server is started again while a client of
// net/http keeps an idle conn to it. The next request, which cannot be repeated
// since it is a POST, is not lost on that conn: the client hears of its end
// without asking, and has closed it.
func TestPooledConnAfterRestart(t *testing.T) {
	t.Parallel()
	lab := New(t, Seed(1))
	lab.Node("earth")
	venus := lab.Node("venus")
	dir := t.TempDir()
	mars := lab.Node("mars", Config(func(c *idloc.Config) { c.Dir = dir }))
	serve := func() {
		l, err := mars.Listen("tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })) // ends with the node
	}
	serve()
	dropped := make(chan struct{}, 10)
	transport := venus.HTTPClient().Transport.(*http.Transport).Clone()
	dial := transport.DialContext
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &toldOfClose{Conn: c, tell: sync.OnceFunc(func() { dropped <- struct{}{} })}, nil
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	post := func() error {
		resp, err := client.Post("http://"+mars.Name()+"/", "text/plain", strings.NewReader("x"))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.ReadAll(resp.Body)
		return err
	}
	if err := post(); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		mars.Restart()
		serve()
		select {
		case <-dropped:
		case <-time.After(patience):
			t.Fatalf("restart %d: the pool keeps its conn", i)
		}
		if err := post(); err != nil {
			t.Errorf("POST after restart %d: %v", i, err)
		}
	}
}

// toldOfClose tells of the first Close.
type toldOfClose struct {
	net.Conn
	tell func()
}

func (c *toldOfClose) Close() error {
	defer c.tell()
	return c.Conn.Close()
}

// TestNullDialGoesOn: so does a Dial with null encapsulation.
func TestNullDialGoesOn(t *testing.T) {
	t.Parallel()
	bare := Config(func(c *idloc.Config) { c.Null = idloc.NullPlain })
	lab := New(t, Seed(1))
	lab.Node("earth")
	venus := lab.Node("venus", bare)
	dir := t.TempDir()
	mars := lab.Node("mars", bare, Config(func(c *idloc.Config) { c.Dir = dir }))
	listen := func() { // on real hosts TCP is the same; these have UDP only
		if _, err := mars.ListenPacket("udp", ":7"); err != nil {
			t.Error(err)
		}
	}
	listen()
	d := idloc.Dialer{Nodes: []*idloc.Node{venus.Node}, Encapsulation: idloc.Null}
	address := net.JoinHostPort(mars.Name(), "7")
	dial := func(within time.Duration) (early bool, err error) {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		c, err := d.Dial(ctx, "udp", address)
		if err == nil {
			c.Close()
		}
		return ctx.Err() == nil, err
	}
	if _, err := dial(patience); err != nil {
		t.Fatal(err)
	}
	if err := mars.Close(); err != nil {
		t.Fatal(err)
	}
	early, err := dial(5 * time.Second)
	var stage *idloc.StageError
	if early || !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &stage) {
		t.Errorf("off until the deadline: %v, early %v", err, early)
	}
	t.Log(err)
	dialled := make(chan error)
	go func() {
		_, err := dial(patience)
		dialled <- err
	}()
	mars.Restart()
	listen()
	if err := <-dialled; err != nil && !errors.Is(err, syscall.ECONNREFUSED) { // its listener is a moment later
		t.Error(err)
	}
}
