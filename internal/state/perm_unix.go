//go:build unix

package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// checkDir refuses a directory in which others could replace the files: everybody, or a
// group, of which nothing says that it is the owner alone.
func checkDir(path string, info fs.FileInfo) error {
	if m := info.Mode().Perm(); m&0o022 != 0 {
		return fmt.Errorf("mode %04o lets other users write to it; chmod 700 %s", m, path)
	}
	return nil
}

// OthersSee says whether users other than the owner may look into a directory.
func OthersSee(dir fs.FileInfo) bool { return dir.Mode().Perm()&0o077 != 0 }

// checkFile refuses a file that others may read or write: it may hold a key.
func checkFile(info fs.FileInfo) error {
	if m := info.Mode().Perm(); m&0o077 != 0 {
		return fmt.Errorf("%w: mode %04o lets other users in; if that is in order, chmod 600", fs.ErrPermission, m)
	}
	return nil
}

// syncDir makes a rename durable. Some file systems cannot sync directories
// and say EINVAL; there is nothing better to do on them.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}

// writeRefused says whether err is that the disk, or the user's rights on it,
// take nothing new.
func writeRefused(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
