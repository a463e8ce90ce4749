package tun

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	wgtun "golang.zx2c4.com/wireguard/tun"
)

// A device that is closed while the kernel tells of it is closed without an
// error, which happens where the library's goroutine ends before it is woken.
// Any other error of a Close is told.
func TestCloseWhileHearing(t *testing.T) {
	other := errors.New("the device's file")
	for _, c := range []struct{ says, want error }{
		{nil, nil},
		{&fs.PathError{Op: "write", Path: "|1", Err: os.ErrClosed}, nil},
		{other, other},
	} {
		if err := (&device{wg: closing{err: c.says}}).close(); err != c.want {
			t.Errorf("the library says %v, close says %v", c.says, err)
		}
	}
}

// closing is a device of the library that says err when it is closed.
type closing struct {
	wgtun.Device
	err error
}

func (c closing) Close() error { return c.err }
