package idloctest_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
	"github.com/idloc/idloc/idloc/idloctest"
	"github.com/idloc/idloc/internal/leaktest"
	"github.com/idloc/idloc/internal/yardstick"
)

func TestMain(m *testing.M) {
	yardstick.Overlap()
	leaktest.Main(m)
}

const echoPort = "7"

// echo serves TCP echo on a node.
func echo(t testing.TB, n *idloctest.Node) {
	t.Helper()
	l, err := n.Listen("tcp", ":"+echoPort)
	if err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the node
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); io.Copy(c, c) }()
		}
	}()
}

// call dials the echo of a peer by name and wants msg back.
func call(ctx context.Context, from, to *idloctest.Node, msg []byte) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := from.Dial(ctx, "tcp", net.JoinHostPort(to.Name(), echoPort))
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(msg); err != nil {
		return err
	}
	got := make([]byte, len(msg))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !bytes.Equal(got, msg) {
		return fmt.Errorf("echo of %q is %q", msg, got)
	}
	return nil
}

// active returns the path that from sends to the peer on.
func active(from, to *idloctest.Node) (p idloc.PathStatus, ok bool) {
	for _, s := range from.Status().Peers {
		if s.ID != to.ID() {
			continue
		}
		for _, p := range s.Paths {
			if p.Active {
				return p, true
			}
		}
	}
	return p, false
}

// await looks, at each event of the nodes and at each tick, whether what is
// waited for holds: a mapped address, or one of a TURN server, is no event. The
// time is the yardstick's: a busy machine has more.
func await(t testing.TB, what string, within time.Duration, ok func() bool, nodes ...*idloctest.Node) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	again := make(chan struct{}, 1)
	for _, n := range nodes {
		events := n.Watch(ctx)
		wg.Go(func() {
			for range events {
				select {
				case again <- struct{}{}:
				default:
				}
			}
		})
	}
	took := yardstick.Start()
	defer took.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if took.Elapsed() > within {
			t.Fatalf("not within %v: %s", within, what)
		}
		select {
		case <-again:
		case <-tick.C:
		}
	}
}

// diary keeps what happens to some nodes, for the log of a test that failed.
type diary struct {
	start time.Time
	stop  context.CancelFunc
	wg    sync.WaitGroup

	mu    sync.Mutex // guards lines
	lines []string
}

func keepDiary(nodes ...*idloctest.Node) *diary {
	d := &diary{start: time.Now()}
	ctx, stop := context.WithCancel(context.Background())
	d.stop = stop
	for _, n := range nodes {
		events, name := n.Watch(ctx), n.Name()
		d.wg.Go(func() {
			for e := range events {
				d.note(fmt.Sprintf("%s: %s %s peer %.8s via %.8s %v -> %v %s %s %v", name, e.Kind, e.Name, e.Peer.Label(), e.Via.Label(), e.Local, e.Remote, e.Detail, e.Err, e.Duration))
			}
		})
	}
	return d
}

func (d *diary) note(line string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprintf("%7.3f %s", time.Since(d.start).Seconds(), line))
}

func (d *diary) close() string {
	d.stop()
	d.wg.Wait()
	return strings.Join(d.lines, "\n")
}
