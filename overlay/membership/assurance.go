package membership

import (
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/idloc/idloc/overlay/membership/canon"
)

const (
	assuranceVersion   = 1
	assuranceStatement = "assurance"

	// MaxAssurance bounds an assurance's size in bytes.
	MaxAssurance = 512
)

// Assurance is an issuer's word that it knew of no newer revocation list than that of a
// number, at a time: whoever has that list and a young assurance is not cut off from
// what was revoked. A delegate can give it wrongly, as long as it is one.
type Assurance struct {
	Number   uint64    // of the list, its Rank; 0: nothing was ever said
	At       time.Time // by the issuer's clock
	Delegate Key       // whose word it is; zero: the root's
	began    time.Time // the delegation

	authority Key       // by whose word it is
	granted   time.Time // and when that gave it: the assurance, or the delegation
}

// Assure returns an assurance of an issuer's:
//
//	version 1 | number uvarint | at uvarint, seconds since 1970 | chain length 2 | chain to the delegate, empty: the root's | signature 64
func (i *Issuer) Assure(l *RevocationList, now time.Time) ([]byte, error) {
	if end := i.grant.end; !end.IsZero() && !end.After(now) {
		return nil, &TimeError{ErrExpired, "delegate certificate of the issuer", end, now}
	}
	b := binary.AppendUvarint([]byte{assuranceVersion}, l.Rank())
	b = binary.AppendUvarint(b, uint64(now.Unix()))
	var above []byte
	if !i.IsRoot() {
		above = i.chain.append(nil)
	}
	b = canon.AppendLong(b, above)
	sig, err := canon.Sign(i.key, i.overlay.domain(assuranceStatement), b)
	return append(b, sig...), err
}

// ReadAssurance reads what an assurance says without asking who has signed it. b is
// borrowed.
func ReadAssurance(b []byte) (Assurance, error) {
	a, _, err := parseAssurance(b)
	return a, err
}

func parseAssurance(b []byte) (a Assurance, above []byte, err error) {
	if len(b) > MaxAssurance {
		return a, nil, fmt.Errorf("assurance: %w: %d bytes", ErrTooLarge, len(b))
	}
	r := canon.NewReader(b)
	if v := r.Byte(); r.Err() == nil && v != assuranceVersion {
		return a, nil, fmt.Errorf("assurance: %w (version %d)", ErrVersion, v)
	}
	a.Number, a.At = r.Uvarint(), ReadTime(r)
	above = r.Long()
	r.Bytes(canon.SignatureSize)
	if err := r.End(); err != nil {
		return a, nil, fmt.Errorf("assurance: %w", err)
	}
	return a, above, nil
}

// OpenAssurance returns what an assurance says if an issuer has given it that is one
// now, and not later than now, as far as clocks agree. b is borrowed.
func OpenAssurance(b []byte, o Overlay, now time.Time, rev *RevocationList) (Assurance, error) {
	a, above, err := parseAssurance(b)
	if err != nil {
		return Assurance{}, err
	}
	if a.At.After(now.Add(Tolerance)) {
		return Assurance{}, &TimeError{ErrNotYetValid, "assurance", a.At, now}
	}
	signers := rev.rulesOf(o).signers(now)
	if len(above) > 0 {
		ch, err := parseChain(above)
		if err != nil {
			return Assurance{}, fmt.Errorf("assurance: %w", err)
		}
		c := ch.leaf()
		if c.Kind != KindDelegate || len(ch.links) != 1 {
			return Assurance{}, fmt.Errorf("assurance: %w: of a %v", ErrKind, c.Kind)
		}
		if err := ch.verify(o, now, rev); err != nil {
			return Assurance{}, fmt.Errorf("assurance: %w", err)
		}
		signers, a.Delegate, a.began = []Key{c.Subject}, c.Subject, c.NotBefore
		a.authority, a.granted = ch.authority, c.NotBefore
	}
	body := b[:len(b)-ed25519.SignatureSize]
	i, err := canon.VerifyAny(signers, o.domain(assuranceStatement), body, b[len(body):])
	if err != nil {
		return Assurance{}, fmt.Errorf("assurance: %w", err)
	}
	if len(above) == 0 {
		a.authority, a.granted = signers[i], a.At
	}
	if err := rev.rules().granted(a.authority, a.granted); err != nil {
		return Assurance{}, fmt.Errorf("assurance: %w", err)
	}
	return a, nil
}

// Stands says whether a list, which may be newer than when the assurance was opened,
// lets the word count of whose it is.
func (a Assurance) Stands(l *RevocationList) bool {
	return l.rules().granted(a.authority, a.granted) == nil && (a.Delegate.IsZero() || !l.voids(a.Delegate, a.began))
}
