//go:build darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd

package state

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
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

// A process that was killed has its directory open until the system is done with it.
func TestLockOfAProcessThatIsEnding(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a")
	if err := mustOpen(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := lockFile(f); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.Name(), []byte("1\n"), fileMode); err != nil { // any but ours
		t.Fatal(err)
	}
	opened := make(chan error, 1)
	go func() {
		d, err := Open(path)
		if err == nil {
			err = d.Close()
		}
		opened <- err
	}()
	select {
	case err := <-opened:
		t.Fatalf("opened while it was locked: %v", err)
	case <-time.After(5 * dyingEvery):
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-opened; err != nil {
		t.Error(err)
	}
}

// A process that does not end is not waited for longer than one that does takes.
func TestLockOfAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	mustOpen(t, path)
	for holder, wait := range map[string]time.Duration{"1\n": dyingFor, "": 0} { // any but ours; one that does not say
		if err := os.WriteFile(filepath.Join(path, lockName), []byte(holder), fileMode); err != nil {
			t.Fatal(err)
		}
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			_, err := Open(path)
			if took := time.Since(start); !errors.Is(err, ErrLocked) || took != wait {
				t.Errorf("%q: %v after %v", holder, err, took)
			}
		})
	}
}
