package null

import (
	"errors"
	"io"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// keepAlive finds a dead path under a connection that only receives.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 2 * time.Second, Count: 4}

const (
	// MaxUnread is how much of what was sent here can lie unread: Linux gives
	// twice of what is asked for, its own bookkeeping included, and takes what
	// arrives, up to 512 KiB at once, while that is not exceeded.
	MaxUnread = 2*receiveBuffer + 1<<20
	// maxUnacked bounds what the system takes without an acknowledgement.
	maxUnacked = 2*sendBuffer + 64<<10

	silentRetransmits = 3
	silentFor         = 2 * time.Second
	tcpClose          = 7 // TCP_CLOSE of the kernel's tcp_states.h
)

// PrepareFD sets the buffers of a socket before it connects or listens, so
// that the window scale fits them.
func PrepareFD(fd uintptr) {
	_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer)
}

// ReusePort lets a listener and connections share one local port.
func ReusePort(fd uintptr) error {
	if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	return unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
}

func (c *tcpConn) control(f func(fd int)) bool {
	rc, err := c.SyscallConn()
	return err == nil && rc.Control(func(fd uintptr) { f(int(fd)) }) == nil
}

func (c *tcpConn) Unacked() (n int, ok bool) {
	var err error
	ok = c.control(func(fd int) { n, err = unix.IoctlGetInt(fd, unix.SIOCOUTQ) })
	return n, ok && err == nil
}

func (c *tcpConn) Take(b []byte) (n int, err error) {
	ok := c.control(func(fd int) {
		for {
			if n, err = unix.Read(fd, b); !errors.Is(err, unix.EINTR) {
				return
			}
		}
	})
	switch {
	case !ok:
		return 0, net.ErrClosed
	case errors.Is(err, unix.EAGAIN):
		return 0, nil
	case err != nil:
		c.note(err)
		return 0, &net.OpError{Op: "read", Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: syscall.Errno(err.(unix.Errno))}
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

func (c *tcpConn) info() (info *unix.TCPInfo) {
	var err error
	if !c.control(func(fd int) { info, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO) }) || err != nil {
		return nil
	}
	return info
}

// over says whether nothing will come or go any more.
func (c *tcpConn) over() bool {
	info := c.info()
	return info == nil || info.State == tcpClose
}

func (c *tcpConn) Silent() bool {
	info := c.info()
	return info != nil && silent(info)
}

// silent says whether the kernel calls a connection closed, or has tried in vain for
// long.
func silent(info *unix.TCPInfo) bool {
	if info.State == tcpClose {
		return true
	}
	tries := max(info.Retransmits, info.Probes, info.Backoff)
	return tries >= silentRetransmits && time.Duration(info.Last_ack_recv)*time.Millisecond >= silentFor
}
