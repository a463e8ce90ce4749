package membership

import (
	"errors"
	"testing"
	"time"
)

// What says who has used an invitation is believed from the root, and from a delegate
// while it is one; nothing else is taken for it, and it is taken for nothing else.
func TestVerifyUse(t *testing.T) {
	root := testRoot(t)
	o := root.Overlay()
	key, peer := seedKey(40), idOf(seedKey(41))
	delegate := must(NewDelegate(key, must(root.Delegate(idOf(key), 0, "", epoch.Add(24*time.Hour), epoch))(t), o, epoch, nil))(t)
	invitation := must(root.Issuer().Invite(InviteOptions{}, epoch))(t).Invitation().Subject
	byRoot := must(root.Issuer().Attest(peer, invitation, epoch))(t)
	byDelegate := must(delegate.Attest(peer, invitation, epoch))(t)
	void := must(root.Revoke(nil, epoch, Revocation{Kind: RevokeDelegate, Key: KeyOf(idOf(key)), Until: epoch.Add(LongestLife)}))(t)
	revoked := must(root.Revoke(nil, epoch, Revocation{Kind: RevokePeer, Key: KeyOf(peer), Until: epoch.Add(LongestLife)}))(t)
	member := must(root.Issuer().Issue(peer, MemberOptions{Invitation: invitation}, epoch))(t)
	flipped := append([]byte(nil), byRoot...)
	flipped[len(flipped)-1] ^= 1
	other := must(NewRoot("example.com"))(t).Overlay()
	for _, c := range []struct {
		what      string
		statement []byte
		o         Overlay
		at        time.Time
		rev       *RevocationList
		want      error
	}{
		{"the root", byRoot, o, epoch, nil, nil},
		{"the root, later", byRoot, o, epoch.Add(LongestLife), nil, nil},
		{"a delegate", byDelegate, o, epoch, nil, nil},
		{"of who was revoked", byRoot, o, epoch, revoked, nil},
		{"a delegate that was", byDelegate, o, epoch.Add(24*time.Hour + 2*Tolerance), nil, ErrExpired},
		{"a delegate that was revoked", byDelegate, o, epoch, void, ErrRevoked},
		{"a membership", member, o, epoch, nil, ErrIncomplete},
		{"another signature", flipped, o, epoch, nil, ErrSignature},
		{"another overlay", byRoot, other, epoch, nil, ErrWrongOverlay},
		{"nothing", nil, o, epoch, nil, ErrNonCanonical},
	} {
		m, err := VerifyUse(c.statement, c.o, c.at, c.rev)
		if !errors.Is(err, c.want) || c.want == nil && (m.Peer != peer || m.Invitation != invitation) {
			t.Errorf("%s: %+v, %v", c.what, m, err)
		}
	}
	for _, s := range [][]byte{byRoot, byDelegate} {
		for _, at := range []time.Time{time.Unix(1, 0), epoch.Add(-backdate), epoch} {
			if m, err := VerifyChain(s, o, at, nil); !errors.Is(err, ErrIncomplete) {
				t.Errorf("a membership: %+v, %v", m, err)
			}
		}
	}
}
