package pki

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/admission"
	"github.com/idloc/idloc/overlay/field"
	"github.com/idloc/idloc/overlay/membership"
)

const (
	version = 1
	maxKey  = 256  // bytes of a public key; one on P-256 has 91
	maxDER  = 2048 // of a certificate; they have some 800
	// maxAbove is how many certificates an answer has: the member's, and its delegate's.
	maxChain = 2
	askFor   = 4 * time.Second
)

// Protocol is how members ask, and Keeper.Answer answers.
var Protocol = admission.Protocol{
	Name: "x509", MaxRequest: 3 + (2 + membership.MaxChain) + (2 + maxKey) + ed25519.SignatureSize,
	MaxAnswer: 1 + (1 + 255) + 1 + maxChain*(2+maxDER) + 1 + MaxRoots*(peerid.Size+2+maxDER+ed25519.SignatureSize), Timeout: askFor,
}

// what is asked for.
type what byte

const (
	wantRoots    what = 0 // of the authorities, and nothing else
	wantMember   what = 1 // a member's certificate
	wantDelegate what = 2 // one to sign with
)

const (
	statusOK      = 0
	statusRefused = 1 // for good, as long as nothing changes
	statusNobody  = 2 // nobody here signs
)

type question struct {
	hops      uint8
	what      what
	chain     []byte // of the membership
	key       []byte // SubjectPublicKeyInfo
	signature []byte // of the member, with its identity
}

type answer struct {
	status byte
	text   string // why not
	certs  []*x509.Certificate
	roots  []root
}

// text is what the member signs.
func (q question) text(o membership.Overlay) []byte {
	return append([]byte("idloc-x509-question/1 "+hex.EncodeToString(o.ID[:])+"\x00"+string(rune(q.what))), q.key...)
}

func (q question) append(b []byte) []byte {
	b = field.Append16(append(b, version, q.hops, byte(q.what)), q.chain)
	return append(field.Append16(b, q.key), q.signature...)
}

func readQuestion(b []byte) (question, error) {
	r := bytes.NewReader(b)
	f := field.NewReader(r)
	if v := f.Uint8(); v != version {
		f.Fail(fmt.Errorf("pki: version %d", v))
	}
	q := question{hops: f.Uint8(), what: what(f.Uint8()), chain: f.Short16(membership.MaxChain), key: f.Short16(maxKey)}
	q.signature = f.Bytes(ed25519.SignatureSize)
	return q, ended(f, r)
}

func (a answer) append(b []byte) []byte {
	text := a.text[:min(len(a.text), 255)]
	b = append(field.Append8(append(b, a.status), []byte(text)), byte(len(a.certs)))
	for _, c := range a.certs {
		b = field.Append16(b, c.Raw)
	}
	b = append(b, byte(len(a.roots)))
	for _, r := range a.roots {
		b = append(field.Append16(append(b, r.Authority[:]...), r.DER), r.Signature...)
	}
	return b
}

func readAnswer(b []byte) (answer, error) {
	r := bytes.NewReader(b)
	f := field.NewReader(r)
	a := answer{status: f.Uint8(), text: string(f.Short8())}
	for n := count(f, maxChain); n > 0 && f.Err() == nil; n-- {
		c, err := x509.ParseCertificate(f.Short16(maxDER))
		if err != nil && f.Err() == nil {
			f.Fail(fmt.Errorf("pki: %w", err))
		}
		a.certs = append(a.certs, c)
	}
	for n := count(f, MaxRoots); n > 0 && f.Err() == nil; n-- {
		var c root
		f.Copy(c.Authority[:])
		c.DER, c.Signature = f.Short16(maxDER), f.Bytes(ed25519.SignatureSize)
		a.roots = append(a.roots, c)
	}
	return a, ended(f, r)
}

func count(f *field.Reader, most int) int {
	n := int(f.Uint8())
	if n > most {
		f.Fail(fmt.Errorf("pki: %d of at most %d", n, most))
	}
	return n
}

// ended wants that nothing follows.
func ended(f *field.Reader, rest *bytes.Reader) error {
	if f.Err() == nil && rest.Len() > 0 {
		return errors.New("pki: more than a message")
	}
	return f.Err()
}
