package netconn

import (
	"net"
	"net/netip"
)

// Message is one datagram of ReadBatch or WriteBatch.
type Message struct {
	Buf  []byte         // where it is read to; what is sent. Borrowed for the call
	N    int            // how many bytes of Buf were read, or sent
	Addr netip.AddrPort // where it came from; where to, zero on a connected conn

	// Truncated: what was read was longer than Buf, and the rest is lost.
	Truncated bool
}

// MessageConn is what a UDP conn reads and writes single datagrams with.
type MessageConn interface {
	ReadMsgUDPAddrPort(b, oob []byte) (n, oobn, flags int, addr netip.AddrPort, err error)
	WriteMsgUDPAddrPort(b, oob []byte, addr netip.AddrPort) (n, oobn int, err error)
	LocalAddr() net.Addr
}

// ReadOne is ReadBatch for a conn that reads one datagram at a time.
func ReadOne(c MessageConn, ms []Message) (int, error) {
	if len(ms) == 0 {
		return 0, nil
	}
	m := &ms[0]
	n, _, flags, from, err := c.ReadMsgUDPAddrPort(m.Buf, nil)
	if err != nil {
		return 0, err
	}
	m.N, m.Addr, m.Truncated = n, from, flags&truncated != 0
	return 1, nil
}

// truncated is MSG_TRUNC of Linux.
const truncated = 0x20

// WriteEach is WriteBatch for a conn that sends one datagram at a time.
func WriteEach(c MessageConn, ms []Message) (int, error) {
	for i := range ms {
		n, _, err := c.WriteMsgUDPAddrPort(ms[i].Buf, nil, ms[i].Addr)
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
