// Roam shows what a TCP connection does while its host is carried from
// network to network. Venus downloads from mars, without a pause; meanwhile
// the program takes mars's address away, puts it behind a NAT, has the NAT
// forget, goes over to IPv6, and cuts the direct path between the two. The
// connection stays the same one. The picture is its throughput:
//
//	go run ./examples/roam
//
// All of it runs in this process, on a simulated network with 40 ms round
// trips.
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc/idloctest"
)

const (
	slot = 250 * time.Millisecond // one line of the picture
	rate = 1 << 20                // bytes a second that mars sends
)

func main() {
	if err := idloctest.Run(roam); err != nil {
		fmt.Fprintln(os.Stderr, "roam:", err)
		os.Exit(1)
	}
}

func roam(t testing.TB) error {
	lab := idloctest.New(t)
	link := idloctest.Over(idloctest.Link{Delay: 10 * time.Millisecond})
	lab.Node("earth", idloctest.DualStack(), link)
	mars := lab.Node("mars", idloctest.DualStack(), link)
	venus := lab.Node("venus", idloctest.DualStack(), link)

	l, err := mars.Listen("tcp", ":80")
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	sums := make(chan [32]byte, 2)
	go serve(ctx, l, sums)
	dialling, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	c, err := venus.Dial(dialling, "tcp", "mars.example.com:80")
	if err != nil {
		return err
	}
	defer c.Close()
	var got atomic.Int64
	failed := make(chan error, 1)
	go func() {
		h := sha256.New()
		_, err := io.Copy(io.MultiWriter(h, counter{&got}), c)
		sums <- [32]byte(h.Sum(nil))
		failed <- err
	}()

	events := []struct {
		at   time.Duration
		what string
		do   func()
	}{
		{2 * time.Second, "mars gets another address", func() { mars.Move() }},
		{5 * time.Second, "mars goes behind a NAT", func() { mars.Move(idloctest.BehindNAT(idloctest.PortRestricted)) }},
		{9 * time.Second, "the NAT forgets its mappings", func() { mars.Rebind() }},
		{12 * time.Second, "mars has IPv6 only", func() { mars.Move(idloctest.IPv6()) }},
		{16 * time.Second, "nothing gets through between mars and venus", func() { lab.Cut(mars.Host, venus.Host) }},
		{21 * time.Second, "end", nil},
	}
	start, last, next := time.Now(), int64(0), 0
	for now := range time.Tick(slot) {
		what := ""
		if e := events[next]; now.Sub(start) >= e.at {
			if e.do == nil {
				break
			}
			e.do()
			what = "◀ " + e.what
			next++
		}
		n := got.Load()
		path := "-"
		if p, ok := kind(venus, mars); ok {
			path = p
		}
		bar := int((n - last) * 40 * int64(time.Second/slot) / (2 * rate))
		fmt.Printf("%5.2f s %-8s │%-40s│ %s\n", now.Sub(start).Seconds(), path, strings.Repeat("█", min(bar, 40)), what)
		last = n
		select {
		case err := <-failed:
			return fmt.Errorf("the connection broke: %w", errors.Join(err, io.ErrUnexpectedEOF))
		default:
		}
	}
	stop() // mars closes, venus reads to the end
	one, two := <-sums, <-sums
	if one != two {
		return errors.New("the bytes differ")
	}
	fmt.Printf("one connection, %.1f MB, every byte as it was sent\n", float64(got.Load())/1e6)
	return nil
}

// serve sends to one connection at the rate until ctx ends.
func serve(ctx context.Context, l net.Listener, sum chan<- [32]byte) {
	c, err := l.Accept()
	if err != nil {
		return
	}
	defer c.Close()
	h := sha256.New()
	defer func() { sum <- [32]byte(h.Sum(nil)) }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for n := byte(0); ; n++ {
		if err := send(c, h, n); err != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func send(c net.Conn, h hash.Hash, n byte) error {
	b := make([]byte, rate/100)
	for i := range b {
		b[i] = n + byte(i)
	}
	_, err := c.Write(b)
	h.Write(b)
	return err
}

type counter struct{ n *atomic.Int64 }

func (c counter) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	return len(b), nil
}

// kind says how from sends to the peer: "direct" or "relayed".
func kind(from, to *idloctest.Node) (string, bool) {
	for _, s := range from.Status().Peers {
		for _, p := range s.Paths {
			if s.ID == to.ID() && p.Active {
				return p.Kind, true
			}
		}
	}
	return "", false
}
