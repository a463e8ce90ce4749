package socket

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// dontFragment sets the DF bit on all that fd sends (RFC 8899 §4.2).
func dontFragment(fd uintptr, v6 bool) {
	if v6 {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1)
		return
	}
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_DONTFRAG, 1)
}

func isTooLong(err error) bool { return errors.Is(err, syscall.EMSGSIZE) }

func isReset(err error) bool { return errors.Is(err, syscall.ECONNRESET) }
