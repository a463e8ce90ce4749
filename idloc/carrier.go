package idloc

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/idloc/idloc/internal/carrier"
)

// reached is Config.Reached, read.
type reached struct {
	carriers []carrier.Address
	udp      []string // host:port
}

var errReached = errors.New("not tls://host:port, wss://host:port/path or udp://host:port")

// parseReached reads Config.Reached.
func parseReached(list []string) (out reached, err error) {
	for _, s := range list {
		u, err := url.Parse(s)
		switch {
		case err != nil:
			return out, fmt.Errorf("%q: %w", s, errReached)
		case u.Scheme == carrier.TLS, u.Scheme == carrier.WSS:
			a, err := carrier.ParseAddress(s)
			if err != nil {
				return out, err
			}
			out.carriers = append(out.carriers, a)
		case u.Scheme == "udp" && strings.Trim(u.Path, "/") == "" && u.User == nil && u.RawQuery == "" && u.Fragment == "":
			host := u.Host
			if u.Port() == "" {
				host = net.JoinHostPort(u.Hostname(), "443")
			}
			a, err := carrier.ParseAddress("tls://" + host) // the same rules for hosts and ports
			if err != nil {
				return out, fmt.Errorf("%q: %w", s, errReached)
			}
			out.udp = append(out.udp, a.HostPort())
		default:
			return out, fmt.Errorf("%q: %w", s, errReached)
		}
	}
	return out, nil
}

// checkCarrier says what is wrong with Config.Carrier.
func (cfg Config) checkCarrier() error {
	at := cfg.Carrier
	switch {
	case at == "":
		return nil
	case cfg.Net != nil && cfg.carry == nil:
		return fmt.Errorf("on a simulated network: %w", errors.ErrUnsupported)
	}
	_, port, err := net.SplitHostPort(at)
	if err != nil {
		return fmt.Errorf("%q is not an address and a port, as \":443\" is", at)
	}
	if _, err := net.LookupPort("tcp", port); err != nil || port == "" {
		return fmt.Errorf("%q: no port %q", at, port)
	}
	return nil
}

// makeCarriers makes the node's carriers, and serves them if the Config says where.
func (n *Node) makeCarriers() error {
	var cfg carrier.Config
	switch {
	case n.cfg.carry != nil:
		cfg = *n.cfg.carry
	case n.cfg.Net != nil:
		return nil
	}
	cfg.Log = n.log
	if cfg.Allowed == nil {
		cfg.Allowed = n.mayCarry
	}
	if cfg.OnWire == nil {
		cfg.OnWire = func(a netip.Addr) netip.Addr { return n.sock.OnWire(a) }
	}
	n.carriers = carrier.New(cfg)
	if n.cfg.Carrier == "" {
		return nil
	}
	l, err := net.Listen("tcp", n.cfg.Carrier)
	if err != nil {
		return fmt.Errorf("Config.Carrier: %w", err)
	}
	n.carrierPort = uint16(l.Addr().(*net.TCPAddr).Port)
	return n.carriers.Serve(l)
}

// mayCarry says whether an address that was found for a carrier's name may be connected
// to: another host's, which a member may have named.
func (n *Node) mayCarry(at netip.AddrPort) bool {
	ip := n.sock.Plain(at.Addr()) // behind a NAT64 there is IPv4, with its own rules
	if ip.IsUnspecified() || ip.IsMulticast() || ip.IsLinkLocalUnicast() || carrier.Prefix.Contains(ip) {
		return false
	}
	if slices.ContainsFunc(n.cfg.lsiRanges(), func(p netip.Prefix) bool { return p.Contains(ip) }) {
		return false
	}
	if !ip.IsLoopback() {
		return true
	}
	for _, c := range n.sock.Conns() {
		if c.LocalAddr().Addr().IsLoopback() {
			return true
		}
	}
	return false
}

// CarrierHandler serves carriers as WebSockets (RFC 6455), for members in networks that
// let no UDP out: mount it in an HTTPS server, under the path that a wss:// URL of
// Config.Reached names, or behind a proxy that passes WebSockets on. Other requests to it
// get an error; nothing else of the server changes. What is carried comes to this node's
// port and nowhere else, and authenticates itself there: the handler needs no password
// before it. There are at most 1,024 carriers, 64 from one address unless that is a
// proxy's, private or loopback; more are answered with 503. They end with Close, which a
// Shutdown of the server does not wait for.
func (n *Node) CarrierHandler() http.Handler {
	if n.carriers == nil {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "no carriers on a simulated network", http.StatusNotImplemented)
		})
	}
	return n.carriers.Handler()
}

// carrierAt names the carrier whose far end is at an address: its own address, or where
// it was opened from; "" if it is none.
func (n *Node) carrierAt(remote netip.AddrPort) string {
	if n.carriers == nil || !carrier.Prefix.Contains(remote.Addr()) {
		return ""
	}
	return n.carriers.Name(remote)
}
