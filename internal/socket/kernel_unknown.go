//go:build !linux && !darwin && !windows

package socket

import (
	"errors"
	"syscall"
)

// dontFragment does nothing: datagrams may be fragmented, and probes for the
// MTU find more than the path takes whole.
func dontFragment(uintptr, bool) {}

func isTooLong(err error) bool { return errors.Is(err, syscall.EMSGSIZE) }

func isReset(err error) bool { return errors.Is(err, syscall.ECONNRESET) }
