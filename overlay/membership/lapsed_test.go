package membership

import (
	"errors"
	"testing"
	"time"
)

// Whose certificate has ended can be renewed for a time if it was confirmed, is not
// revoked now, and only by the overlay that it is of.
func TestVerifyLapsed(t *testing.T) {
	const day = 24 * time.Hour
	root, key, mars := testRoot(t), seedKey(5), seedKey(6)
	o, id := root.Overlay(), idOf(mars)
	list := func(at time.Time, kind RevocationKind, k Key) *RevocationList {
		return must(root.Revoke(nil, at, Revocation{Kind: kind, Key: k, Until: at.Add(time.Hour)}))(t)
	}
	token := must(root.Issuer().Invite(InviteOptions{Expires: 300 * day}, epoch))(t)
	provisional := must(token.SelfIssue(mars, "mars", epoch))(t)
	confirmed := must(Confirm(root.Issuer(), provisional, "mars", 7, epoch, nil))(t)
	invitation := must(VerifyChain(confirmed, o, epoch, nil))(t).Invitation
	delegate := must(NewDelegate(key, must(root.Delegate(idOf(key), RoleRelay, "", epoch.Add(40*day), epoch))(t), o, epoch, nil))(t)
	below := must(Confirm(delegate, provisional, "mars", 7, epoch, nil))(t)
	statement := must(root.Issuer().Attest(id, invitation, epoch))(t)
	other := must(NewRoot("example.com"))(t)
	end := must(VerifyChain(confirmed, o, epoch, nil))(t).NotAfter
	for desc, c := range map[string]struct {
		chain []byte
		o     Overlay
		now   time.Time
		rev   *RevocationList
		want  error
	}{
		"a day":                          {confirmed, o, end.Add(day), nil, nil},
		"as long as can be":              {confirmed, o, end.Add(RenewFor), nil, nil},
		"longer":                         {confirmed, o, end.Add(RenewFor + time.Second), nil, ErrExpired},
		"one that has not ended":         {confirmed, o, epoch, nil, nil},
		"before it began":                {confirmed, o, epoch.Add(-day), nil, ErrNotYetValid},
		"a provisional one":              {provisional, o, epoch.Add(35 * day), nil, ErrIncomplete},
		"a statement":                    {statement, o, epoch, nil, ErrIncomplete},
		"a token's":                      {token.chain.append(nil), o, epoch.Add(day), nil, ErrIncomplete},
		"of another overlay":             {confirmed, other.Overlay(), end.Add(day), nil, ErrWrongOverlay},
		"a delegate's":                   {below, o, epoch.Add(35 * day), nil, nil},
		"a delegate's that has ended":    {below, o, epoch.Add(300 * day), nil, nil}, // Member.DelegationEnd
		"revoked":                        {confirmed, o, end.Add(day), list(epoch, RevokePeer, KeyOf(id)), ErrRevoked},
		"revoked after its end":          {confirmed, o, end.Add(300 * day), list(end.Add(299*day), RevokePeer, KeyOf(id)), ErrRevoked},
		"with whom it came":              {confirmed, o, end.Add(day), list(epoch, RevokeInvited, invitation), ErrRevoked},
		"its token was":                  {confirmed, o, end.Add(day), list(epoch, RevokeInvitation, invitation), nil},
		"with its delegate":              {below, o, epoch.Add(300 * day), list(epoch, RevokeDelegate, KeyOf(idOf(key))), ErrRevoked},
		"with its delegate's membership": {below, o, epoch.Add(300 * day), list(epoch, RevokePeer, KeyOf(idOf(key))), ErrRevoked},
		"a list that nobody has signed":  {confirmed, o, end.Add(day), unverified(list(epoch, RevokePeer, Key{9})), ErrListUnverified},
		"cut":                            {confirmed[:len(confirmed)-1], o, end.Add(day), nil, ErrNonCanonical},
	} {
		m, err := VerifyLapsed(c.chain, c.o, c.now, c.rev)
		if !errors.Is(err, c.want) || (err == nil) != (m != nil && m.Peer == id && m.Label == "mars") {
			t.Errorf("%s: %+v, %v, want %v", desc, m, err, c.want)
		}
	}
	for i := range confirmed {
		bad := append([]byte(nil), confirmed...)
		bad[i] ^= 1
		if _, err := VerifyLapsed(bad, o, end.Add(day), nil); err == nil {
			t.Fatalf("with byte %d changed it is good", i)
		}
	}
	if m := must(VerifyLapsed(below, o, epoch.Add(300*day), nil))(t); !m.DelegationEnd.Equal(epoch.Add(40*day).Truncate(time.Second)) || m.Delegate != KeyOf(idOf(key)) {
		t.Errorf("its delegation ends %v", m.DelegationEnd)
	}
	// Who was made a member again is the same one.
	back := must(Readmit(root.Issuer(), below, "mars", 7, epoch.Add(300*day), nil))(t)
	if m := must(VerifyChain(back, o, epoch.Add(300*day), nil))(t); m.Peer != id || m.Serial != 7 || m.Invitation != invitation || !m.Wildcard {
		t.Errorf("back as %+v", m)
	}
	if _, err := Readmit(root.Issuer(), confirmed, "mars", 7, end.Add(day), list(epoch, RevokePeer, KeyOf(id))); !errors.Is(err, ErrRevoked) {
		t.Errorf("a revoked one is made a member again: %v", err)
	}
}
