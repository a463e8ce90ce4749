package carrier

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// roundTrip is what the kernel has measured, 0 if it does not say.
func roundTrip(c *net.TCPConn) (rtt time.Duration) {
	if rc, err := c.SyscallConn(); err == nil {
		_ = rc.Control(func(fd uintptr) {
			if i, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
				rtt = time.Duration(i.Rtt) * time.Microsecond
			}
		})
	}
	return rtt
}

// limitUnsent has the kernel take no more than n bytes that it cannot send at once.
func limitUnsent(c *net.TCPConn, n int) {
	if rc, err := c.SyscallConn(); err == nil {
		_ = rc.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, n) // else its buffer holds more
		})
	}
}

// acknowledger returns what has the kernel acknowledge at once all that has come. nil:
// it cannot be told.
func acknowledger(c *net.TCPConn) func() {
	if c == nil {
		return nil
	}
	rc, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	now := func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) }
	return func() { _ = rc.Control(now) }
}
