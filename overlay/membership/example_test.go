package membership_test

import (
	"crypto/ed25519"
	"fmt"
	"time"

	"github.com/idloc/idloc/overlay/membership"
)

// From founding an overlay to a confirmed member and its revocation.
func Example() {
	now := time.Now()
	root, err := membership.NewRoot("example.com")
	if err != nil {
		panic(err)
	}
	token, err := root.Issuer().Invite(membership.InviteOptions{Label: "mars"}, now)
	if err != nil {
		panic(err)
	}
	text := token.String() // goes to whoever shall join

	token, err = membership.ParseToken(text)
	if err != nil {
		panic(err)
	}
	_, key, _ := ed25519.GenerateKey(nil)
	chain, err := token.SelfIssue(key, "", now)
	if err != nil {
		panic(err)
	}
	m, err := membership.VerifyChain(chain, root.Overlay(), now, nil)
	fmt.Println(m.Label, m.Confirmed, err)

	chain, err = membership.Confirm(root.Issuer(), chain, "mars", 1, now, nil)
	if err != nil {
		panic(err)
	}
	m, err = membership.VerifyChain(chain, root.Overlay(), now, nil)
	fmt.Println(m.Label, m.Confirmed, err)

	list, err := root.Revoke(nil, now, membership.Revocation{Kind: membership.RevokePeer, Key: membership.KeyOf(m.Peer)})
	if err != nil {
		panic(err)
	}
	_, err = membership.VerifyChain(chain, root.Overlay(), now, list)
	fmt.Println(err)
	// Output:
	// mars false <nil>
	// mars true <nil>
	// confirmed member certificate: revoked (list 1)
}
