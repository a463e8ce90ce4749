package membership

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/idloc/idloc/overlay/membership/canon"
)

// MaxPolicyText bounds the text of a policy, in bytes.
const MaxPolicyText = 32 << 10

// Policy is the authorities' word on who may open what at whom: a text, of which package
// grants knows the form. It stands in the revocation list. It is immutable. A nil one is
// that of an overlay in which nothing was ever said of it.
type Policy struct {
	number uint64
	at     time.Time
	text   string
}

// Number orders policies; 0 for a nil one.
func (p *Policy) Number() uint64 {
	if p == nil {
		return 0
	}
	return p.number
}

// At is when it was signed.
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

// newPolicy returns a policy that comes after old. Its number is the time in milliseconds,
// or the next after old's: who was restored from an older copy of its state signs none with
// the number of one that is there.
func newPolicy(old *Policy, text string, at time.Time) (*Policy, error) {
	if len(text) > MaxPolicyText {
		return nil, fmt.Errorf("policy: %w: %d bytes, at most %d", ErrTooLarge, len(text), MaxPolicyText)
	}
	return &Policy{number: max(serialAt(at), old.Number()+1), at: at, text: text}, nil
}

func (p *Policy) append(b []byte) []byte {
	if p == nil {
		return append(b, 0)
	}
	b = AppendTime(binary.AppendUvarint(b, p.number), p.at)
	return canon.AppendLong(b, []byte(p.text))
}

func readPolicy(r *canon.Reader) *Policy {
	number := r.Uvarint()
	if number == 0 {
		return nil
	}
	p := &Policy{number: number, at: ReadTime(r), text: string(r.Long())}
	if len(p.text) > MaxPolicyText {
		r.Fail("a policy of %d bytes", len(p.text))
	}
	return p
}
