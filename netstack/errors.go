package netstack

import (
	"errors"
	"net"
	"os"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// sysError translates what gVisor says to what the kernel would have said
// through package net. It is the only place that does.
func sysError(err tcpip.Error) error {
	switch err.(type) {
	case nil:
		return nil
	case *tcpip.ErrAborted, *tcpip.ErrInvalidEndpointState:
		return net.ErrClosed
	case *tcpip.ErrAlreadyBound, *tcpip.ErrInvalidOptionValue, *tcpip.ErrInvalidPortRange,
		*tcpip.ErrBadAddress, *tcpip.ErrMalformedHeader:
		return syscall.EINVAL
	case *tcpip.ErrAlreadyConnected:
		return syscall.EISCONN
	case *tcpip.ErrBadLocalAddress:
		return syscall.EADDRNOTAVAIL
	case *tcpip.ErrBroadcastDisabled, *tcpip.ErrNotPermitted:
		return syscall.EACCES
	case *tcpip.ErrClosedForSend:
		return syscall.EPIPE
	case *tcpip.ErrConnectionAborted:
		return syscall.ECONNABORTED
	case *tcpip.ErrConnectionRefused:
		return syscall.ECONNREFUSED
	case *tcpip.ErrConnectionReset:
		return syscall.ECONNRESET
	case *tcpip.ErrDestinationRequired:
		return syscall.EDESTADDRREQ
	case *tcpip.ErrHostUnreachable, *tcpip.ErrHostDown, *tcpip.ErrNoNet:
		return syscall.EHOSTUNREACH
	case *tcpip.ErrMessageTooLong:
		return syscall.EMSGSIZE
	case *tcpip.ErrNetworkUnreachable:
		return syscall.ENETUNREACH
	case *tcpip.ErrNoBufferSpace:
		return syscall.ENOBUFS
	case *tcpip.ErrNoPortAvailable, *tcpip.ErrPortInUse, *tcpip.ErrDuplicateAddress:
		return syscall.EADDRINUSE
	case *tcpip.ErrNotConnected:
		return syscall.ENOTCONN
	case *tcpip.ErrNotSupported:
		return syscall.EOPNOTSUPP
	case *tcpip.ErrTimeout:
		return syscall.ETIMEDOUT
	case *tcpip.ErrUnknownProtocolOption:
		return syscall.ENOPROTOOPT
	case *tcpip.ErrAddressFamilyNotSupported:
		return syscall.EAFNOSUPPORT
	}
	return errors.New(err.String())
}

// connectError is sysError of a connect that also has to find a local port:
// that none is free is then exhausted, as on the kernel (EADDRNOTAVAIL of TCP,
// EAGAIN of UDP), and not the EADDRINUSE of a bind.
func connectError(err tcpip.Error, exhausted syscall.Errno) error {
	if _, ok := err.(*tcpip.ErrNoPortAvailable); ok {
		return exhausted
	}
	return sysError(err)
}

// asyncError is sysError for errors that ICMP brought: IPv6 knows no "host
// unreachable" that gVisor would tell from "network unreachable", and the
// network is always there.
func asyncError(err tcpip.Error) error {
	if _, ok := err.(*tcpip.ErrNetworkUnreachable); ok {
		return syscall.EHOSTUNREACH
	}
	return sysError(err)
}

// syscallError dresses an errno as package net does.
func syscallError(call string, err error) error {
	if errno, ok := err.(syscall.Errno); ok {
		return os.NewSyscallError(call, errno)
	}
	return err
}

// setError is what package net's deadlines and buffer sizes return of a closed
// conn or listener.
func setError(network string, local net.Addr) error {
	return &net.OpError{Op: "set", Net: network, Addr: local, Err: net.ErrClosed}
}
