//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package null

import "errors"

// ReusePort lets a listener and connections share one local port; not here.
func ReusePort(uintptr) error { return errors.ErrUnsupported }
