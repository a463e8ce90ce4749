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
	"sync/atomic"
	"time"

	"github.com/idloc/idloc/idloc"
)

// gateway is a running node and what it serves on real addresses.
type gateway struct {
	entered atomic.Bool // from then on node is set

	node   *idloc.Node
	dialer *idloc.Dialer
	pac    []string // what proxy.pac offers
	ctx    context.Context
	wg     sync.WaitGroup

	mu      sync.Mutex
	closers []io.Closer
	closed  bool
	at      []service
}

// configure makes the node's Config and the forwards of the flags.
func configure(o options) (cfg idloc.Config, forwards []forward, err error) {
	cfg = idloc.Config{Name: o.name, Dir: o.dir, TUN: o.tun, Carrier: o.carrier, Reached: o.reached, NoLAN: o.noLAN, DNSNoIPv4: o.noIPv4}
	if o.port > 65535 {
		return cfg, nil, fmt.Errorf("-port %d: more than 65535", o.port)
	}
	cfg.Port = uint16(o.port)
	for _, s := range o.addrs {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return cfg, nil, fmt.Errorf("-addr: %w", err)
		}
		cfg.Addrs = append(cfg.Addrs, a)
	}
	if o.lsis != "" {
		if cfg.LSIPrefix, err = netip.ParsePrefix(o.lsis); err != nil {
			return cfg, nil, fmt.Errorf("-lsi-prefix: %w", err)
		}
	}
	if cfg.Admit, err = admit(o.allow); err != nil {
		return cfg, nil, fmt.Errorf("-allow: %w", err)
	}
	for _, l := range []struct {
		flag string
		list list
	}{{"-L", o.local}, {"-R", o.remote}} {
		for _, s := range l.list {
			f, err := parseForward(s, l.flag == "-L")
			if err != nil {
				return cfg, nil, fmt.Errorf("%s %s: %w", l.flag, s, err)
			}
			forwards = append(forwards, f)
		}
	}
	return cfg, forwards, nil
}

// enter starts the node that cmd asks for.
func enter(ctx context.Context, cmd, arg string, cfg idloc.Config, out io.Writer) (*idloc.Node, error) {
	switch cmd {
	case "create":
		return idloc.Create(ctx, arg, cfg)
	case "join":
		fmt.Fprintln(out, "joining …")
		return idloc.Join(ctx, arg, cfg)
	}
	fmt.Fprintln(out, "resuming …")
	node, err := idloc.Open(ctx, cfg)
	if errors.Is(err, idloc.ErrNoState) {
		return nil, fmt.Errorf("%w: begin with 'gateway create <domain>' or 'gateway join <token>'", err)
	}
	return node, err
}

// serve runs a node and all that was asked for until ctx ends.
func serve(ctx context.Context, cmd, arg string, o options, out, errOut io.Writer) error {
	cfg, forwards, err := configure(o)
	if err != nil {
		return err
	}
	out = &line{out: out}
	progress := watch(out, errOut, o.verbose)
	defer progress.done()
	cfg.Logger = slog.New(progress)
	ctx, cancel := context.WithCancel(ctx)
	g := &gateway{ctx: ctx}
	defer func() {
		cancel()
		g.close()
		if g.node != nil {
			g.node.Close()
		}
		g.wg.Wait()
	}()
	if err := g.control(cmd, o.dir, progress); err != nil {
		return err
	}
	start := time.Now()
	node, err := enter(ctx, cmd, arg, cfg, out)
	if err != nil {
		return explain(err)
	}
	g.node, g.dialer = node, &idloc.Dialer{Nodes: []*idloc.Node{node}}
	if o.outside {
		g.dialer.Real = &net.Dialer{Timeout: 30 * time.Second}
	}
	g.entered.Store(true)
	progress.done()
	events := node.Watch(ctx) // from before it is asked
	self := node.Status().Self
	sayUp(out, self, time.Since(start))
	g.wg.Go(func() { follow(out, events, self.Alone) })
	if o.tun != "" {
		hints(out, self, len(o.allow) > 0)
	}
	if err := g.local(o, out); err != nil {
		return err
	}
	for _, f := range forwards {
		at, err := g.forward(f)
		if err != nil {
			return err
		}
		fmt.Fprintln(out, g.serves(service{What: f.network, Addr: at.String(), To: f.to}))
	}
	sayReady(out, node.Status().Self)
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
