//go:build !windows

package resolver

import (
	"net/netip"
	"os"
	"strings"

	"github.com/miekg/dns"
)

const resolvConf = "/etc/resolv.conf"

// systemServers reads resolv.conf(5). Without one there are no servers.
func systemServers() []netip.AddrPort { return readResolvConf(resolvConf) }

func readResolvConf(path string) []netip.AddrPort {
	cfg, err := dns.ClientConfigFromFile(path)
	if err != nil {
		return nil
	}
	var out []netip.AddrPort
	for _, s := range cfg.Servers {
		if ip, err := netip.ParseAddr(s); err == nil {
			out = append(out, netip.AddrPortFrom(ip, 53))
		}
	}
	return out
}

// systemSearch reads the search domains as package net does: the last line
// with some counts, and without one the host's own domain.
func systemSearch() []string {
	search := readSearch(resolvConf)
	if len(search) > 0 {
		return search
	}
	host, err := os.Hostname()
	if _, domain, ok := strings.Cut(host, "."); err == nil && ok && domain != "" {
		return []string{domain}
	}
	return nil
}

func readSearch(path string) []string {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		switch {
		case len(f) == 0 || strings.ContainsAny(line[:1], ";#"):
		case f[0] == "domain" && len(f) > 1:
			out = []string{f[1]}
		case f[0] == "search":
			out = nil
			for _, d := range f[1:] {
				if d != "." {
					out = append(out, d)
				}
			}
		}
	}
	return out
}
