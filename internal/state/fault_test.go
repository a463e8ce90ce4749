package state

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// wantFiles wants these files in the directory and no other, thus nothing half
// written.
func wantFiles(t *testing.T, d *Dir, want ...string) {
	t.Helper()
	files, err := os.ReadDir(d.Path())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range files {
		got = append(got, f.Name())
	}
	if !slices.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
}

// TestFaults: what goes wrong below is an error that names the place, and what
// was saved before is still there.
func TestFaults(t *testing.T) {
	t.Parallel()
	t.Run("directory is a file", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(file); err == nil {
			t.Error("opened")
		}
		if _, err := Open(filepath.Join(file, "below")); err == nil {
			t.Error("opened below a file")
		}
	})
	t.Run("lock is a directory", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(dir, lockName), 0o700); err != nil {
			t.Fatal(err)
		}
		if d, err := Open(dir); err == nil {
			d.Close()
			t.Error("opened")
		}
	})
	t.Run("directory vanishes", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "d")
		d, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if d.Path() != dir {
			t.Errorf("Path = %q", d.Path())
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if err := d.Save("a", 1); err == nil || !strings.Contains(err.Error(), `"a"`) {
			t.Errorf("Save: %v", err)
		}
	})
	t.Run("name is taken by a directory", func(t *testing.T) {
		d, err := Open(t.TempDir() + "/d")
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if err := os.Mkdir(filepath.Join(d.Path(), "a.json"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := d.Save("a", 1); !errors.Is(err, ErrDamaged) {
			t.Errorf("Save: %v", err)
		}
	})
	t.Run("name is taken later", func(t *testing.T) {
		d := mustOpen(t, t.TempDir()+"/d")
		if found, err := d.Load("a", new(int)); found || err != nil {
			t.Fatalf("%v, %v", found, err)
		}
		if err := os.MkdirAll(filepath.Join(d.Path(), "a.json", "below"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := d.Save("a", 1); err == nil || !strings.Contains(err.Error(), `"a"`) {
			t.Errorf("Save: %v", err)
		}
		wantFiles(t, d, "a.json", lockName)
	})
	t.Run("lock on nothing", func(t *testing.T) {
		f, err := os.Create(filepath.Join(t.TempDir(), lockName))
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		if err := lockFile(f); err == nil || errors.Is(err, ErrLocked) {
			t.Errorf("a closed file: %v", err)
		}
	})
	t.Run("another shape in memory", func(t *testing.T) {
		d := mustOpen(t, "")
		if err := d.Save("a", "text"); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Load("a", new(int)); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "memory") {
			t.Errorf("Load: %v", err)
		}
		if err := d.Save("a", 1); !errors.Is(err, ErrDamaged) {
			t.Errorf("Save: %v", err)
		}
	})
	t.Run("name that is none", func(t *testing.T) {
		d, err := Open("")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"", "../a", "A", "a.json", strings.Repeat("a", 65)} {
			var n int
			if _, err := d.Load(name, &n); err == nil {
				t.Errorf("Load(%q) works", name)
			}
			if err := d.Save(name, 1); err == nil {
				t.Errorf("Save(%q) works", name)
			}
		}
		d.Close()
		if _, err := d.Load("a", new(int)); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("Load after Close: %v", err)
		}
	})
	t.Run("value cannot be JSON", func(t *testing.T) {
		for _, path := range []string{"", t.TempDir() + "/d"} {
			d, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Save("a", 1); err != nil {
				t.Fatal(err)
			}
			if err := d.Save("a", math.NaN()); err == nil {
				t.Error("NaN was saved")
			}
			var n int
			if found, err := d.Load("a", &n); !found || err != nil || n != 1 {
				t.Errorf("after the failure: %d, %v, %v", n, found, err)
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
			if err := d.Save("a", 2); !errors.Is(err, fs.ErrClosed) {
				t.Errorf("Save after Close: %v", err)
			}
			if _, err := d.Load("a", &n); !errors.Is(err, fs.ErrClosed) {
				t.Errorf("Load after Close: %v", err)
			}
		}
	})
	t.Run("too large", func(t *testing.T) {
		d, err := Open(t.TempDir() + "/d")
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		path := filepath.Join(d.Path(), "a.json")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, maxFile+1); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Load("a", new(int)); !errors.Is(err, ErrDamaged) {
			t.Errorf("Load: %v", err)
		}
		if info, err := os.Stat(path); err != nil || info.Size() != maxFile+1 {
			t.Errorf("the file was touched: %v, %v", info, err)
		}
	})
}
