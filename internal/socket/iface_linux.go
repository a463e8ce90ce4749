package socket

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// linkKinds are the kernel's names for what an interface is, IFLA_INFO_KIND of
// rtnetlink(7). One without such a name is hardware, as far as is known.
var linkKinds = map[string]LinkKind{
	"dummy": LinkHost, "nlmon": LinkHost,
	"tun": LinkTunnel, "wireguard": LinkTunnel, "ppp": LinkTunnel, "ipip": LinkTunnel, "gre": LinkTunnel,
	"sit": LinkTunnel, "ip6tnl": LinkTunnel, "ip6gre": LinkTunnel, "vti": LinkTunnel, "vti6": LinkTunnel, "xfrm": LinkTunnel,
}

// linkInfo is what the kernel says of one interface.
type linkInfo struct {
	kind   string
	master int // the bridge that it is a port of
}

// kernelKinds returns what the kernel says of its interfaces, by index; those
// that it says nothing of are left out. A bridge is one of containers if none
// of its ports is hardware.
func kernelKinds() map[int]LinkKind {
	links := readLinks()
	wired := map[int]bool{} // bridges with a port that leads out
	for _, l := range links {
		if l.master != 0 && l.kind != "veth" && l.kind != "tun" && l.kind != "dummy" {
			wired[l.master] = true
		}
	}
	out := map[int]LinkKind{}
	for i, l := range links {
		if l.kind == "bridge" {
			if out[i] = LinkBridge; wired[i] {
				out[i] = LinkOrdinary
			}
		} else if k, ok := linkKinds[l.kind]; ok {
			out[i] = k
		}
	}
	return out
}

func readLinks() map[int]linkInfo {
	rib, err := syscall.NetlinkRIB(unix.RTM_GETLINK, unix.AF_UNSPEC)
	if err != nil {
		return nil
	}
	messages, err := syscall.ParseNetlinkMessage(rib)
	if err != nil {
		return nil
	}
	links := map[int]linkInfo{}
	for i := range messages {
		m := &messages[i]
		if m.Header.Type != unix.RTM_NEWLINK || len(m.Data) < unix.SizeofIfInfomsg {
			continue
		}
		index := int(int32(binary.NativeEndian.Uint32(m.Data[4:])))
		attrs, err := syscall.ParseNetlinkRouteAttr(m)
		if err != nil {
			continue
		}
		var l linkInfo
		for _, a := range attrs {
			switch a.Attr.Type &^ unix.NLA_F_NESTED {
			case unix.IFLA_MASTER:
				if len(a.Value) >= 4 {
					l.master = int(int32(binary.NativeEndian.Uint32(a.Value)))
				}
			case unix.IFLA_LINKINFO:
				l.kind = infoKind(a.Value)
			}
		}
		links[index] = l
	}
	return links
}

// infoKind finds IFLA_INFO_KIND among nested attributes.
func infoKind(b []byte) string {
	for len(b) >= unix.SizeofRtAttr {
		n, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		if n < unix.SizeofRtAttr || n > len(b) {
			return ""
		}
		if kind == unix.IFLA_INFO_KIND {
			return unix.ByteSliceToString(b[unix.SizeofRtAttr:n])
		}
		b = b[min(len(b), (n+3)&^3):]
	}
	return ""
}

// routeFrom asks the kernel by which interface a datagram from one address to
// another leaves (ip route get TO from FROM); rules by source count. It does
// not block: the kernel answers within the call. false: it does not say. An
// address with no way out leaves by interface 0.
func routeFrom(from, to netip.Addr) (index int, ok bool) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return 0, false
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, routeQuestion(from, to), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, false
	}
	b := make([]byte, 8192)
	n, _, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT)
	if err != nil {
		return 0, false
	}
	return readRoute(b[:n])
}

// routeQuestion is an RTM_GETROUTE message.
func routeQuestion(from, to netip.Addr) []byte {
	family := byte(unix.AF_INET)
	if to.Is6() {
		family = unix.AF_INET6
	}
	bits := byte(to.BitLen())
	b := make([]byte, unix.SizeofNlMsghdr, 128)
	binary.NativeEndian.PutUint16(b[4:], unix.RTM_GETROUTE)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(b[8:], 1)
	b = append(b, family, bits, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0) // rtmsg
	for _, a := range []struct {
		kind uint16
		addr netip.Addr
	}{{unix.RTA_DST, to}, {unix.RTA_SRC, from}} {
		v := a.addr.AsSlice()
		b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(v)))
		b = binary.NativeEndian.AppendUint16(b, a.kind)
		b = append(b, v...)
	}
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	return b
}

func readRoute(b []byte) (index int, ok bool) {
	messages, err := syscall.ParseNetlinkMessage(b)
	if err != nil || len(messages) == 0 {
		return 0, false
	}
	m := &messages[0]
	switch m.Header.Type {
	case unix.NLMSG_ERROR:
		if len(m.Data) < 4 {
			return 0, false
		}
		switch errno := unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data))); errno {
		case unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES:
			return 0, true
		}
		return 0, false
	case unix.RTM_NEWROUTE:
	default:
		return 0, false
	}
	if len(m.Data) < unix.SizeofRtMsg {
		return 0, false
	}
	if kind := m.Data[int(unsafe.Offsetof(unix.RtMsg{}.Type))]; kind != unix.RTN_UNICAST {
		return 0, true // a route that leads nowhere
	}
	attrs, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil {
		return 0, false
	}
	for _, a := range attrs {
		if a.Attr.Type == unix.RTA_OIF && len(a.Value) >= 4 {
			return int(int32(binary.NativeEndian.Uint32(a.Value))), true
		}
	}
	return 0, true
}
