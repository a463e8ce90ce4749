package tun

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Of <linux/sock_diag.h> and <linux/inet_diag.h>.
const (
	sockDiagByFamily = 20
	sockDestroy      = 21

	diagStates = 1<<1 | 1<<3 | 1<<4 | 1<<5 | 1<<8 | 1<<9 | 1<<11 // all but connecting, listening and over

	diagRequest = 8  // bytes of an inet_diag_req_v2 before the sockid
	diagMessage = 4  // and of an inet_diag_msg
	diagSockID  = 48 // of an inet_diag_sockid
)

// destroy has the kernel end those TCP connections of the host that which says.
func (d *device) destroy(which func(socket) bool) error {
	if d.diag == nil {
		return unix.EPROTONOSUPPORT
	}
	var errs []error
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		all, err := d.diag.list(sockDiagByFamily, sockDiagByFamily, diag(family, make([]byte, diagSockID)))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, m := range all {
			if len(m) < diagMessage+diagSockID {
				continue
			}
			id := m[diagMessage:][:diagSockID]
			if s := socketOf(family, id); which(s) {
				_, err := d.diag.ask(sockDestroy, unix.NLM_F_ACK, 0, diag(family, id))
				if err != nil && !errors.Is(err, unix.ENOENT) { // it is over already
					return errors.Join(append(errs, err)...)
				}
			}
		}
	}
	return errors.Join(errs...)
}

// diag is an inet_diag_req_v2.
func diag(family byte, id []byte) []byte {
	b := make([]byte, diagRequest, diagRequest+diagSockID)
	b[0], b[1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[4:], diagStates)
	return append(b, id...)
}

// socketOf reads an inet_diag_sockid: two ports, two addresses of 16 bytes.
func socketOf(family byte, id []byte) socket {
	addr := func(b []byte) netip.Addr {
		if family == unix.AF_INET {
			return netip.AddrFrom4([4]byte(b[:4]))
		}
		return netip.AddrFrom16([16]byte(b[:16])).Unmap()
	}
	return socket{
		netip.AddrPortFrom(addr(id[4:]), binary.BigEndian.Uint16(id)),
		netip.AddrPortFrom(addr(id[20:]), binary.BigEndian.Uint16(id[2:])),
	}
}
