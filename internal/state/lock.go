package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
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

// A process that was killed holds its locks until the system has taken its memory
// back. Who starts the next one at once, a supervisor does, is not told that the
// directory is in use; the system tells nobody when a lock is free.
const (
	dyingFor   = time.Second
	dyingEvery = 10 * time.Millisecond
)

// lock locks one open file of the directory, and keeps it.
func (d *Dir) lock(f *os.File) error {
	err := lockFile(f)
	for end := time.Now().Add(dyingFor); errors.Is(err, ErrLocked) && isOthers(holder(f)) && time.Now().Before(end); {
		time.Sleep(dyingEvery)
		err = lockFile(f)
	}
	if err == nil {
		d.locks = append(d.locks, f)
		return nil
	}
	defer f.Close()
	if !errors.Is(err, ErrLocked) {
		return fmt.Errorf("state directory %s: cannot lock: %w", d.path, err)
	}
	who := "by another process, or this one"
	if by := holder(f); by != "" {
		who = "by process " + by
	}
	return fmt.Errorf("%w: %s is open %s", err, d.path, who)
}

// holder is the ID of the process that has locked f, as it says; "": it does not.
func holder(f *os.File) string {
	b := make([]byte, 32)
	n, _ := f.ReadAt(b, 0)
	return strings.TrimSpace(string(b[:n]))
}

func isOthers(process string) bool { return process != "" && process != strconv.Itoa(os.Getpid()) }
