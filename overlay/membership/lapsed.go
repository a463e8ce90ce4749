package membership

import (
	"fmt"
	"time"
)

// VerifyLapsed says who a chain has made a confirmed member whose certificate has ended,
// no longer than RenewFor ago: whoever shows it and has its key is no member, and can be
// made one again. Nothing else follows from it.
//
// The list counts as it is now, and an entry stays in it for as long as this takes what
// it hits (RevokedFor): who was revoked is revoked here, too, at every later date. A
// provisional chain is not taken, as its holder has dated it itself: a token that has
// ended would admit for another year. Whether a delegate that has ended has dated one
// back is for the caller to ask (Member.DelegationEnd).
//
// chain is borrowed; a nil rev revokes nothing.
func VerifyLapsed(chain []byte, o Overlay, now time.Time, rev *RevocationList) (*Member, error) {
	ch, err := parseChain(chain)
	if err != nil {
		return nil, err
	}
	leaf := ch.leaf()
	if leaf.Kind != KindMember || !leaf.Confirmed || leaf.attests() {
		return nil, fmt.Errorf("%w that was confirmed", ErrIncomplete)
	}
	for _, l := range ch.links {
		if err := CheckTimes(l.cert.what(), l.cert.NotBefore, time.Time{}, now); err != nil {
			return nil, err
		}
	}
	if over := leaf.NotAfter.Add(RenewFor); now.After(over) {
		return nil, &TimeError{ErrExpired, "the time in which a member that was away can be renewed", over, now}
	}
	// All certificates above it last as long as it did.
	if err := ch.verify(o, leaf.NotAfter, rev); err != nil {
		return nil, err
	}
	return ch.member(), nil
}
