package admission

import (
	"bytes"
	"fmt"

	"github.com/idloc/idloc/overlay/field"
	"github.com/idloc/idloc/overlay/membership"
)

// The confirm protocol: one question, one answer.
//
//	question: version 1 | hops 1 | label length 1 | label | chain length 2 | chain
//	answer:   status 1 | text length 1 | label or reason |
//	          chain length 2 | chain | delegation length 2 | delegation
//
// A member that cannot confirm passes the question on to one that can (hops
// 1), so that a joiner needs to reach only one member.
const (
	confirmVersion = 1
	confirmOK      = 0
	confirmRefused = 1 // for good: the label or the token is another's
	confirmNobody  = 2 // nobody here can
	confirmUsed    = 3 // refused for good: the token has let in as many others as it is for
)

type confirmQuestion struct {
	hops  uint8
	label string
	chain []byte
}

type confirmAnswer struct {
	status     uint8
	text       string
	chain      []byte
	delegation []byte
}

func (q confirmQuestion) append(b []byte) []byte {
	return field.Append16(field.Append8(append(b, confirmVersion, q.hops), []byte(q.label)), q.chain)
}

func (a confirmAnswer) append(b []byte) []byte {
	text := a.text[:min(len(a.text), 255)]
	return field.Append16(field.Append16(field.Append8(append(b, a.status), []byte(text)), a.chain), a.delegation)
}

func readConfirmQuestion(b []byte) (confirmQuestion, error) {
	f := field.NewReader(bytes.NewReader(b))
	if v := f.Uint8(); v != confirmVersion {
		f.Fail(fmt.Errorf("confirm: version %d", v))
	}
	q := confirmQuestion{hops: f.Uint8(), label: string(f.Short8()), chain: f.Short16(membership.MaxChain)}
	return q, f.Err()
}

func readConfirmAnswer(b []byte) (confirmAnswer, error) {
	f := field.NewReader(bytes.NewReader(b))
	a := confirmAnswer{status: f.Uint8(), text: string(f.Short8()), chain: f.Short16(membership.MaxChain), delegation: f.Short16(membership.MaxChain)}
	return a, f.Err()
}
