package membership

import (
	"bytes"
	"crypto/ed25519"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/peerid"
)

// The fixed world of the tests: keys from seeds, one instant.
var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func seedKey(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func idOf(key ed25519.PrivateKey) peerid.ID {
	return peerid.ID(key.Public().(ed25519.PublicKey))
}

func testRoot(t testing.TB) *Root {
	t.Helper()
	r, err := newRoot("example.com", bytes.Repeat([]byte{1}, ed25519.SeedSize))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestJoin(t *testing.T) {
	root := testRoot(t)
	token := must(root.Issuer().Invite(InviteOptions{Label: "mars", Roles: RoleRelay}, epoch))(t)
	token = must(ParseToken("  " + token.String() + "\n"))(t)
	mars := seedKey(9)
	chain := must(token.SelfIssue(mars, "", epoch))(t)
	m := must(VerifyChain(chain, root.Overlay(), epoch, nil))(t)
	if m.Peer != idOf(mars) || m.Label != "mars" || m.Wildcard || m.Confirmed || m.Roles != RoleRelay {
		t.Errorf("provisional member: %+v", m)
	}
	chain = must(Confirm(root.Issuer(), chain, "mars", 7, epoch, nil))(t)
	m = must(VerifyChain(chain, root.Overlay(), epoch, nil))(t)
	if !m.Confirmed || m.Serial != 7 || m.Invitation != token.Invitation().Subject {
		t.Errorf("confirmed member: %+v", m)
	}
}
