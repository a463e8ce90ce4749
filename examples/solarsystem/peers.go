package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/idloc/idloc/idloc"
)

const (
	domain    = "example.com"
	bothBytes = 8 << 20 // each way, in the last act
	page      = "<!doctype html>\n<title>Mars</title>\n<p>Hello from mars.example.com: no server, no root, one UDP port.\n"
)

// roles are the three machines.
var roles = []string{"earth", "venus", "mars"}

// play is one peer's process: it obeys lines on standard input and tells what
// happens on standard output, until its input ends.
func play(ctx context.Context, role string) error {
	out := newWriter(os.Stdout)
	cfg := idloc.Config{Name: role, Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}
	p := &peer{role: role, out: out}
	defer p.close()
	if role == "earth" {
		node, err := idloc.Create(ctx, domain, cfg)
		if err != nil {
			return err
		}
		p.enter(ctx, node)
		tokens := map[string]string{}
		for _, name := range []string{"venus", "mars"} {
			if tokens[name], err = node.Invite(idloc.InviteOptions{Name: name, Expires: time.Hour}); err != nil {
				return err
			}
		}
		if err := p.ready(tokens); err != nil {
			return err
		}
	}
	return readLines(os.Stdin, func(l line) error {
		if l.Start == nil {
			return fmt.Errorf("unexpected line for %s: %+v", role, l)
		}
		if l.Start.Act == "join" {
			node, err := idloc.Join(ctx, l.Start.Token, cfg)
			if err != nil {
				return err
			}
			p.enter(ctx, node)
			if err := p.serve(); err != nil {
				return err
			}
			return p.ready(nil)
		}
		begin := time.Now()
		d, err := p.act(ctx, l.Start.Act)
		d.Act, d.Took = l.Start.Act, time.Since(begin)
		if err != nil {
			d.Err = err.Error()
		}
		return out.put(line{Role: role, Done: &d})
	})
}

// peer is one of the three machines.
type peer struct {
	role string
	out  *writer
	node *idloc.Node
	wg   sync.WaitGroup // the watcher and the servers; they end when the node closes
}

// enter takes over the node and reports its events from now on.
func (p *peer) enter(ctx context.Context, node *idloc.Node) {
	p.node = node
	events := node.Watch(ctx)
	p.wg.Go(func() {
		for e := range events {
			if p.out.put(line{Role: p.role, Time: e.Time, Event: &e}) != nil {
				return
			}
		}
	})
}

func (p *peer) ready(tokens map[string]string) error {
	return p.out.put(line{Role: p.role, Ready: &ready{Name: p.node.Name(), ID: p.node.ID(), Tokens: tokens}})
}

func (p *peer) close() {
	if p.node != nil {
		p.node.Close()
	}
	p.wg.Wait()
}

// serve opens what the others come for: a web page and an echo of datagrams
// on mars, a sink that answers with a hash on both.
func (p *peer) serve() error {
	sink, err := p.node.Listen("tcp", ":7")
	if err != nil {
		return err
	}
	p.wg.Go(func() {
		for {
			c, err := sink.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { hashBack(c) })
		}
	})
	if p.role != "mars" {
		return nil
	}
	web, err := p.node.Listen("tcp", ":80")
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		if who, err := p.node.WhoIs(addrPort(r.RemoteAddr)); err == nil {
			w.Header().Set("X-Seen-As", who.Name)
		}
		io.WriteString(w, page)
	})}
	p.wg.Go(func() { srv.Serve(web) })
	echo, err := p.node.ListenPacket("udp", ":9")
	if err != nil {
		return err
	}
	p.wg.Go(func() {
		b := make([]byte, 65535)
		for {
			n, from, err := echo.ReadFrom(b)
			if err != nil {
				return
			}
			if _, err := echo.WriteTo(b[:n], from); err != nil {
				return
			}
		}
	})
	return nil
}

