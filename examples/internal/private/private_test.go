package private

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"
)

// TestSocketIsPrivate: at no moment may another user connect to it.
func TestSocketIsPrivate(t *testing.T) {
	dir, err := os.MkdirTemp("", "") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "control")
	stop, seen := make(chan struct{}), make(chan fs.FileMode)
	go func() {
		var open fs.FileMode
		for {
			select {
			case <-stop:
				seen <- open
				return
			default:
			}
			if info, err := os.Lstat(path); err == nil {
				open |= info.Mode().Perm() & 0o077
			}
		}
	}()
	for range 100 {
		l, err := Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := net.Dial("unix", path); err != nil {
			t.Error(err)
		} else {
			c.Close()
		}
		l.Close()
		os.Remove(path)
	}
	close(stop)
	if open := <-seen; open != 0 {
		t.Errorf("mode %04o", open)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
