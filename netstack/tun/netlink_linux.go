package tun

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// netlink is a socket on which the kernel is told about addresses and routes
// (rtnetlink(7)), or about sockets (sock_diag(7)). It stays in the network namespace in which it was made. Its
// methods may be used concurrently.
type netlink struct {
	mu  sync.Mutex // one request at a time
	fd  int
	seq uint32
}

func newNetlink() (*netlink, error) { return netlinkOf(unix.NETLINK_ROUTE) }

func netlinkOf(protocol int) (*netlink, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return &netlink{fd: fd}, nil
}

func (n *netlink) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fd >= 0 {
		unix.Close(n.fd)
		n.fd = -1
	}
}

// ask sends a request, the body after its nlmsghdr, and returns the body of
// the answer of type want, nil for a mere acknowledgement.
func (n *netlink) ask(kind, flags uint16, want uint16, body []byte) (answer []byte, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	err = n.exchange(kind, flags, body, func(m syscall.NetlinkMessage) bool {
		if m.Header.Type == want {
			answer = m.Data
		}
		return m.Header.Type == want
	})
	return answer, err
}

// list sends a request for all there is of something, and returns the answers
// of type want.
func (n *netlink) list(kind, want uint16, body []byte) (all []syscall.NetlinkMessage, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for range 8 { // what changes meanwhile makes a list that is none
		all = nil
		changed := false
		err = n.exchange(kind, unix.NLM_F_DUMP, body, func(m syscall.NetlinkMessage) bool {
			changed = changed || m.Header.Flags&unix.NLM_F_DUMP_INTR != 0
			if m.Header.Type == want {
				all = append(all, m)
			}
			return m.Header.Type == unix.NLMSG_DONE
		})
		if err != nil || !changed {
			break
		}
	}
	return all, err
}

