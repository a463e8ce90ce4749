package stun

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/pion/stun/v2"
)

// ErrMessage says that bytes are no STUN message, or not one of those that were
// asked for.
var ErrMessage = errors.New("not a STUN message of a connectivity check")

// Role says which side of a session nominates (RFC 8445 §6.1.1).
type Role uint8

const (
	NoRole Role = iota // a message that names none
	Controlling
	Controlled
)

// Credentials are one side's of a session (RFC 8445 §5.3).
type Credentials struct{ Ufrag, Pwd string }

// Message is a message that was read. It must not be used concurrently.
type Message struct{ m *stun.Message }

// Parse reads a whole message. b is copied.
func Parse(b []byte) (Message, error) { return ParseOwned(slices.Clone(b)) }

// ParseOwned is Parse for bytes that nobody else uses any more.
func ParseOwned(b []byte) (Message, error) {
	m := &stun.Message{Raw: b}
	if err := m.Decode(); err != nil {
		return Message{}, fmt.Errorf("%w: %v", ErrMessage, err)
	}
	return Message{m}, nil
}

// ID returns the transaction ID.
func (m Message) ID() TransactionID { return m.m.TransactionID }

// IsRequest says whether m is a Binding request.
func (m Message) IsRequest() bool { return m.m.Type == stun.BindingRequest }

// IsSuccess says whether m is a Binding success response.
func (m Message) IsSuccess() bool { return m.m.Type == stun.BindingSuccess }

// Verify says whether MESSAGE-INTEGRITY was made with pwd (RFC 8489 §14.5,
// short-term credentials).
func (m Message) Verify(pwd string) bool {
	return stun.NewShortTermIntegrity(pwd).Check(m.m) == nil
}

// Users returns both parts of USERNAME: the receiver's fragment and the
// sender's. ok is false if there is no USERNAME.
func (m Message) Users() (receiver, sender string, ok bool) {
	var name stun.Username
	if name.GetFrom(m.m) != nil {
		return "", "", false
	}
	receiver, sender, _ = strings.Cut(name.String(), ":")
	return receiver, sender, true
}

// Role returns the role that the sender of a check says it has.
func (m Message) Role() Role {
	switch {
	case m.m.Contains(stun.AttrICEControlling):
		return Controlling
	case m.m.Contains(stun.AttrICEControlled):
		return Controlled
	}
	return NoRole
}

// Nominates says whether USE-CANDIDATE is there (RFC 8445 §7.1.1).
func (m Message) Nominates() bool { return m.m.Contains(stun.AttrUseCandidate) }

// Mapped returns XOR-MAPPED-ADDRESS of a success response.
func (m Message) Mapped() (netip.AddrPort, bool) {
	var x stun.XORMappedAddress
	if !m.IsSuccess() || x.GetFrom(m.m) != nil {
		return netip.AddrPort{}, false
	}
	ip, ok := netip.AddrFromSlice(x.IP)
	if !ok || x.Port <= 0 || x.Port > 65535 {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(x.Port)), true
}

// Other returns the port of OTHER-ADDRESS in a success response (RFC 5780 §7.4). Its IP
// address does not matter here: nothing is sent to an address that a server names.
func (m Message) Other() (port uint16, ok bool) {
	var x stun.OtherAddress
	if !m.IsSuccess() || x.GetFrom(m.m) != nil || x.Port <= 0 || x.Port > 65535 {
		return 0, false
	}
	return uint16(x.Port), true
}

// RoleOf is Message.Role of a datagram; NoRole if it cannot be read. b is
// borrowed.
func RoleOf(b []byte) Role {
	m, err := ParseOwned(b) // reads only
	if err != nil {
		return NoRole
	}
	return m.Role()
}

// Nominates is Message.Nominates of a datagram; false if it cannot be read. b is
// borrowed.
func Nominates(b []byte) bool {
	m, err := ParseOwned(b) // reads only
	return err == nil && m.Nominates()
}

// Verified says whether b is a message whose integrity was made with pwd. b is
// borrowed.
func Verified(b []byte, pwd string) bool {
	m, err := Parse(b)
	return err == nil && m.Verify(pwd)
}

// IsAnswer says whether b is a success response that was made with pwd. b is
// borrowed.
func IsAnswer(b []byte, pwd string) bool {
	m, err := Parse(b)
	return err == nil && m.IsSuccess() && m.Verify(pwd)
}
