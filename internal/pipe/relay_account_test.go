package pipe

import (
	"fmt"
	"testing"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/peerid"
)

// TestOneAccountFillsNoRelay is the attack: 64 keys, of one token, or each of a token of its
// own that one delegate has written, take all bindings of a relay. They get their share, and
// others bind.
func TestOneAccountFillsNoRelay(t *testing.T) {
	t.Parallel()
	fillRelay(t, func(int) account.Account { return account.Account{Invitation: "a token"} }, relayPerAccount)
	fillRelay(t, func(p int) account.Account {
		return account.Account{Invitation: fmt.Sprint("token ", p), Delegate: "a delegate"}
	}, 2*relayPerAccount)
}

func fillRelay(t *testing.T, charged func(p int) account.Account, most int) {
	var r relays
	bind := func(account account.Account, p, n int) *binding {
		b := &binding{key: bindingKey{low: peerid.ID{1, byte(p), byte(p >> 8)}, high: peerid.ID{2}, session: [16]byte{byte(n), byte(p), byte(p >> 8)}}}
		l := &b.legs[0]
		l.binding, l.other, l.peer = b, &b.legs[1], b.key.low
		if !r.enter(l, account, relayRate, 1) {
			return nil
		}
		l.at = 1
		r.bindings[b.key] = b
		return b
	}
	var held []*binding
	for p := range 64 {
		for n := range relayPerMember {
			if b := bind(charged(p), p, n); b != nil {
				held = append(held, b)
			}
		}
	}
	if len(held) != most {
		t.Errorf("64 keys hold %d bindings, want %d", len(held), most)
	}
	for p := range (relayTotal - most) / relayPerMember {
		for n := range relayPerMember {
			if bind(account.Account{Invitation: string(rune('b' + p))}, 100+p, n) == nil {
				t.Fatalf("others bind %d times only", p*relayPerMember+n)
			}
		}
	}
	for _, b := range held {
		r.remove(b)
	}
	if b := bind(charged(1), 1, 1); b == nil {
		t.Error("what has ended is still charged")
	}
}
