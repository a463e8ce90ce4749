package main

import (
	"fmt"
	"io"
	"net"
	"slices"

	"github.com/idloc/idloc/idloc"
)

// service is something that a gateway serves on an address: of the machine, or,
// for a forward the other way, of the overlay.
type service struct {
	What string `json:"what"`         // "SOCKS5 proxy", "HTTP proxy", "DNS", "page"; of a forward "tcp", "udp"
	Addr string `json:"addr"`         // where
	To   string `json:"to,omitempty"` // of a forward: where it goes
}

func (s service) String() string {
	if s.To != "" {
		return fmt.Sprintf("%s at %s goes to %s", s.What, s.Addr, s.To)
	}
	return fmt.Sprintf("%s at %s", s.What, s.Addr)
}

// gatewayStatus is what a gateway answers who asks for its status.
type gatewayStatus struct {
	idloc.Status
	Serves []service `json:"serves"`
}

// serves notes a service for the status.
func (g *gateway) serves(s service) service {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.at = append(g.at, s)
	return s
}

func (g *gateway) status() gatewayStatus {
	g.mu.Lock()
	at := slices.Clone(g.at)
	g.mu.Unlock()
	return gatewayStatus{g.node.Status(), at}
}

// local serves the proxies, the DNS port and the page. Where an address that
// nobody asked for cannot be had, as when another gateway runs on the machine, a
// free port takes its place.
func (g *gateway) local(o options, out io.Writer) error {
	for _, s := range []struct {
		flag, addr, what string
		serve            func(string) (net.Addr, error)
		say              string
	}{
		{"socks", o.socks, "SOCKS5 proxy", g.socks, "SOCKS5 proxy (names are resolved in the overlay: socks5h) at %s"},
		{"http", o.http, "HTTP proxy", g.proxy, "HTTP proxy at %s"},
		{"dns", o.dns, "DNS", g.dns, "DNS for " + g.node.Status().Self.Domain + " at %s, UDP and TCP"},
		{"page", o.page, "page", g.page, "status page at http://%s/, for browsers /proxy.pac"},
	} {
		if s.addr == "" {
			continue
		}
		at, taken := s.serve(s.addr)
		if taken != nil {
			var err error
			if at, err = g.instead(o, s.flag, s.addr, s.serve); err != nil {
				return fmt.Errorf("-%s: %w (choose another address, or none with -%s '')", s.flag, taken, s.flag)
			}
		}
		g.serves(service{What: s.what, Addr: at.String()})
		fmt.Fprintf(out, s.say+"\n", at)
		if taken != nil {
			fmt.Fprintf(out, "  a free port: %v; -%s chooses one to keep\n", taken, s.flag)
		}
		if kind := map[string]string{"socks": "SOCKS5 ", "http": "PROXY "}[s.flag]; kind != "" {
			g.pac = append(g.pac, kind+at.String())
		}
	}
	return nil
}

// instead serves on a free port what could not be served at addr, unless that
// address was asked for.
func (g *gateway) instead(o options, flag, addr string, serve func(string) (net.Addr, error)) (net.Addr, error) {
	if o.given[flag] {
		return nil, fmt.Errorf("-%s was given", flag)
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	return serve(net.JoinHostPort(host, "0"))
}
