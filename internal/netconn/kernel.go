package netconn

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
)

// Kernel is a conn of the kernel's.
type Kernel interface {
	syscall.Conn
	LocalAddr() net.Addr
	RemoteAddr() net.Addr
}

// control calls f with c's descriptor, and makes what fails an error of package
// net's about op.
func control(c Kernel, op, call string, f func(fd int) error) error {
	rc, err := c.SyscallConn()
	if err == nil {
		cerr := rc.Control(func(fd uintptr) { err = f(int(fd)) })
		if cerr != nil {
			err = cerr
		}
	}
	if err == nil {
		return nil
	}
	var op0 *net.OpError
	if errors.As(err, &op0) {
		err = op0.Err
	}
	if errno, ok := err.(syscall.Errno); ok {
		err = os.NewSyscallError(call, errno)
	}
	local := c.LocalAddr()
	e := &net.OpError{Op: op, Source: local, Err: err}
	if local != nil {
		e.Net = local.Network()
	}
	if r := c.RemoteAddr(); r != nil {
		e.Addr = r
	}
	return e
}

// families says which headers a socket at this address sends.
func families(a net.Addr) (v4, v6 bool) {
	var ip netip.Addr
	switch a := a.(type) {
	case *net.TCPAddr:
		ip = a.AddrPort().Addr()
	case *net.UDPAddr:
		ip = a.AddrPort().Addr()
	}
	return ip.Unmap().Is4() || ip.IsUnspecified(), ip.Is6()
}

// SetTrafficClass gives what c sends from now on a traffic class.
func SetTrafficClass(c Kernel, class int) error {
	return control(c, "set", "setsockopt", func(fd int) error {
		k, err := CheckClass(class)
		if err != nil {
			return err
		}
		return setClass(fd, c.LocalAddr(), int(k))
	})
}

// TrafficClass returns what SetTrafficClass has set.
func TrafficClass(c Kernel) (class int, err error) {
	err = control(c, "get", "getsockopt", func(fd int) (err error) {
		class, err = getClass(fd, c.LocalAddr())
		return err
	})
	return class &^ ECN, err
}

// SetUserTimeout is TCP_USER_TIMEOUT.
func SetUserTimeout(c Kernel, d time.Duration) error {
	return control(c, "set", "setsockopt", func(fd int) error {
		if d < 0 {
			return syscall.EINVAL
		}
		return setUserTimeout(fd, d)
	})
}

// Info is TCP_INFO.
func Info(c Kernel) (info TCPInfo, err error) {
	err = control(c, "get", "getsockopt", func(fd int) (err error) {
		info, err = tcpInfo(fd)
		return err
	})
	return info, err
}