// exchange sends a request and shows the answers to each until that is true or
// an acknowledgement or an error comes. The caller has n.mu.
func (n *netlink) exchange(kind, flags uint16, body []byte, each func(syscall.NetlinkMessage) bool) error {
	if n.fd < 0 {
		return net.ErrClosed
	}
	n.seq++
	m := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
	m = binary.NativeEndian.AppendUint16(m, kind)
	m = binary.NativeEndian.AppendUint16(m, unix.NLM_F_REQUEST|flags)
	m = binary.NativeEndian.AppendUint32(m, n.seq)
	m = binary.NativeEndian.AppendUint32(m, 0)
	m = append(m, body...)
	if err := unix.Sendto(n.fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	for {
		b := make([]byte, 1<<16)
		k, _, err := unix.Recvfrom(n.fd, b, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		messages, err := syscall.ParseNetlinkMessage(b[:k])
		if err != nil {
			return err
		}
		for _, a := range messages {
			if a.Header.Seq != n.seq {
				continue
			}
			if a.Header.Type == unix.NLMSG_ERROR && len(a.Data) >= 4 {
				if code := int32(binary.NativeEndian.Uint32(a.Data)); code != 0 {
					return syscall.Errno(-code)
				}
				return nil
			}
			if each(a) {
				return nil
			}
		}
	}
}

// attr appends a route attribute to b.
func attr(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%unix.RTA_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

func attr32(kind uint16, v uint32) []byte {
	return attr(nil, kind, binary.NativeEndian.AppendUint32(nil, v))
}

// quietIPv6 asks for no link-local address: there is no link, and the kernel
// would look for routers from it.
func quietIPv6() []byte {
	const addrGenMode, none = 8, 1 // IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE
	return attr(nil, unix.IFLA_AF_SPEC, attr(nil, unix.AF_INET6, attr(nil, addrGenMode, []byte{none})))
}

// link changes the device with attributes.
func (n *netlink) link(index int32, attrs ...byte) error {
	return n.change(index, 0, attrs, 0)
}

func (n *netlink) setUp(index int32) error { return n.change(index, unix.IFF_UP, nil, unix.IFF_UP) }

// change gives those flags of a device that mask names, and attributes.
func (n *netlink) change(index int32, flags uint32, attrs []byte, mask uint32) error {
	b := make([]byte, 4, unix.SizeofIfInfomsg+len(attrs)) // family, type: any
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	b = binary.NativeEndian.AppendUint32(b, flags)
	b = binary.NativeEndian.AppendUint32(b, mask)
	_, err := n.ask(unix.RTM_NEWLINK, unix.NLM_F_ACK, 0, append(b, attrs...))
	return err
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// addAddr gives the device the address a, alone: routes say what is behind it.
func (d *device) addAddr(a netip.Addr) error {
	b := []byte{family(a), byte(a.BitLen()), unix.IFA_F_NODAD, unix.RT_SCOPE_UNIVERSE}
	b = binary.NativeEndian.AppendUint32(b, uint32(d.index))
	b = attr(b, unix.IFA_LOCAL, a.AsSlice())
	b = attr(b, unix.IFA_ADDRESS, a.AsSlice())
	_, err := d.netlink.ask(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, 0, b)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return explain(fmt.Sprintf("giving %s the address %v", d.name, a), err)
	}
	return d.settled(a)
}

// settled waits until the kernel takes a for its own address, which for IPv6
// it arranges somewhat later, in a worker of its own.
func (d *device) settled(a netip.Addr) error {
	for range 1000 {
		m, err := d.netlink.lookUp(a)
		if err == nil && len(m) >= unix.SizeofRtMsg && m[7] == unix.RTN_LOCAL {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("tun: %v of %s did not become an address of this host: %w", a, d.name, unix.EADDRNOTAVAIL)
}

// route leads to a prefix of LSIs, from the node's own.
type route struct {
	to   netip.Prefix
	from netip.Addr
}

// advertisedMSS makes a full segment with LSIs of either family fill a UDP
// payload of 1472 bytes, an Ethernet frame's: 25 bytes are the pipe's and 20
// TCP's. Peers in the process announce the same.
const advertisedMSS = 1472 - 25 - 20

// addRoute makes r, unless it is there. One that leads elsewhere is an error.
func (d *device) addRoute(r route) error {
	b := []byte{family(r.from), byte(r.to.Bits()), 0, 0, unix.RT_TABLE_MAIN, protocol, unix.RT_SCOPE_LINK, unix.RTN_UNICAST}
	b = append(b, 0, 0, 0, 0) // flags
	b = attr(b, unix.RTA_DST, r.to.Masked().Addr().AsSlice())
	b = append(b, attr32(unix.RTA_OIF, uint32(d.index))...)
	b = attr(b, unix.RTA_PREFSRC, r.from.AsSlice())
	b = attr(b, unix.RTA_METRICS, attr32(unix.RTAX_ADVMSS, advertisedMSS))
	_, err := d.netlink.ask(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, 0, b)
	if errors.Is(err, unix.EEXIST) {
		var other int
		if other, err = d.netlink.leads(r.to.Masked().Addr().Next().Next()); err == nil && other != int(d.index) {
			name := fmt.Sprint("interface ", other)
			if i, e := net.InterfaceByIndex(other); e == nil {
				name = i.Name
			}
			err = fmt.Errorf("%w: %s has it (choose another prefix for the LSIs)", unix.EEXIST, name)
		}
	}
	if err != nil {
		return explain(fmt.Sprintf("the route to %v by %s", r.to, d.name), err)
	}
	return nil
}

// lookUp returns the route, an rtmsg and attributes, by which the kernel sends
// to a.
func (n *netlink) lookUp(a netip.Addr) ([]byte, error) {
	b := []byte{family(a), byte(a.BitLen()), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	return n.ask(unix.RTM_GETROUTE, 0, unix.RTM_NEWROUTE, attr(b, unix.RTA_DST, a.AsSlice()))
}

// leads returns the index of the interface by which the kernel sends to a.
func (n *netlink) leads(a netip.Addr) (int, error) {
	m, err := n.lookUp(a)
	if err != nil {
		return 0, err
	}
	attrs, err := syscall.ParseNetlinkRouteAttr(&syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.RTM_NEWROUTE}, Data: m})
	if err != nil {
		return 0, err
	}
	for _, a := range attrs {
		if a.Attr.Type == unix.RTA_OIF && len(a.Value) == 4 {
			return int(binary.NativeEndian.Uint32(a.Value)), nil
		}
	}
	return 0, unix.ENODEV
}
