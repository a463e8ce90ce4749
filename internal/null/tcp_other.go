//go:build !linux

package null

import (
	"errors"
	"net"
	"os"
	"time"
)

var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3}

const (
	// MaxUnread is how much of what was sent here can lie unread: systems
	// round up what is asked for.
	MaxUnread = 2 * receiveBuffer
	// maxUnacked bounds what the system takes without an acknowledgement.
	maxUnacked = 2 * sendBuffer

	takePatience = 2 * time.Millisecond
)

// PrepareFD does nothing here: Prepare sets the buffers later.
func PrepareFD(uintptr) {}

func (c *tcpConn) Unacked() (int, bool) { return 0, false }
func (c *tcpConn) Silent() bool         { return false }
func (c *tcpConn) over() bool           { return true } // perhaps

func (c *tcpConn) Take(b []byte) (int, error) {
	_ = c.SetReadDeadline(time.Now().Add(takePatience))
	n, err := c.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil
	}
	return n, err
}
