package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/idloc/idloc/idloc"
)

// gateway is a running node and what it serves on real addresses.
type gateway struct {
	node   *idloc.Node
	dialer *idloc.Dialer
	pac    []string // what proxy.pac offers
	ctx    context.Context
	wg     sync.WaitGroup

	mu      sync.Mutex
	closers []io.Closer
	closed  bool
}

// serve runs a node and all that was asked for until ctx ends.
func serve(ctx context.Context, cmd, arg string, o options, out, errOut io.Writer) error {
	cfg := idloc.Config{Name: o.name, Dir: o.dir}
	if o.port > 65535 {
		return fmt.Errorf("-port %d: more than 65535", o.port)
	}
	cfg.Port = uint16(o.port)
	for _, s := range o.addrs {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return fmt.Errorf("-addr: %w", err)
		}
		cfg.Addrs = append(cfg.Addrs, a)
	}
	cfg.TUN = o.tun
	var err error
	if cfg.Admit, err = admit(o.allow); err != nil {
		return fmt.Errorf("-allow: %w", err)
	}
	var forwards []forward
	for _, s := range o.local {
		f, err := parseForward(s, true)
		if err != nil {
			return fmt.Errorf("-L %s: %w", s, err)
		}
		forwards = append(forwards, f)
	}
	for _, s := range o.remote {
		f, err := parseForward(s, false)
		if err != nil {
			return fmt.Errorf("-R %s: %w", s, err)
		}
		forwards = append(forwards, f)
	}

	progress := watch(out, errOut, o.verbose)
	defer progress.done()
	cfg.Logger = slog.New(progress)
	start := time.Now()
	var node *idloc.Node
	switch cmd {
	case "create":
		node, err = idloc.Create(ctx, arg, cfg)
	case "join":
		fmt.Fprintln(out, "joining …")
		node, err = idloc.Join(ctx, arg, cfg)
	default:
		fmt.Fprintln(out, "resuming …")
		node, err = idloc.Open(ctx, cfg)
		if errors.Is(err, idloc.ErrNoState) {
			return fmt.Errorf("%w: begin with 'gateway create <domain>' or 'gateway join <token>'", err)
		}
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	g := &gateway{node: node, ctx: ctx, dialer: &idloc.Dialer{Nodes: []*idloc.Node{node}}}
	if o.outside {
		g.dialer.Real = &net.Dialer{Timeout: 30 * time.Second}
	}
	defer func() {
		cancel()
		g.close()
		node.Close()
		g.wg.Wait()
	}()
	progress.done()
	v4, _ := node.LSIs()
	fmt.Fprintf(out, "%s is up after %v, peer %s, LSI %s, UDP port %d\n", node.Name(), time.Since(start).Round(time.Millisecond), node.ID(), v4, node.Status().Self.Port)

	if o.tun != "" {
		hints(out, node.Status().Self, len(o.allow) > 0)
	}

	for _, s := range []struct {
		flag, addr string
		serve      func(string) (net.Addr, error)
		say        string
	}{
		{"socks", o.socks, g.socks, "SOCKS5 proxy (names are resolved in the overlay: socks5h) at %s"},
		{"http", o.http, g.proxy, "HTTP proxy at %s"},
		{"dns", o.dns, g.dns, "DNS for " + node.Status().Self.Domain + " at %s, UDP and TCP"},
		{"page", o.page, g.page, "status page at http://%s/, for browsers /proxy.pac"},
	} {
		if s.addr == "" {
			continue
		}
		at, err := s.serve(s.addr)
		if err != nil {
			return fmt.Errorf("-%s: %w (choose another address, or none with -%s '')", s.flag, err, s.flag)
		}
		fmt.Fprintf(out, s.say+"\n", at)
		if kind := map[string]string{"socks": "SOCKS5 ", "http": "PROXY "}[s.flag]; kind != "" {
			g.pac = append(g.pac, kind+at.String())
		}
	}
	for _, f := range forwards {
		at, err := g.forward(f)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s at %s goes to %s\n", f.network, at, f.to)
	}
	if err := g.control(o.dir); err != nil {
		return err
	}
	fmt.Fprintln(out, "ready; interrupt to end")
	<-ctx.Done()
	fmt.Fprintln(out, "leaving")
	return nil
}

// dial reaches members by name, "mars" alone as well as "mars.example.com", and
// with -outside everything else.
func (g *gateway) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if host, _, err := net.SplitHostPort(address); err == nil && host != "localhost" && !strings.ContainsAny(host, ".:") {
		return g.node.Dial(ctx, network, address)
	}
	return g.dialer.Dial(ctx, network, address)
}

// keep closes c when the gateway ends, at once if it has ended.
func (g *gateway) keep(c io.Closer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		c.Close()
		return
	}
	g.closers = append(g.closers, c)
}

func (g *gateway) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	for _, c := range g.closers {
		c.Close()
	}
}

// http serves h on addr.
func (g *gateway) http(addr string, h http.Handler) (net.Addr, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	g.httpOn(l, h)
	return l.Addr(), nil
}

func (g *gateway) httpOn(l net.Listener, h http.Handler) {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 30 * time.Second}
	g.keep(srv)
	g.wg.Go(func() { srv.Serve(l) })
}

// page serves the node's page, and a proxy auto-configuration that sends the
// overlay's names to the proxies.
func (g *gateway) page(addr string) (net.Addr, error) {
	pac := "DIRECT"
	if len(g.pac) > 0 {
		pac = strings.Join(g.pac, "; ")
	}
	mux := http.NewServeMux()
	mux.Handle("/", g.node.Handler())
	mux.HandleFunc("GET /proxy.pac", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-ns-proxy-autoconfig")
		fmt.Fprintf(w, "function FindProxyForURL(url, host) {\n  if (dnsDomainIs(host, %s)) return %s;\n  return \"DIRECT\";\n}\n",
			strconv.Quote("."+g.node.Status().Self.Domain), strconv.Quote(pac))
	})
	return g.http(addr, mux)
}
