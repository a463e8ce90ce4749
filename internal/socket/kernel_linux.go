package socket

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// groSpace holds the one control message that GRO adds, and one more.
var groSpace = 2 * unix.CmsgSpace(4)

// dontFragment sets the DF bit on all that fd sends and keeps the kernel from
// learning path MTUs from ICMP, which strangers can forge: probes that the
// pipe answers for tell the MTU (RFC 8899 §4.2).
func dontFragment(fd uintptr, v6 bool) {
	if v6 {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
		return
	}
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
}

// forceBuffers goes beyond net.core.[rw]mem_max where the process may.
func forceBuffers(fd uintptr) {
	for _, o := range [...][2]int{{unix.SO_RCVBUF, unix.SO_RCVBUFFORCE}, {unix.SO_SNDBUF, unix.SO_SNDBUFFORCE}} {
		// The kernel reports twice what it was asked for.
		if n, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, o[0]); err == nil && n < 2*socketBuffer {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, o[1], socketBuffer)
		}
	}
}

// receiveBuffer returns what fits into the receive buffer of fd. The kernel
// reports what its own bookkeeping may take, which is up to twice as much.
func receiveBuffer(fd uintptr) int {
	n, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
	if err != nil {
		return 0
	}
	return n / 2
}

// enableOffloads turns receive offload on and asks whether there is send
// offload, which is asked for with each send. Old kernels know neither.
func enableOffloads(fd uintptr) (gso, gro bool) {
	_, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT)
	gso = err == nil
	gro = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1) == nil
	return gso, gro
}

// segment fills in the control message that makes one send call many
// datagrams of n bytes.
func (c *control) segment(n uint16) []byte {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&c.b))
	h.Level = unix.IPPROTO_UDP
	h.Type = unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	b := unsafe.Slice((*byte)(unsafe.Pointer(&c.b)), unix.CmsgSpace(2))
	*(*uint16)(unsafe.Pointer(&b[unix.CmsgLen(0)])) = n
	return b
}

// groSegment returns the segment size that the kernel tells of a run in oob,
// 0 if it was one datagram.
func groSegment(oob []byte) int {
	for len(oob) >= unix.CmsgLen(0) {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return 0
		}
		if h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO && len(data) >= 4 {
			return int(*(*int32)(unsafe.Pointer(&data[0])))
		}
		oob = rest
	}
	return 0
}

func truncated(flags int) bool { return flags&unix.MSG_TRUNC != 0 }

// refusesGSO reports whether err is how Linux says that this route, driver or
// segment size does not go with UDP_SEGMENT.
func refusesGSO(err error) bool {
	return errors.Is(err, unix.EIO) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)
}

func isTooLong(err error) bool { return errors.Is(err, unix.EMSGSIZE) }

func isReset(err error) bool { return errors.Is(err, unix.ECONNRESET) }
