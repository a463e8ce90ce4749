package state

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// take locks the directory. Where the lock file cannot be written, the one that
// is there is locked for reading, and the directory itself too: if there is no
// lock file that is all, and two processes that find none exclude each other.
func (d *Dir) take(open func(string, int, fs.FileMode) (*os.File, error)) error {
	path := filepath.Join(d.path, lockName)
	f, err := open(path, os.O_RDWR|os.O_CREATE, fileMode)
	if err == nil {
		if err := d.lock(f); err != nil {
			return err
		}
		// The process ID is for the message of the next only.
		if f.Truncate(0) == nil {
			fmt.Fprintf(f, "%d\n", os.Getpid())
		}
		return nil
	}
	if !writeRefused(err) {
		return fmt.Errorf("state directory: %w", err)
	}
	d.readOnly = fmt.Errorf("state directory: %w", err)
	for _, path := range []string{path, d.path} {
		f, err := open(path, os.O_RDONLY, 0)
		if errors.Is(err, fs.ErrNotExist) && path != d.path {
			continue
		}
		if err != nil {
			err = d.readOnly
		} else {
			err = d.lock(f)
		}
		if err != nil {
			_ = d.Close()
			return err
		}
	}
	return nil
}

// lock locks one open file of the directory, and keeps it.
func (d *Dir) lock(f *os.File) error {
	err := lockFile(f)
	if err == nil {
		d.locks = append(d.locks, f)
		return nil
	}
	defer f.Close()
	if !errors.Is(err, ErrLocked) {
		return fmt.Errorf("state directory %s: cannot lock: %w", d.path, err)
	}
	who := "by another process, or this one"
	if b, _ := io.ReadAll(io.LimitReader(f, 32)); len(b) > 0 {
		who = "by process " + strings.TrimSpace(string(b))
	}
	return fmt.Errorf("%w: %s is open %s", err, d.path, who)
}
