//go:build !windows

package resolver

import (
	"net/netip"

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
