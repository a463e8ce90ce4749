package socket

import (
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// netlinkNotifier listens to rtnetlink(7) for links and addresses, of which Rescan reads
// the whole table, and for what routers announce, which only the messages say. All come
// by one socket, so that a link goes down before the next network's router is heard. None
// but the kernel and who may administer it sends to it.
type netlinkNotifier struct {
	f    *os.File
	told *announced
	buf  [8192]byte
}

func newNotifier(told *announced) (notifier, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	sa := &unix.SockaddrNetlink{
		Family: unix.AF_NETLINK,
		Groups: unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | 1<<(unix.RTNLGRP_ND_USEROPT-1),
	}
	if err := unix.Bind(fd, sa); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	// A nonblocking descriptor: the file waits in the runtime's poller, where
	// deadlines and Close reach it.
	return &netlinkNotifier{f: os.NewFile(uintptr(fd), "netlink"), told: told}, nil
}

func (n *netlinkNotifier) wait(deadline time.Time) error {
	if err := n.f.SetReadDeadline(deadline); err != nil {
		return err
	}
	for {
		size, err := n.f.Read(n.buf[:])
		if errors.Is(err, syscall.ENOBUFS) {
			return nil // so many changes that messages were lost
		}
		if err != nil || n.told.take(n.buf[:size], time.Now()) {
			return err
		}
	}
}

func (n *netlinkNotifier) close() error { return n.f.Close() }
