//go:build !darwin && !dragonfly && !freebsd && !illumos && !linux && !netbsd && !openbsd && !windows

package state

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

// lockFile refuses: two nodes with one key would ruin each other's sessions,
// so a system that cannot tell gets no state directory.
func lockFile(*os.File) error {
	return fmt.Errorf("no file locks on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

func unlockFile(*os.File) error { return nil }
