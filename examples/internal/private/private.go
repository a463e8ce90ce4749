// Package private makes the sockets by which the examples' commands talk to their running
// node.
package private

import (
	"net"
	"os"
	"path/filepath"
)

// Listen listens on a Unix socket that is its owner's alone from the first moment
// on, whatever umask and the folder's mode let others do: it is made in a folder of its
// own, which nobody else can enter, and moved when it has its mode.
func Listen(path string) (*net.UnixListener, error) {
	own, err := os.MkdirTemp(filepath.Dir(path), "")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(own)
	made := filepath.Join(own, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // it has another name by then
	if err = os.Chmod(made, 0o600); err == nil {
		err = os.Rename(made, path)
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}
