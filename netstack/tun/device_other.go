//go:build !linux

package tun

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
)

// device does not exist here.
type device struct {
	name      string
	datagrams bool
}

// frame is what one write would need.
type frame struct{ vnet [vnetLen]byte }

var framePool = sync.Pool{New: func() any { return new(frame) }}

const guardMetric = 0

// route leads to a prefix of LSIs.
type route struct {
	to   netip.Prefix
	from netip.Addr
}

var errNone = fmt.Errorf("tun: a TUN device on %s: %w", runtime.GOOS, errors.ErrUnsupported)

// Remotes knows of no flows here.
func Remotes() map[netip.Addr]bool { return nil }

func listening() map[uint16]bool { return nil }

func openDevice(string) (*device, error)                             { return nil, errNone }
func (*device) close() error                                         { return errNone }
func (*device) discard()                                             {}
func (*device) read([]byte) (int, error)                             { return 0, errNone }
func (*device) write(_ *frame, _, _ []byte) bool                     { return false }
func (*device) up() error                                            { return errNone }
func (*device) settle(_, _ netip.Prefix) error                       { return errNone }
func (*device) guard(netip.Prefix) error                             { return errNone }
func (*device) unguard(netip.Prefix) error                           { return errNone }
func (*device) unneeded(...netip.Prefix) ([]netip.Prefix, error)     { return nil, errNone }
func (*device) forget()                                              {}
func (*device) addAddr(netip.Addr) error                             { return errNone }
func (*device) addRoute(route) error                                 { return errNone }
func (*device) destroy(func(socket) bool) error                      { return errNone }
func (*Host) watch()                                                 {}
func (*Host) flush(context.Context) error                            { return nil }
func (*Host) listenAny(string, *net.UDPAddr) (net.PacketConn, error) { return nil, errNone }
