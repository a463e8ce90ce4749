//go:build darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd

package state

import (
	"path/filepath"
	"syscall"
	"testing"
)

// TestUnlockedForAChild: a child that is being started holds all descriptors for
// a moment, the lock's too. A directory that was closed can be opened all the same.
func TestUnlockedForAChild(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	d := mustOpen(t, path)
	child, err := syscall.Dup(int(d.locks[0].Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(child)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, path)
}
