package socket

import (
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// netlinkNotifier listens to rtnetlink(7) for links and addresses. What the
// messages say does not matter: Rescan reads the whole table.
type netlinkNotifier struct {
	f   *os.File
	buf [8192]byte
}

func newNotifier() (notifier, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	sa := &unix.SockaddrNetlink{
		Family: unix.AF_NETLINK,
		Groups: unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR,
	}
	if err := unix.Bind(fd, sa); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	// A nonblocking descriptor: the file waits in the runtime's poller, where
	// deadlines and Close reach it.
	return &netlinkNotifier{f: os.NewFile(uintptr(fd), "netlink")}, nil
}

func (n *netlinkNotifier) wait(deadline time.Time) error {
	if err := n.f.SetReadDeadline(deadline); err != nil {
		return err
	}
	_, err := n.f.Read(n.buf[:])
	if errors.Is(err, syscall.ENOBUFS) {
		return nil // so many changes that messages were lost
	}
	return err
}

func (n *netlinkNotifier) close() error { return n.f.Close() }
