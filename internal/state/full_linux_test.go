package state

import (
	"errors"
	"os/signal"
	"strings"
	"syscall"
	"testing"
)

// TestDiskFull: where the system takes only the beginning of a file, Save
// fails, the document of before stays and nothing is left of the new one. Not
// in parallel with others: the limit is the process's.
func TestDiskFull(t *testing.T) {
	d := mustOpen(t, t.TempDir()+"/d")
	if err := d.Save("a", "before"); err != nil {
		t.Fatal(err)
	}
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 4 << 10, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	err := d.Save("a", strings.Repeat("x", 64<<10))
	if rerr := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); rerr != nil {
		t.Fatal(rerr)
	}
	if !errors.Is(err, syscall.EFBIG) || !strings.Contains(err.Error(), `"a"`) {
		t.Errorf("Save: %v", err)
	}
	var got string
	if found, err := d.Load("a", &got); !found || err != nil || got != "before" {
		t.Errorf("%v, %q, %v", found, got, err)
	}
	wantFiles(t, d, "a.json", lockName)
	if err := d.Save("a", "after"); err != nil {
		t.Errorf("with room again: %v", err)
	}
}
