package netstack

import (
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// FuzzDeliver gives a stack with something at its ports what a member's pipe
// could have brought: any bytes behind an IP header. No panic, and it still
// works after.
func FuzzDeliver(f *testing.F) {
	r := newRigWith(f, func(string, netip.AddrPort, netip.AddrPort) bool { return true })
	l, err := r.b.ListenTCP("tcp", netip.AddrPortFrom(netip.Addr{}, 80), 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { l.Close() })
	u, err := r.b.ListenUDP("udp", netip.AddrPortFrom(netip.Addr{}, 80))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { u.Close() })
	syn := make(header.TCP, header.TCPMinimumSize)
	syn.Encode(&header.TCPFields{SrcPort: 9, DstPort: 80, DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagSyn, WindowSize: 1000})
	f.Add(false, byte(header.TCPProtocolNumber), []byte(syn))
	f.Add(true, byte(header.TCPProtocolNumber), []byte(syn))
	f.Add(false, byte(header.UDPProtocolNumber), []byte{0, 9, 0, 80, 0, 9, 0, 0, 'x'})
	f.Add(true, byte(header.UDPProtocolNumber), []byte{0, 9, 0, 80, 0, 9, 0, 0, 'x'})
	f.Add(false, byte(header.ICMPv4ProtocolNumber), append([]byte{3, 1, 0, 0, 0, 0, 0, 0}, ipHeader(false, 17, 8, r.b.v4, r.a4)...))
	f.Add(true, byte(header.ICMPv6ProtocolNumber), append([]byte{1, 0, 0, 0, 0, 0, 0, 0}, ipHeader(true, 17, 8, r.b.v6, r.a6)...))
	f.Add(true, byte(header.IPv6FragmentHeader), []byte{17, 0, 0, 1, 0, 0, 0, 1, 0, 9, 0, 80, 0, 16, 0, 0})
	f.Fuzz(func(t *testing.T, v6 bool, next byte, transport []byte) {
		if len(transport) > 60_000 {
			return
		}
		src, dst := r.a4, r.b.v4
		if v6 {
			src, dst = r.a6, r.b.v6
		}
		packet := append(ipHeader(v6, next, len(transport), src, dst), transport...)
		deliver(r.b.link, buffer.MakeWithData(packet))
	})
}
