package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"time"

	"github.com/things-go/go-socks5"
)

// names leaves host names as they are: they are resolved where the
// connection is made.
type names struct{}

func (names) Resolve(ctx context.Context, name string) (context.Context, net.IP, error) {
	return ctx, nil, nil
}

// silent is the proxy's log: a failed connection is told to the client.
type silent struct{}

func (silent) Errorf(string, ...any) {}

// socks serves a SOCKS5 proxy: CONNECT and UDP ASSOCIATE.
func (g *gateway) socks(addr string) (net.Addr, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	srv := socks5.NewServer(
		socks5.WithResolver(names{}),
		socks5.WithLogger(silent{}),
		socks5.WithDial(func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := g.dial(g.ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return g.own(c), nil
		}),
		socks5.WithAssociateHandle(g.associate),
	)
	l = &owning{l, g}
	g.keep(l)
	g.wg.Go(func() { srv.Serve(l) })
	return l.Addr(), nil
}

// owned is a conn that ends with the gateway.
type owned struct {
	net.Conn
	stop func() bool
}

func (g *gateway) own(c net.Conn) net.Conn {
	return &owned{c, context.AfterFunc(g.ctx, func() { c.Close() })}
}

func (o *owned) Close() error {
	o.stop()
	return o.Conn.Close()
}

func (o *owned) CloseWrite() error { return closeWrite(o.Conn) }

// owning is a listener whose conns end with the gateway.
type owning struct {
	net.Listener
	g *gateway
}

func (l *owning) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.g.own(c), nil
}

// proxy serves an HTTP proxy: CONNECT, and requests for whole URLs.
func (g *gateway) proxy(addr string) (net.Addr, error) {
	transport := &http.Transport{
		DialContext:     g.dial,
		MaxIdleConns:    100,
		IdleConnTimeout: 90 * time.Second,
		// What the client asked for is passed on as it is.
		DisableCompression: true,
	}
	g.keep(idle{transport})
	forward := &httputil.ReverseProxy{
		Rewrite:       func(*httputil.ProxyRequest) {}, // the URL says where
		Transport:     transport,
		FlushInterval: -1,
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			http.Error(w, "gateway: "+err.Error(), http.StatusBadGateway)
		},
	}
	return g.http(addr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodConnect:
			g.connect(w, r)
		case r.URL.IsAbs():
			forward.ServeHTTP(w, r)
		default:
			http.Error(w, "this is a proxy; ask it for a whole URL", http.StatusBadRequest)
		}
	}))
}

type idle struct{ t *http.Transport }

func (i idle) Close() error { i.t.CloseIdleConnections(); return nil }

// connect answers CONNECT: the request's connection becomes one to the host.
func (g *gateway) connect(w http.ResponseWriter, r *http.Request) {
	up, err := g.dial(r.Context(), "tcp", r.Host)
	if err != nil {
		http.Error(w, "gateway: "+err.Error(), http.StatusBadGateway)
		return
	}
	down, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		up.Close()
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if _, err := io.WriteString(down, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		up.Close()
		down.Close()
		return
	}
	g.splice(&peeked{down, buffered.Reader}, up)
}

// peeked is a conn of which some bytes were read ahead.
type peeked struct {
	net.Conn
	r io.Reader
}

func (p *peeked) Read(b []byte) (int, error) { return p.r.Read(b) }

func (p *peeked) CloseWrite() error { return closeWrite(p.Conn) }

func closeWrite(c net.Conn) error {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return errors.ErrUnsupported
}

// splice copies both ways until both ends have said all, or one is broken, or
// the gateway ends. An end of one direction is passed on as such.
func (g *gateway) splice(a, b net.Conn) {
	stop := context.AfterFunc(g.ctx, func() { a.Close(); b.Close() })
	defer stop()
	done := make(chan struct{}, 2)
	half := func(dst, src net.Conn) {
		if _, err := io.Copy(dst, src); err != nil || closeWrite(dst) != nil {
			a.Close()
			b.Close()
		}
		done <- struct{}{}
	}
	go half(a, b)
	go half(b, a)
	<-done
	<-done
	a.Close()
	b.Close()
}
