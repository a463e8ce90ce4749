//go:build !linux

package carrier

import (
	"net"
	"time"
)

// roundTrip is not known here.
func roundTrip(*net.TCPConn) time.Duration { return 0 }

// limitUnsent bounds the kernel's buffer, which also holds what is on its way.
func limitUnsent(c *net.TCPConn, n int) { _ = c.SetWriteBuffer(max(4*n, 128<<10)) }

func acknowledger(*net.TCPConn) func() { return nil }
