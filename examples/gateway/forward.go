package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/idloc/idloc/resolver"
)

// forward says what comes in where and goes where.
type forward struct {
	network string // "tcp" or "udp"
	local   bool   // comes in on a real address; else in the overlay
	listen  string // host:port
	to      string // host:port
}

var errForward = errors.New("want [udp:][bind:]port:host:port")

// parseForward reads [udp:][bind:]port:host:port, IPv6 addresses in brackets.
func parseForward(s string, local bool) (forward, error) {
	f := forward{network: "tcp", local: local}
	if rest, ok := strings.CutPrefix(s, "udp:"); ok {
		f.network, s = "udp", rest
	} else {
		s = strings.TrimPrefix(s, "tcp:")
	}
	var parts []string
	for len(s) > 0 {
		end := strings.IndexByte(s, ':')
		if s[0] == '[' {
			k := strings.IndexByte(s, ']')
			if k < 0 {
				return f, errForward
			}
			parts = append(parts, s[1:k])
			s = strings.TrimPrefix(s[k+1:], ":")
			continue
		}
		if end < 0 {
			end = len(s)
		}
		parts = append(parts, s[:end])
		s = strings.TrimPrefix(s[end:], ":")
	}
	bind := ""
	if local {
		bind = "127.0.0.1"
	}
	switch {
	case len(parts) == 4 && local:
		bind, parts = parts[0], parts[1:]
	case len(parts) != 3:
		return f, errForward
	}
	for _, p := range []string{parts[0], parts[2]} {
		if _, err := strconv.ParseUint(p, 10, 16); err != nil {
			return f, fmt.Errorf("%w: port %q", errForward, p)
		}
	}
	if parts[1] == "" {
		return f, errForward
	}
	f.listen, f.to = net.JoinHostPort(bind, parts[0]), net.JoinHostPort(parts[1], parts[2])
	return f, nil
}

// forward serves f and returns where.
func (g *gateway) forward(f forward) (net.Addr, error) {
	listen, listenPacket := net.Listen, net.ListenPacket
	dial := g.dial
	if !f.local {
		listen, listenPacket = g.node.Listen, g.node.ListenPacket
		dial = new(net.Dialer).DialContext
	}
	if f.network == "udp" {
		pc, err := listenPacket("udp", f.listen)
		if err != nil {
			return nil, err
		}
		g.keep(pc)
		g.wg.Go(func() {
			g.datagrams(pc, func(ctx context.Context) (net.Conn, error) { return dial(ctx, "udp", f.to) })
		})
		return pc.LocalAddr(), nil
	}
	l, err := listen("tcp", f.listen)
	if err != nil {
		return nil, err
	}
	g.keep(l)
	g.wg.Go(func() {
		g.accept(l, func(ctx context.Context) (net.Conn, error) { return dial(ctx, "tcp", f.to) })
	})
	return l.Addr(), nil
}

// dns serves the node's own DNS server on a real address.
func (g *gateway) dns(addr string) (net.Addr, error) {
	server := netip.AddrPortFrom(g.node.Status().Self.DNS, 53).String()
	pc, l, err := resolver.Listen(addr)
	if err != nil {
		return nil, err
	}
	g.keep(pc)
	g.keep(l)
	g.wg.Go(func() {
		g.datagrams(pc, func(ctx context.Context) (net.Conn, error) { return g.node.Dial(ctx, "udp", server) })
	})
	g.wg.Go(func() {
		g.accept(l, func(ctx context.Context) (net.Conn, error) { return g.node.Dial(ctx, "tcp", server) })
	})
	return pc.LocalAddr(), nil
}

// accept joins each connection to one that dial makes.
func (g *gateway) accept(l net.Listener, dial func(context.Context) (net.Conn, error)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		g.wg.Go(func() {
			up, err := dial(g.ctx)
			if err != nil {
				log.Printf("%v → %v: %v", c.RemoteAddr(), l.Addr(), err)
				c.Close()
				return
			}
			g.splice(c, up)
		})
	}
}

// datagrams joins each source of datagrams to a flow of its own that dial
// makes, until pc is closed.
func (g *gateway) datagrams(pc net.PacketConn, dial func(context.Context) (net.Conn, error)) {
	f := newFlows(g.ctx)
	defer f.close()
	b := make([]byte, 65535)
	for {
		n, from, err := pc.ReadFrom(b)
		if err != nil {
			if g.ctx.Err() != nil || isClosed(err) {
				return
			}
			continue // an ICMP error for an earlier answer
		}
		f.send(from.String(), b[:n], dial, func(b []byte) error {
			if _, err := pc.WriteTo(b, from); isClosed(err) {
				return err
			}
			return nil
		})
	}
}

func isClosed(err error) bool { return errors.Is(err, net.ErrClosed) }
