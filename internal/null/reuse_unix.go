//go:build darwin || freebsd || netbsd || openbsd || dragonfly

package null

import "golang.org/x/sys/unix"

// ReusePort lets a listener and connections share one local port.
func ReusePort(fd uintptr) error {
	if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	return unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
}
