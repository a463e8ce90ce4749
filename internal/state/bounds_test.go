//go:build unix

package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// What the disk does not promise to keep is not saved: Save and a journal say so,
// whichever step fails, and what was there before is there still.
func TestSyncFails(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"file", "directory"} {
		d := mustOpen(t, filepath.Join(t.TempDir(), "d"))
		if err := d.Save("a", 1); err != nil {
			t.Fatal(err)
		}
		j := openJournal(t, d)
		records(t, j)
		file, dir := d.syncFile, d.syncDir
		if step == "file" {
			d.syncFile = func(*os.File) error { return errDisk }
		} else {
			d.syncDir = func(string) error { return errDisk }
		}
		if err := d.Save("a", 2); !errors.Is(err, errDisk) || !strings.Contains(err.Error(), `"a"`) {
			t.Errorf("%s: Save: %v", step, err)
		}
		if step == "file" {
			if err := j.Append([]byte("x"))(); !errors.Is(err, errDisk) {
				t.Errorf("%s: Append: %v", step, err)
			}
			var got int
			if found, err := d.Load("a", &got); !found || err != nil || got != 1 {
				t.Errorf("%s: %v, %v, %d", step, found, err, got)
			}
		}
		if err := j.Filter(func([]byte) bool { return true }); !errors.Is(err, errDisk) {
			t.Errorf("%s: Filter: %v", step, err)
		}
		d.syncFile, d.syncDir = file, dir
		if err := d.Save("a", 3); err != nil {
			t.Error(err)
		}
		wantFiles(t, d, "a.json", "j.journal", lockName)
	}
	if err := syncDir(filepath.Join(t.TempDir(), "nowhere")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory that is not there: %v", err)
	}
	if err := syncDir(t.TempDir()); err != nil {
		t.Error(err)
	}
}

// Each character and length of a name that may and may not be.
func TestNames(t *testing.T) {
	t.Parallel()
	d := mustOpen(t, "")
	for name, ok := range map[string]bool{
		"a": true, "z": true, "0": true, "9": true, "-": true, "a-0": true, strings.Repeat("x", 64): true,
		"": false, strings.Repeat("x", 65): false, "`": false, "{": false, "/": false, ":": false, ",": false, ".": false, "A": false, "a/b": false, "ä": false,
	} {
		if err := d.Save(name, 1); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// The largest file is read, a larger one is not even tried.
func TestLargestFile(t *testing.T) {
	t.Parallel()
	d := mustOpen(t, filepath.Join(t.TempDir(), "d"))
	for n, says := range map[int64]string{maxFile + 1: "are too many", 1000: "invalid character"} {
		f := filepath.Join(d.Path(), "a.json")
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(f, n); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Load("a", new(int)); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), says) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if maxFile != 64<<20 || dirMode != 0o700 || fileMode != 0o600 || version != 1 || maxRecord != 255 {
		t.Error("a constant changed")
	}
	f := filepath.Join(d.Path(), "whole")
	if err := os.WriteFile(f, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(f, maxFile); err != nil {
		t.Fatal(err)
	}
	if b, err := readFile(f); err != nil || len(b) != maxFile {
		t.Errorf("the largest: %d bytes, %v", len(b), err)
	}
}

// Who has the directory is named, and closing twice is no error.
func TestLockedBy(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "d")
	d := mustOpen(t, path)
	_, err := Open(path)
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("open by process %d", os.Getpid())) {
		t.Errorf("a directory that is open: %v", err)
	}
	if err := os.WriteFile(filepath.Join(path, lockName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "by another process, or this one") {
		t.Errorf("a lock without a number: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if err := d.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	if err := d.Save("a", 1); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Save after Close: %v", err)
	}
	if _, err := d.OpenJournal("j"); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("OpenJournal after Close: %v", err)
	}
	again := mustOpen(t, path)
	b, err := os.ReadFile(filepath.Join(path, lockName))
	if err != nil || string(b) != fmt.Sprintf("%d\n", os.Getpid()) {
		t.Errorf("%q, %v", b, err)
	}
	_ = again
}

// What a document that cannot be written as JSON leaves behind: nothing.
func TestNoJSON(t *testing.T) {
	t.Parallel()
	d := mustOpen(t, filepath.Join(t.TempDir(), "d"))
	if err := d.Save("a", func() {}); err == nil || !strings.Contains(err.Error(), `"a"`) {
		t.Errorf("a function: %v", err)
	}
	if found, err := d.Load("a", new(int)); found || err != nil {
		t.Errorf("%v, %v", found, err)
	}
	wantFiles(t, d, lockName)
	// A file that was damaged is not overwritten, and its error stays until then.
	if err := os.WriteFile(filepath.Join(d.Path(), "b.json"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := d.Save("b", 1); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "not overwritten") {
			t.Errorf("over a damaged file: %v", err)
		}
	}
	if err := os.Remove(filepath.Join(d.Path(), "b.json")); err != nil {
		t.Fatal(err)
	}
	if err := d.Save("b", 1); !errors.Is(err, ErrDamaged) {
		t.Errorf("what was seen damaged: %v", err)
	}
}

// Which errors say that the disk takes nothing.
func TestWriteRefused(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]bool{
		fs.ErrPermission: true, syscall.EROFS: true, syscall.ENOSPC: true, errors.New("x"): false, fs.ErrNotExist: false, syscall.EIO: false, syscall.ENOTDIR: false,
		&fs.PathError{Op: "open", Path: "x", Err: syscall.EROFS}: true,
	} {
		if writeRefused(err) != want {
			t.Errorf("%v: %v", err, !want)
		}
	}
}