// act does this peer's part of one act.
func (p *peer) act(ctx context.Context, act string) (done, error) {
	switch act {
	case "fetch":
		return p.fetch(ctx)
	case "datagrams":
		return p.datagrams(ctx)
	case "both":
		to := "mars." + domain
		if p.role == "mars" {
			to = "venus." + domain
		}
		return p.pour(ctx, to)
	}
	return done{}, fmt.Errorf("no such act: %q", act)
}

// fetch is the web browser of draft §2.
func (p *peer) fetch(ctx context.Context) (done, error) {
	req, err := http.NewRequestWithContext(ctx, "GET", "http://mars."+domain+"/", nil)
	if err != nil {
		return done{}, err
	}
	client := p.node.HTTPClient()
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return done{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	d := done{Detail: resp.Status, Received: int64(len(body))}
	switch {
	case err != nil:
		return d, err
	case resp.StatusCode != http.StatusOK || string(body) != page:
		return d, fmt.Errorf("%s with %d bytes is not the page that mars serves", resp.Status, len(body))
	case resp.Header.Get("X-Seen-As") != "venus."+domain:
		return d, fmt.Errorf("mars saw %q, not venus.%s", resp.Header.Get("X-Seen-As"), domain)
	}
	return d, nil
}

// datagrams sends some of several sizes, the largest beyond any path's MTU,
// and wants each back. UDP may lose one: each is sent again until it is back.
func (p *peer) datagrams(ctx context.Context) (done, error) {
	var d done
	c, err := p.node.Dial(ctx, "udp", "mars."+domain+":9")
	if err != nil {
		return d, err
	}
	defer c.Close()
	sizes := []int{0, 1, 64, 512, 1200, 1400, 4000, 16000}
	got := make([]byte, 65535)
	for _, size := range sizes {
		want := pattern(uint64(size), size)
		if err := exchange(ctx, c, want, got); err != nil {
			return d, fmt.Errorf("datagram of %d bytes: %w", size, err)
		}
		d.Sent += int64(size)
		d.Received += int64(size)
	}
	d.Detail = fmt.Sprintf("%d datagrams of 0 to %d bytes echoed", len(sizes), sizes[len(sizes)-1])
	return d, nil
}

func exchange(ctx context.Context, c net.Conn, want, got []byte) error {
	for {
		if _, err := c.Write(want); err != nil {
			return err
		}
		c.SetReadDeadline(time.Now().Add(time.Second))
		for {
			n, err := c.Read(got)
			if err == nil && bytes.Equal(got[:n], want) {
				return nil
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// pour sends bytes to the sink of the other peer and checks the hash that
// comes back.
func (p *peer) pour(ctx context.Context, to string) (done, error) {
	d := done{Detail: p.role + " to " + to}
	c, err := p.node.Dial(ctx, "tcp", net.JoinHostPort(to, "7"))
	if err != nil {
		return d, err
	}
	defer c.Close()
	h := sha256.New()
	src := io.TeeReader(bytes.NewReader(pattern(uint64(len(p.role)), bothBytes)), h)
	if d.Sent, err = io.Copy(c, src); err != nil {
		return d, err
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return d, err
	}
	sum, err := io.ReadAll(c)
	d.Received = int64(len(sum))
	if err != nil {
		return d, err
	}
	if !bytes.Equal(sum, h.Sum(nil)) {
		return d, fmt.Errorf("%s received other bytes: SHA-256 %s, sent %s", to, hex.EncodeToString(sum), hex.EncodeToString(h.Sum(nil)))
	}
	return d, nil
}

func hashBack(c net.Conn) {
	defer c.Close()
	h := sha256.New()
	if _, err := io.Copy(h, c); err == nil {
		c.Write(h.Sum(nil))
	}
}

// pattern is n bytes that depend on seed only.
func pattern(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{0: byte(seed), 1: byte(seed >> 8)})
	r.Read(b)
	return b
}

// addrPort turns http.Request.RemoteAddr back into an address.
func addrPort(s string) net.Addr {
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil
	}
	return net.TCPAddrFromAddrPort(ap)
}
