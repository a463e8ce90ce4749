package pipe

import (
	"testing"

	"github.com/idloc/idloc/internal/peerid"
)

// TestOneAccountFillsNoRelay is the attack: 64 keys of one token take all bindings of a
// relay. They get those of their account, and others bind.
func TestOneAccountFillsNoRelay(t *testing.T) {
	t.Parallel()
	var r relays
	bind := func(account string, p, n int) *binding {
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
			if b := bind("a token", p, n); b != nil {
				held = append(held, b)
			}
		}
	}
	if len(held) != relayPerAccount {
		t.Errorf("64 keys of one token hold %d bindings", len(held))
	}
	for p := range relayTotal/relayPerMember - relayPerAccount/relayPerMember {
		for n := range relayPerMember {
			if bind(string(rune('b'+p)), 100+p, n) == nil {
				t.Fatalf("others bind %d times only", p*relayPerMember+n)
			}
		}
	}
	for _, b := range held {
		r.remove(b)
	}
	if b := bind("a token", 1, 1); b == nil {
		t.Error("what has ended is still charged")
	}
}
