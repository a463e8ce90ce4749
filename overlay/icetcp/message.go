package icetcp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"

	"github.com/pion/stun/v2"
)

// maxMessage bounds a framed message; ours have about 150 bytes.
const maxMessage = 1280

var errMessage = errors.New("not a message of a connectivity check")

// readMessage reads one STUN message in the framing of RFC 4571, and not a
// byte beyond it.
func readMessage(r io.Reader) (*stun.Message, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n < 20 || n > maxMessage {
		return nil, fmt.Errorf("%w: %d bytes", errMessage, n)
	}
	m := &stun.Message{Raw: make([]byte, n)}
	if _, err := io.ReadFull(r, m.Raw); err != nil {
		return nil, err
	}
	if err := m.Decode(); err != nil {
		return nil, fmt.Errorf("%w: %v", errMessage, err)
	}
	return m, nil
}

// writeMessage sends a message and its frame in one write.
func writeMessage(w io.Writer, m *stun.Message) error {
	b := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(m.Raw)), uint16(len(m.Raw)))
	_, err := w.Write(append(b, m.Raw...))
	return err
}

// credentials of a session's two sides (RFC 8445 §5.3).
type credentials struct{ ufrag, pwd string }

// request makes a connectivity check (RFC 8445 §7.1).
func request(local, remote credentials, controlling, nominate bool, tie uint64, priority uint32) (*stun.Message, error) {
	role := stun.AttrICEControlled
	if controlling {
		role = stun.AttrICEControlling
	}
	set := []stun.Setter{
		stun.BindingRequest, stun.TransactionID,
		stun.NewUsername(remote.ufrag + ":" + local.ufrag),
		stun.RawAttribute{Type: stun.AttrPriority, Value: binary.BigEndian.AppendUint32(nil, priority)},
		stun.RawAttribute{Type: role, Value: binary.BigEndian.AppendUint64(nil, tie)},
	}
	if nominate {
		set = append(set, stun.RawAttribute{Type: stun.AttrUseCandidate})
	}
	return stun.Build(append(set, stun.NewShortTermIntegrity(remote.pwd), stun.Fingerprint)...)
}

// verifyRequest checks a request of the peer's.
func verifyRequest(m *stun.Message, local, remote credentials, controlling bool) error {
	var name stun.Username
	if err := name.GetFrom(m); err != nil || name.String() != local.ufrag+":"+remote.ufrag {
		return fmt.Errorf("%w: user name", errMessage)
	}
	if err := stun.NewShortTermIntegrity(local.pwd).Check(m); err != nil {
		return fmt.Errorf("%w: %v", errMessage, err)
	}
	if controlling == m.Contains(stun.AttrICEControlling) {
		return fmt.Errorf("%w: both sides have one role", errMessage)
	}
	return nil
}

// success answers a request.
func success(m *stun.Message, from netip.AddrPort, pwd string) (*stun.Message, error) {
	set := []stun.Setter{
		stun.NewTransactionIDSetter(m.TransactionID), stun.BindingSuccess,
		&stun.XORMappedAddress{IP: from.Addr().AsSlice(), Port: int(from.Port())},
	}
	if pwd != "" {
		set = append(set, stun.NewShortTermIntegrity(pwd))
	}
	return stun.Build(append(set, stun.Fingerprint)...)
}

// mappedAddress reads what a server saw.
func mappedAddress(m *stun.Message) (netip.AddrPort, bool) {
	var x stun.XORMappedAddress
	if m.Type != stun.BindingSuccess || x.GetFrom(m) != nil {
		return netip.AddrPort{}, false
	}
	ip, ok := netip.AddrFromSlice(x.IP)
	return netip.AddrPortFrom(ip.Unmap(), uint16(x.Port)), ok && x.Port > 0 && x.Port < 1<<16
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}
