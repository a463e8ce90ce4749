package membership

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/idloc/idloc/overlay/membership/canon"
)

const (
	policyVersion   = 1
	policyStatement = "policy"

	// MaxPolicyText bounds the text of a policy, in bytes.
	MaxPolicyText = 32 << 10
	// MaxPolicy bounds a policy as members exchange it, in bytes.
	MaxPolicy = MaxPolicyText + 128
)

// Policy is the founder's word on who may open what at whom: a text, of which package
// grants knows the form. Members carry it as they carry the revocation list; the one with
// the highest number is in force. It is immutable. A nil one is that of an overlay in
// which the founder has never said anything.
type Policy struct {
	number uint64
	at     time.Time
	text   string
	bytes  []byte
}

// Number orders policies; 0 for a nil one.
func (p *Policy) Number() uint64 {
	if p == nil {
		return 0
	}
	return p.number
}

// At is when the founder signed it, by its clock.
func (p *Policy) At() time.Time {
	if p == nil {
		return time.Time{}
	}
	return p.at
}

// Text is what it says; "" for a nil one.
func (p *Policy) Text() string {
	if p == nil {
		return ""
	}
	return p.text
}

// Bytes is the form that OpenPolicy takes; nil for a nil one. It is not to be changed.
func (p *Policy) Bytes() []byte {
	if p == nil {
		return nil
	}
	return p.bytes
}

// SignPolicy returns a policy that comes after old, which may be nil. Its number is the
// time in milliseconds, or the next after old's: a founder that was restored from an older
// copy of its state signs none with the number of one that is there.
//
//	version 1 | number uvarint | at uvarint, seconds since 1970 | text length 2 | text | signature 64
func (r *Root) SignPolicy(old *Policy, text string, now time.Time) (*Policy, error) {
	if len(text) > MaxPolicyText {
		return nil, fmt.Errorf("policy: %w: %d bytes, at most %d", ErrTooLarge, len(text), MaxPolicyText)
	}
	number := max(serialAt(now), old.Number()+1)
	b := binary.AppendUvarint([]byte{policyVersion}, number)
	b = AppendTime(b, now)
	b = canon.AppendLong(b, []byte(text))
	sig, err := canon.Sign(r.key, r.overlay.domain(policyStatement), b)
	if err != nil {
		return nil, err
	}
	return OpenPolicy(append(b, sig...), r.overlay)
}

// OpenPolicy returns the policy in b if the founder of the overlay has signed it. b is
// borrowed.
func OpenPolicy(b []byte, o Overlay) (*Policy, error) {
	if len(b) > MaxPolicy {
		return nil, fmt.Errorf("policy: %w: %d bytes", ErrTooLarge, len(b))
	}
	r := canon.NewReader(b)
	if v := r.Byte(); r.Err() == nil && v != policyVersion {
		return nil, fmt.Errorf("policy: %w (version %d)", ErrVersion, v)
	}
	p := &Policy{number: r.Uvarint(), at: ReadTime(r), text: string(r.Long())}
	if r.Err() == nil && (p.number == 0 || len(p.text) > MaxPolicyText) {
		r.Fail("number %d, %d bytes of text", p.number, len(p.text))
	}
	sig := r.Bytes(canon.SignatureSize)
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	if err := canon.Verify(o.Root[:], o.domain(policyStatement), b[:len(b)-canon.SignatureSize], sig); err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	p.bytes = append([]byte(nil), b...)
	return p, nil
}
