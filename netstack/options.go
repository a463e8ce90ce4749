package netstack

import (
	"net"
	"os"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// SetNoDelay is net.TCPConn's: true, the default, sends small writes at once.
func (c *tcpConn) SetNoDelay(noDelay bool) error {
	return c.option(func(o *tcpip.SocketOptions) tcpip.Error {
		o.SetDelayOption(!noDelay)
		return nil
	})
}

// SetLinger is net.TCPConn's: below 0, the default, Close sends what was
// written in the background; 0 discards it and resets; above 0 Close waits, as
// on Linux, until the peer has acknowledged it or that many seconds are over,
// and then leaves the rest to the background.
func (c *tcpConn) SetLinger(sec int) error {
	return c.option(func(o *tcpip.SocketOptions) tcpip.Error {
		o.SetLinger(tcpip.LingerOption{Enabled: sec >= 0, Timeout: time.Duration(max(sec, 0)) * time.Second})
		return nil
	})
}

// SetUserTimeout is Linux' TCP_USER_TIMEOUT (RFC 5482): a connection ends with
// ETIMEDOUT when what it has sent, window probes included, was not acknowledged
// for d. 0, the default, leaves that to retransmission, for about a quarter of
// an hour; a peer that is unreachable meanwhile may come back.
func (c *tcpConn) SetUserTimeout(d time.Duration) error {
	if d < 0 {
		return c.opError("set", os.NewSyscallError("setsockopt", syscall.EINVAL))
	}
	return c.option(func(*tcpip.SocketOptions) tcpip.Error {
		o := tcpip.TCPUserTimeoutOption(d)
		return c.ep.SetSockOpt(&o)
	})
}

// SetKeepAlive is net.TCPConn's.
func (c *tcpConn) SetKeepAlive(on bool) error {
	return c.option(func(o *tcpip.SocketOptions) tcpip.Error {
		o.SetKeepAlive(on)
		return nil
	})
}

// SetKeepAlivePeriod is net.TCPConn's: the idle time before probes.
func (c *tcpConn) SetKeepAlivePeriod(d time.Duration) error {
	return c.option(func(*tcpip.SocketOptions) tcpip.Error {
		o := tcpip.KeepaliveIdleOption(d)
		return c.ep.SetSockOpt(&o)
	})
}

// SetKeepAliveConfig is net.TCPConn's, with the same defaults: 15 s, 15 s, 9;
// negative values leave things as they are.
func (c *tcpConn) SetKeepAliveConfig(cfg net.KeepAliveConfig) error {
	return c.option(func(o *tcpip.SocketOptions) tcpip.Error {
		if cfg.Idle == 0 {
			cfg.Idle = keepAlive
		}
		if cfg.Interval == 0 {
			cfg.Interval = keepAlive
		}
		if cfg.Count == 0 {
			cfg.Count = 9
		}
		idle, interval := tcpip.KeepaliveIdleOption(cfg.Idle), tcpip.KeepaliveIntervalOption(cfg.Interval)
		if idle > 0 {
			if err := c.ep.SetSockOpt(&idle); err != nil {
				return err
			}
		}
		if interval > 0 {
			if err := c.ep.SetSockOpt(&interval); err != nil {
				return err
			}
		}
		if cfg.Count > 0 {
			if err := c.ep.SetSockOptInt(tcpip.KeepaliveCountOption, cfg.Count); err != nil {
				return err
			}
		}
		o.SetKeepAlive(cfg.Enable)
		return nil
	})
}

// MultipathTCP is net.TCPConn's: it is not used. A pipe has several paths of
// its own.
func (c *tcpConn) MultipathTCP() (bool, error) {
	return false, nil
}

// SetReadBuffer is net.TCPConn's. It ends automatic tuning. As the kernel does,
// it takes any size and makes the nearest of it that there is, 4 KiB to 32 MiB.
func (c *tcpConn) SetReadBuffer(bytes int) error {
	if c.closed.Load() {
		return setError(c.network, c.laddr)
	}
	c.ep.SocketOptions().SetReceiveBufferSize(int64(min(max(bytes, tcpBufferMin), tcpReceiveMax)), true)
	c.unread.chosen()
	return nil
}

// SetWriteBuffer is net.TCPConn's. It ends automatic tuning. As the kernel does,
// it takes any size and makes the nearest of it that there is, 4 KiB to 16 MiB.
func (c *tcpConn) SetWriteBuffer(bytes int) error {
	if c.closed.Load() {
		return setError(c.network, c.laddr)
	}
	c.ownBuffer.Store(true)
	c.ep.SocketOptions().SetSendBufferSize(int64(min(max(bytes, tcpBufferMin), tcpBufferMax)), true)
	return nil
}

func (c *tcpConn) option(set func(*tcpip.SocketOptions) tcpip.Error) error {
	if err := c.alive("set"); err != nil {
		return err
	}
	if err := set(c.ep.SocketOptions()); err != nil {
		return c.opError("set", syscallError("setsockopt", sysError(err)))
	}
	return nil
}
