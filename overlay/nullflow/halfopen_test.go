package nullflow

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"testing"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/wire"
)

// TestHalfOpenOfOneToken is the attack: keys of one token hold what may be half open of
// it at a node, with offers of pipes, and make offers of flows besides. These are told
// that there is too much, and take no place of others', at a node that allows no flows
// either: who came by another token is answered.
func TestHalfOpenOfOneToken(t *testing.T) {
	t.Parallel()
	const keys, each = 64, 4 // as many as may be half open of one token; and of one key
	b, other := newSide(t, 2, wire.PolicyRefuse), newSide(t, 1, wire.PolicyRefuse)
	made := func(seed uint64) (*pipe.Endpoint, peerid.ID) {
		t.Helper()
		key := ed25519.NewKeyFromSeed(bytes.Repeat(binary.BigEndian.AppendUint64(nil, seed), 4))
		id, err := peerid.FromPublicKey(key.Public().(ed25519.PublicKey))
		if err != nil {
			t.Fatal(err)
		}
		charged := func(p peerid.ID) account.Account {
			if p == other.id {
				return account.Account{Invitation: "another token"}
			}
			return account.Account{Invitation: "a token"}
		}
		e, err := pipe.NewEndpoint(pipe.Config{Key: key, Overlay: [32]byte{1}, Handler: silent{}, Account: charged})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { e.Close() })
		return e, id
	}
	target, id := made(1000)
	offer := func(from *pipe.Endpoint, l pipe.Local) *pipe.Incoming {
		t.Helper()
		o, err := from.NewOffer(id, l)
		if err != nil {
			t.Fatal(err)
		}
		defer o.Cancel()
		in, err := target.ReadOffer(o.Bytes())
		if err != nil {
			t.Fatalf("an offer is not read: %v", err)
		}
		return in
	}
	var from []*pipe.Endpoint
	for i := range keys {
		e, _ := made(uint64(i))
		if _, _, err := offer(e, pipe.Local{}).Accept(pipe.Local{}); err != nil {
			t.Fatal(err)
		}
		from = append(from, e)
	}
	wrong := 0
	for range each - 1 {
		for _, e := range from {
			l := pipe.Local{Encapsulation: wire.Null, Flow: wire.Flow{
				Kind: wire.FlowOpen, Protocol: wire.FlowTCP, Policy: wire.PolicyPlain, ID: newFlowID(), OpenerPort: 1, ListenerPort: 2,
			}}
			if a := b.Answer(offer(e, l)); a.Verdict != Busy || len(a.Sealed) > 0 {
				wrong++
			}
		}
	}
	if wrong > 0 {
		t.Errorf("%d flows are told something else than that there is too much", wrong)
	}
	if _, _, err := offer(other.ends, pipe.Local{}).Accept(pipe.Local{}); err != nil {
		t.Errorf("of another token: %v", err)
	}
}
