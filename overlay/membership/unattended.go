package membership

import (
	"errors"
	"time"
)

// VerifyAsOf is VerifyChain where no authority has been heard of since a time, asOf: a
// confirmed member whose certificate has ended since then is one still, as nobody could
// have renewed it. That is so for as long as the authorities say (Unattended). Whoever
// was revoked is none, as everywhere.
func VerifyAsOf(chain []byte, o Overlay, now, asOf time.Time, rev *RevocationList) (*Member, error) {
	m, err := VerifyChain(chain, o, now, rev)
	if err == nil || !errors.Is(err, ErrExpired) {
		return m, err
	}
	gone, lapsed := VerifyLapsed(chain, o, now, rev)
	if lapsed != nil || !gone.Unattended(now, asOf, rev) {
		return nil, err
	}
	return gone, nil
}

// Unattended says whether a member is one although its certificate has ended: VerifyAsOf.
// Not if an authority has signed for it that was removed, which could have dated it back.
func (m *Member) Unattended(now, asOf time.Time, rev *RevocationList) bool {
	return m.Confirmed && !rev.WasAuthority(m.Authority) && !m.NotAfter.Before(asOf.Add(-Tolerance)) && !now.After(m.NotAfter.Add(rev.Unattended()))
}
