package socket

import (
	"errors"
	"syscall"

	"golang.org/x/sys/windows"
)

// Socket options of ws2ipdef.h.
const (
	ipDontFragment = 14
	ipv6DontFrag   = 14
)

// dontFragment sets the DF bit on all that fd sends (RFC 8899 §4.2).
func dontFragment(fd uintptr, v6 bool) {
	if v6 {
		_ = windows.SetsockoptInt(windows.Handle(fd), windows.IPPROTO_IPV6, ipv6DontFrag, 1)
		return
	}
	_ = windows.SetsockoptInt(windows.Handle(fd), windows.IPPROTO_IP, ipDontFragment, 1)
}

func isTooLong(err error) bool {
	return errors.Is(err, windows.WSAEMSGSIZE) || errors.Is(err, syscall.EMSGSIZE)
}

// isReset: Windows reports "port unreachable" to the next receive call.
func isReset(err error) bool {
	return errors.Is(err, windows.WSAECONNRESET) || errors.Is(err, windows.WSAENETRESET)
}
