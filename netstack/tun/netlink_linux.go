package tun

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	nl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// netlink is a socket on which the kernel is told about addresses and routes
// (rtnetlink(7)), or about sockets (sock_diag(7)). It stays in the network namespace in which it was made. Its
// methods may be used concurrently.
type netlink struct {
	conn   *nl.Conn
	closed atomic.Bool
}

func newNetlink() (*netlink, error) { return netlinkOf(unix.NETLINK_ROUTE) }

func netlinkOf(protocol int) (*netlink, error) {
	c, err := nl.Dial(protocol, nil)
	if err != nil {
		return nil, err
	}
	return &netlink{conn: c}, nil
}

func (n *netlink) close() {
	if !n.closed.Swap(true) {
		_ = n.conn.Close()
	}
}

// ask sends a request, the body after its nlmsghdr, and returns the body of
// the answer of type want, nil for a mere acknowledgement.
func (n *netlink) ask(kind, flags uint16, want uint16, body []byte) (answer []byte, err error) {
	all, err := n.execute(kind, flags, body)
	for _, m := range all {
		if want != 0 && m.Header.Type == nl.HeaderType(want) {
			return m.Data, err
		}
	}
	return nil, err
}

// list sends a request for all there is of something, and returns the bodies of the
// answers of type want.
func (n *netlink) list(kind, want uint16, body []byte) (bodies [][]byte, err error) {
	for range 8 { // what changes meanwhile makes a list that is none
		bodies = nil
		changed := false
		all, err := n.execute(kind, unix.NLM_F_DUMP, body)
		if err != nil {
			return nil, err
		}
		for _, m := range all {
			changed = changed || m.Header.Flags&nl.DumpInterrupted != 0
			if m.Header.Type == nl.HeaderType(want) {
				bodies = append(bodies, m.Data)
			}
		}
		if !changed {
			break
		}
	}
	return bodies, nil
}

// execute sends a request and returns the answers. An error of the kernel's is a
// unix.Errno.
func (n *netlink) execute(kind, flags uint16, body []byte) ([]nl.Message, error) {
	if n.closed.Load() {
		return nil, net.ErrClosed
	}
	all, err := n.conn.Execute(nl.Message{
		Header: nl.Header{Type: nl.HeaderType(kind), Flags: nl.Request | nl.HeaderFlags(flags)}, Data: body,
	})
	var errno unix.Errno
	if errors.As(err, &errno) {
		return nil, errno
	}
	return all, err
}

// attributes encodes what f adds.
func attributes(f func(*nl.AttributeEncoder)) []byte {
	ae := nl.NewAttributeEncoder()
	f(ae)
	b, err := ae.Encode()
	if err != nil {
		panic(err) // one is longer than 64 KiB
	}
	return b
}

func attr32(kind uint16, v uint32) []byte {
	return attributes(func(ae *nl.AttributeEncoder) {
		ae.Uint32(kind, v)
	})
}

// quietIPv6 asks for no link-local address: there is no link, and the kernel
// would look for routers from it.
func quietIPv6() []byte {
	const addrGenMode, none = 8, 1 // IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE
	return attributes(func(ae *nl.AttributeEncoder) {
		ae.Nested(unix.IFLA_AF_SPEC, func(ae *nl.AttributeEncoder) error {
			ae.Nested(unix.AF_INET6, func(ae *nl.AttributeEncoder) error {
				ae.Uint8(addrGenMode, none)
				return nil
			})
			return nil
		})
	})
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
	b = append(b, attributes(func(ae *nl.AttributeEncoder) {
		ae.Bytes(unix.IFA_LOCAL, a.AsSlice())
		ae.Bytes(unix.IFA_ADDRESS, a.AsSlice())
	})...)
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
	b = append(b, attributes(func(ae *nl.AttributeEncoder) {
		ae.Bytes(unix.RTA_DST, r.to.Masked().Addr().AsSlice())
		ae.Uint32(unix.RTA_OIF, uint32(d.index))
		ae.Bytes(unix.RTA_PREFSRC, r.from.AsSlice())
		ae.Nested(unix.RTA_METRICS, func(ae *nl.AttributeEncoder) error {
			ae.Uint32(unix.RTAX_ADVMSS, advertisedMSS)
			return nil
		})
	})...)
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
	return n.ask(unix.RTM_GETROUTE, 0, unix.RTM_NEWROUTE, append(b, attributes(func(ae *nl.AttributeEncoder) {
		ae.Bytes(unix.RTA_DST, a.AsSlice())
	})...))
}

// leads returns the index of the interface by which the kernel sends to a.
func (n *netlink) leads(a netip.Addr) (int, error) {
	m, err := n.lookUp(a)
	if err != nil {
		return 0, err
	}
	if len(m) < unix.SizeofRtMsg {
		return 0, unix.ENODEV
	}
	ad, err := nl.NewAttributeDecoder(m[unix.SizeofRtMsg:])
	if err != nil {
		return 0, err
	}
	for ad.Next() {
		if ad.Type() == unix.RTA_OIF {
			return int(ad.Uint32()), ad.Err()
		}
	}
	return 0, unix.ENODEV
}
