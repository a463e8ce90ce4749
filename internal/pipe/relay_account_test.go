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

// binds has a member ask for a binding; nil: it is refused.
func (r *relays) binds(of account.Account, p, n int) *binding {
	b := &binding{key: bindingKey{low: peerid.ID{1, byte(p), byte(p >> 8)}, high: peerid.ID{2}, session: [16]byte{byte(n), byte(p), byte(p >> 8)}}}
	for i, id := range []peerid.ID{b.key.low, b.key.high} {
		b.legs[i].binding, b.legs[i].other, b.legs[i].peer = b, &b.legs[1-i], id
	}
	l := &b.legs[0]
	if !r.enter(l, of, relayRate, 1) {
		return nil
	}
	l.at = 1
	r.bindings[b.key] = b
	return b
}

func fillRelay(t *testing.T, charged func(p int) account.Account, most int) {
	var r relays
	bind := r.binds
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

// TestFourDelegatesFillNoRelay is the attack: four delegates, or keys of eight tokens of the
// founder's, take all bindings of a relay, and ask again and again. Two that came by another
// token bind as often as they may, and both sides of a pair do; they keep what they have.
func TestFourDelegatesFillNoRelay(t *testing.T) {
	t.Parallel()
	for what, charged := range map[string]func(p int) account.Account{
		"delegates": func(p int) account.Account {
			return account.Account{Invitation: fmt.Sprint("token ", p), Delegate: fmt.Sprint("delegate ", p%4)}
		},
		"tokens": func(p int) account.Account { return account.Account{Invitation: fmt.Sprint("token ", p%8)} },
	} {
		var r relays
		flood := func(round int) {
			for p := range 2 * relayTotal / relayPerMember {
				for n := range relayPerMember {
					r.binds(charged(p), p, 100*round+n)
				}
			}
		}
		flood(0)
		if len(r.bindings) != relayTotal {
			t.Fatalf("%s: %d bindings, of %d", what, len(r.bindings), relayTotal)
		}
		friend := account.Account{Invitation: "another token"}
		var held []*binding
		for p := range 2 {
			for n := range relayPerMember {
				b := r.binds(friend, 1000+p, n)
				if b == nil {
					t.Fatalf("%s: others bind %d times only", what, len(held))
				}
				held = append(held, b)
			}
		}
		flood(1)
		for i, b := range held {
			if r.bindings[b.key] != b {
				t.Fatalf("%s: binding %d of others has ended for theirs", what, i)
			}
		}
		if !r.enter(&held[0].legs[1], account.Account{Invitation: "a third token"}, relayRate, 1) || len(r.bindings) != relayTotal {
			t.Errorf("%s: the other side of a pair is refused, or %d bindings", what, len(r.bindings))
		}
		held[0].legs[1].at = 1
		for _, b := range r.bindings {
			r.remove(b)
		}
		if r.sides.Len() != 0 {
			t.Errorf("%s: %d sides are charged when all have ended", what, r.sides.Len())
		}
	}
}
