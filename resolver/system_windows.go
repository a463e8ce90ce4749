package resolver

import (
	"net/netip"
	"slices"
	"unsafe"

	"golang.org/x/sys/windows"
)

// systemServers asks for the DNS servers of all interfaces that are up.
func systemServers() []netip.AddrPort {
	size := uint32(16 << 10)
	var first *windows.IpAdapterAddresses
	for range 4 {
		// The structures hold pointers into themselves: a slice of them is
		// aligned as they need it.
		n := int(size)/int(unsafe.Sizeof(windows.IpAdapterAddresses{})) + 1
		buf := make([]windows.IpAdapterAddresses, n)
		size = uint32(n) * uint32(unsafe.Sizeof(buf[0]))
		err := windows.GetAdaptersAddresses(windows.AF_UNSPEC,
			windows.GAA_FLAG_SKIP_ANYCAST|windows.GAA_FLAG_SKIP_MULTICAST, 0, &buf[0], &size)
		if err == nil {
			first = &buf[0]
			break
		}
		if err != windows.ERROR_BUFFER_OVERFLOW {
			return nil
		}
	}
	var out []netip.AddrPort
	for a := first; a != nil; a = a.Next {
		if a.OperStatus != windows.IfOperStatusUp {
			continue
		}
		for d := a.FirstDnsServerAddress; d != nil; d = d.Next {
			ip, ok := netip.AddrFromSlice(d.Address.IP())
			// fec0:0:0:ffff::/64 are placeholders that nobody answers.
			if !ok || ip.Is6() && netip.MustParsePrefix("fec0::/10").Contains(ip) {
				continue
			}
			if ap := netip.AddrPortFrom(ip.Unmap(), 53); !slices.Contains(out, ap) {
				out = append(out, ap)
			}
		}
	}
	return out
}

// systemSearch returns none: package net appends none on Windows.
func systemSearch() []string { return nil }
