package carrier

import (
	"net"

	"golang.org/x/sys/unix"
)

// limitUnsent has the kernel take no more than n bytes that it cannot send at once.
func limitUnsent(c *net.TCPConn, n int) {
	if rc, err := c.SyscallConn(); err == nil {
		_ = rc.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, n) // else its buffer holds more
		})
	}
}
