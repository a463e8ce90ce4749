package tun

import (
	"time"

	"github.com/idloc/idloc/internal/netconn"
)

// What netstack's conns have beyond package net's. Here the kernel does it. The
// class of a conn is in the IP headers that it sends to the device, where the
// shim reads it as it does netstack's.

// SetTrafficClass is as in netstack.
func (c *tcpConn) SetTrafficClass(class int) error { return netconn.SetTrafficClass(c.TCPConn, class) }

// TrafficClass is as in netstack.
func (c *tcpConn) TrafficClass() (int, error) { return netconn.TrafficClass(c.TCPConn) }

// SetUserTimeout is as in netstack.
func (c *tcpConn) SetUserTimeout(d time.Duration) error { return netconn.SetUserTimeout(c.TCPConn, d) }

// Info is the kernel's TCP_INFO.
func (c *tcpConn) Info() (netconn.TCPInfo, error) { return netconn.Info(c.TCPConn) }

// SetTrafficClass is as in netstack.
func (c *udpConn) SetTrafficClass(class int) error { return netconn.SetTrafficClass(c.UDPConn, class) }

// TrafficClass is as in netstack.
func (c *udpConn) TrafficClass() (int, error) { return netconn.TrafficClass(c.UDPConn) }

// ReadBatch is as in netstack, but reads one datagram at a time.
func (c *udpConn) ReadBatch(ms []netconn.Message) (int, error) {
	return netconn.ReadOne(c.UDPConn, ms)
}

// WriteBatch is as in netstack, with a system call for each.
func (c *udpConn) WriteBatch(ms []netconn.Message) (int, error) {
	return netconn.WriteEach(c.UDPConn, ms)
}

// WriteBatch sends to LSIs only.
func (c *inside) WriteBatch(ms []netconn.Message) (int, error) {
	for i := range ms {
		n, err := c.WriteToUDPAddrPort(ms[i].Buf, ms[i].Addr)
		if err != nil {
			if i > 0 {
				err = nil // the next call will meet it
			}
			return i, err
		}
		ms[i].N = n
	}
	return len(ms), nil
}

var (
	_ interface {
		SetTrafficClass(class int) error
		TrafficClass() (int, error)
		SetUserTimeout(d time.Duration) error
		Info() (netconn.TCPInfo, error)
	} = (*tcpConn)(nil)
	_ batcher = (*udpConn)(nil)
	_ batcher = (*inside)(nil)
)

type batcher interface {
	SetTrafficClass(class int) error
	ReadBatch(ms []netconn.Message) (int, error)
	WriteBatch(ms []netconn.Message) (int, error)
}
