package tcp

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"

	"github.com/idloc/idloc/overlay/ice/stun"
)

// maxMessage bounds a framed message; ours have about 150 bytes.
const maxMessage = 1280

// readMessage reads one STUN message in the framing of RFC 4571, and not a
// byte beyond it.
func readMessage(r io.Reader) (stun.Message, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return stun.Message{}, err
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n < 20 || n > maxMessage {
		return stun.Message{}, fmt.Errorf("%w: %d bytes", stun.ErrMessage, n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return stun.Message{}, err
	}
	return stun.ParseOwned(b)
}

// writeMessage sends a message and its frame in one write.
func writeMessage(w io.Writer, m []byte) error {
	b := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(m)), uint16(len(m)))
	_, err := w.Write(append(b, m...))
	return err
}

// verifyRequest checks a request of the peer's.
func verifyRequest(m stun.Message, local, remote stun.Credentials, controlling bool) error {
	if receiver, sender, ok := m.Users(); !ok || receiver != local.Ufrag || sender != remote.Ufrag {
		return fmt.Errorf("%w: user name", stun.ErrMessage)
	}
	if !m.Verify(local.Pwd) {
		return fmt.Errorf("%w: integrity", stun.ErrMessage)
	}
	if controlling == (m.Role() == stun.Controlling) {
		return fmt.Errorf("%w: both sides have one role", stun.ErrMessage)
	}
	return nil
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}
