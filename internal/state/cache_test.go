package state

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestLoadCache: what can be made anew and is damaged, in any way, is put aside
// with its content, said once, and can be saved again.
func TestLoadCache(t *testing.T) {
	t.Parallel()
	for desc, damage := range map[string]func(path string) error{
		"empty":     func(p string) error { return os.Truncate(p, 0) },
		"cut":       func(p string) error { return os.Truncate(p, 40) },
		"other":     func(p string) error { return os.WriteFile(p, []byte("hello"), 0o600) },
		"two kinds": func(p string) error { return os.WriteFile(p, mustSeal("a", map[string]int{"x": 1}), 0o600) },
		"checksum": func(p string) error {
			b, err := os.ReadFile(p)
			return errors.Join(err, os.WriteFile(p, bytes.Replace(b, []byte("7"), []byte("8"), 1), 0o600))
		},
		"newer version": func(p string) error {
			return os.WriteFile(p, []byte(`{"format":"idloc-state","version":99}`), 0o600)
		},
		"open to others": func(p string) error { return os.Chmod(p, 0o666) },
		"a directory": func(p string) error {
			return errors.Join(os.Remove(p), os.Mkdir(p, 0o700), os.WriteFile(filepath.Join(p, "x"), nil, 0o600))
		},
	} {
		t.Run(desc, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir() + "/d"
			d := mustOpen(t, dir)
			if err := d.Save("a", []int{7}); err != nil {
				t.Fatal(err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "a.json")
			if err := damage(path); err != nil {
				t.Fatal(err)
			}
			if desc == "open to others" && os.PathSeparator != '/' {
				t.Skip("no modes here")
			}
			d = mustOpen(t, dir)
			var v []int
			found, aside := d.LoadCache("a", &v)
			if found || aside == nil || !strings.Contains(aside.Error(), path+damagedMark) {
				t.Errorf("%v, %v", found, aside)
			}
			if _, err := os.Stat(path + damagedMark); err != nil {
				t.Error(err)
			}
			if found, aside := d.LoadCache("a", &v); found || aside != nil {
				t.Errorf("again: %v, %v", found, aside)
			}
			if err := d.Save("a", []int{9}); err != nil {
				t.Error(err)
			}
			if found, err := d.LoadCache("a", &v); !found || err != nil || len(v) != 1 || v[0] != 9 {
				t.Errorf("made anew: %v, %v, %v", found, v, err)
			}
		})
	}
}

// In memory, too, what is not as it should be is forgotten, said once, and saved again.
func TestLoadCacheInMemory(t *testing.T) {
	t.Parallel()
	d := mustOpen(t, "")
	if err := d.Save("a", "text"); err != nil {
		t.Fatal(err)
	}
	v := 0
	if found, err := d.LoadCache("a", &v); found || !errors.Is(err, ErrDamaged) {
		t.Errorf("%v, %v", found, err)
	}
	if found, err := d.LoadCache("a", &v); found || err != nil {
		t.Errorf("again: %v, %v", found, err)
	}
	if err := d.Save("a", 9); err != nil {
		t.Error(err)
	}
	if found, err := d.LoadCache("a", &v); !found || err != nil || v != 9 {
		t.Errorf("made anew: %v, %d, %v", found, v, err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if found, err := d.LoadCache("a", &v); found || !errors.Is(err, fs.ErrClosed) {
		t.Errorf("after Close: %v, %v", found, err)
	}
}

func mustSeal(name string, v any) []byte {
	b, err := seal(name, v)
	if err != nil {
		panic(err)
	}
	return b
}

// TestKeep: a disk that takes nothing is said once an hour, and so is that it
// does again; the document is tried each time.
func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, err := Open("")
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		log := slog.New(slog.NewTextHandler(&out, nil))
		for range 90 {
			d.Break(&fs.PathError{Op: "open", Path: time.Now().String(), Err: syscall.ENOSPC})
			if d.Keep(log, "a", 1) {
				t.Error("kept on a full disk")
			}
			time.Sleep(time.Minute)
		}
		if n := strings.Count(out.String(), "level=WARN"); n != 2 {
			t.Errorf("%d warnings in 90 minutes:\n%s", n, &out)
		}
		d.Break(nil)
		for range 2 {
			if !d.Keep(log, "a", 2) {
				t.Error("not kept")
			}
		}
		if n := strings.Count(out.String(), "level=INFO"); n != 1 {
			t.Errorf("that it is saved again was said %d times", n)
		}
		var v int
		if found, err := d.Load("a", &v); !found || err != nil || v != 2 {
			t.Errorf("%v, %v, %v", found, v, err)
		}
	})
	if !(*Dir)(nil).Keep(slog.New(slog.DiscardHandler), "a", 1) {
		t.Error("no directory is not content")
	}
}

// TestReadOnlyDirectory: a directory on a disk that takes nothing is read, by one
// process at a time, with a lock file from before and without.
func TestReadOnlyDirectory(t *testing.T) {
	t.Parallel()
	readOnly := func(path string, flag int, mode fs.FileMode) (*os.File, error) {
		if flag != os.O_RDONLY {
			return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrPermission}
		}
		return os.OpenFile(path, flag, mode)
	}
	for desc, lost := range map[string]bool{"with its lock file": false, "without": true} {
		t.Run(desc, func(t *testing.T) {
			t.Parallel()
			if lost && os.PathSeparator != '/' {
				t.Skip("directories cannot be locked here")
			}
			dir := t.TempDir() + "/d"
			d := mustOpen(t, dir)
			if err := errors.Join(d.Save("a", 7), d.Close()); err != nil {
				t.Fatal(err)
			}
			if lost {
				if err := os.Remove(filepath.Join(dir, lockName)); err != nil {
					t.Fatal(err)
				}
			}
			open := func() (*Dir, error) {
				d := &Dir{path: dir, seen: map[string]error{}, failed: map[string]complaint{}}
				return d, d.take(readOnly)
			}
			first, err := open()
			if err != nil || first.ReadOnly() == nil {
				t.Fatalf("%v, read-only: %v", err, first.ReadOnly())
			}
			var v int
			if found, err := first.Load("a", &v); !found || err != nil || v != 7 {
				t.Errorf("%v, %v, %v", found, v, err)
			}
			if _, err := open(); !errors.Is(err, ErrLocked) {
				t.Errorf("second: %v", err)
			}
			if !lost {
				if _, err := Open(dir); !errors.Is(err, ErrLocked) {
					t.Errorf("one that can write: %v", err)
				}
			}
			if err := first.Close(); err != nil {
				t.Error(err)
			}
			again, err := open()
			if err != nil {
				t.Fatal(err)
			}
			again.Close()
		})
	}
}
