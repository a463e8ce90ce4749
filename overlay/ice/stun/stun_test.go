package stun

import (
	"testing"

	"github.com/pion/stun/v2"
)

func TestUsername(t *testing.T) {
	m := stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.NewSoftware("x"), stun.NewUsername("mine:theirs"), stun.Fingerprint)
	if kind, id := Classify(m.Raw); kind != Request || id != m.TransactionID {
		t.Errorf("classified %v, %x", kind, id)
	}
	if got := string(Username(m.Raw)); got != "mine" {
		t.Errorf("fragment %q", got)
	}
	for i := range m.Raw {
		if kind, _ := Classify(m.Raw[:i]); kind != Other {
			t.Errorf("%d of %d bytes are a message", i, len(m.Raw))
		}
		m.Raw[i] ^= 1
		if kind, _ := Classify(m.Raw); kind != Other {
			t.Errorf("with another byte %d it is a message", i)
		}
		m.Raw[i] ^= 1
	}
	// A check has a fingerprint; who asks for its address need not have one.
	if kind, _ := Classify(stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.NewUsername("mine:theirs")).Raw); kind != Other {
		t.Error("a check without a fingerprint is a message")
	}
	if kind, _ := Classify(stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw); kind != Request {
		t.Error("a request without a fingerprint is none")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.NewUsername("mine:theirs"), stun.Fingerprint).Raw)
	f.Add(stun.MustBuild(stun.TransactionID, stun.BindingSuccess, &stun.XORMappedAddress{IP: []byte{192, 0, 2, 1}, Port: 7}).Raw)
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, id := Classify(b)
		if kind == Other {
			return
		}
		Username(b)
		Nominates(b)
		RoleOf(b)
		Verified(b, "password")
		m, err := Parse(b)
		if err != nil {
			return
		}
		if m.ID() != id || m.IsRequest() != (kind == Request) {
			t.Errorf("classified %v %x, parsed %x, request %v", kind, id, m.ID(), m.IsRequest())
		}
		m.Users()
		m.Mapped()
		m.Verify("password")
	})
}
