package stun

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/pion/stun/v2"
)

// Check is what a connectivity check says (RFC 8445 §7.1).
type Check struct {
	Local    string      // the sender's fragment
	Remote   Credentials // the receiver's
	Role     Role        // NoRole: says none
	Tie      uint64      // with the role
	Priority uint32      // of the peer-reflexive candidate; 0: says none
	Nominate bool
}

// Message returns the message and its transaction ID. It fails if the fragments
// are longer than a USERNAME may be.
func (c Check) Message() (b []byte, id TransactionID, err error) {
	set := []stun.Setter{stun.BindingRequest, stun.TransactionID, stun.NewUsername(c.Remote.Ufrag + ":" + c.Local)}
	if c.Priority != 0 {
		set = append(set, stun.RawAttribute{Type: stun.AttrPriority, Value: binary.BigEndian.AppendUint32(nil, c.Priority)})
	}
	if c.Role != NoRole {
		kind := stun.AttrICEControlled
		if c.Role == Controlling {
			kind = stun.AttrICEControlling
		}
		set = append(set, stun.RawAttribute{Type: kind, Value: binary.BigEndian.AppendUint64(nil, c.Tie)})
	}
	if c.Nominate {
		set = append(set, stun.RawAttribute{Type: stun.AttrUseCandidate})
	}
	m, err := stun.Build(append(set, stun.NewShortTermIntegrity(c.Remote.Pwd), stun.Fingerprint)...)
	if err != nil {
		return nil, id, fmt.Errorf("connectivity check: %w", err)
	}
	return m.Raw, m.TransactionID, nil
}

// Question returns a Binding request of nobody in particular: the response says
// where it came from.
func Question() (b []byte, id TransactionID) {
	m := stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.Fingerprint) // fixed attributes
	return m.Raw, m.TransactionID
}

// Mapped returns the response to a question that came from an address; other is another
// address that answers questions (RFC 5780 §7.4), invalid if there is none.
func Mapped(id TransactionID, from, other netip.AddrPort) ([]byte, error) {
	if !other.IsValid() {
		return Success(id, from, "")
	}
	return success(id, from, &stun.OtherAddress{IP: other.Addr().AsSlice(), Port: int(other.Port())})
}

// Success returns the response to a request that came from an address; its
// integrity is made with pwd, unless that is "".
func Success(id TransactionID, from netip.AddrPort, pwd string) ([]byte, error) {
	if pwd == "" {
		return success(id, from)
	}
	return success(id, from, stun.NewShortTermIntegrity(pwd))
}

func success(id TransactionID, from netip.AddrPort, more ...stun.Setter) ([]byte, error) {
	set := append([]stun.Setter{
		stun.NewTransactionIDSetter(id), stun.BindingSuccess,
		&stun.XORMappedAddress{IP: from.Addr().AsSlice(), Port: int(from.Port())},
	}, more...)
	m, err := stun.Build(append(set, stun.Fingerprint)...)
	if err != nil {
		return nil, fmt.Errorf("STUN response: %w", err)
	}
	return m.Raw, nil
}

// Answer returns the response to a check whose integrity was made with pwd, and
// false if it was not. request is borrowed.
func Answer(request []byte, from netip.AddrPort, pwd string) ([]byte, bool) {
	m, err := Parse(request)
	if err != nil || !m.Verify(pwd) {
		return nil, false
	}
	b, err := Success(m.ID(), from, pwd)
	return b, err == nil
}
