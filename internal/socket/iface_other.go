//go:build !linux

package socket

import "net/netip"

func kernelKinds() map[int]LinkKind { return nil }

func routeFrom(from, to netip.Addr) (index int, ok bool) { return 0, false }
