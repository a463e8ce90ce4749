package membership

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/idloc/idloc/overlay/membership/canon"
)

const (
	proposalVersion   = 1
	proposalStatement = "proposal"

	// ProposalFor is how long a proposal waits for signatures.
	ProposalFor = 14 * 24 * time.Hour
	// MaxProposal bounds one, with the signatures under it, in bytes.
	MaxProposal = 48 << 10
	// MaxProposed bounds how many entries one revokes.
	MaxProposed = 64
)

// Proposal is a motion that one authority has signed and others are to sign as well. It
// is immutable. Its text tells what it wants, not which list it makes: that follows from
// the list that is in force when enough authorities have signed.
type Proposal struct {
	Motion
	By    Key
	bytes []byte
}

// Propose signs a motion, so that others carry it.
//
//	version 1 | by 32 | kind 1 | at uvarint |
//	change:     kind 1 | key 32 | flags 1 (1: recovery, 2: void) | threshold uvarint | name length 1 | name
//	revoke:     entries uvarint | { kind 1 | key 32 | until uvarint | before uvarint } ... | label length 1 | label
//	policy:     text length 2 | text
//	unattended: seconds uvarint
//	signature 64
func (s *Signer) Propose(m Motion) (*Proposal, error) {
	b := append([]byte{proposalVersion}, s.public[:]...)
	b = AppendTime(append(b, byte(m.Kind)), m.At)
	switch m.Kind {
	case MoveChange:
		if n := len(m.Change.Authority.Name); n > maxAuthorityName {
			return nil, fmt.Errorf("name of an authority: %w: %d bytes, at most %d", ErrTooLarge, n, maxAuthorityName)
		}
		b = append(b, byte(m.Change.Kind))
		b = append(b, m.Change.Authority.Key[:]...)
		b = append(b, flagIf(m.Change.Authority.Recovery, 1)|flagIf(m.Change.Void, 2))
		b = binary.AppendUvarint(b, uint64(m.Change.Threshold))
		b = canon.AppendShort(b, m.Change.Authority.Name)
	case MoveRevoke:
		b = binary.AppendUvarint(b, uint64(len(m.Revoke)))
		for _, e := range m.Revoke {
			b = append(b, byte(e.Kind))
			b = append(b, e.Key[:]...)
			b = appendTimeOrNone(appendTimeOrNone(b, e.Until), e.Before)
		}
		if m.Whom != "" && checkLDH(m.Whom) != nil {
			m.Whom = ""
		}
		b = canon.AppendShort(b, m.Whom)
	case MovePolicy:
		if len(m.Policy) > MaxPolicyText {
			return nil, fmt.Errorf("policy: %w: %d bytes, at most %d", ErrTooLarge, len(m.Policy), MaxPolicyText)
		}
		b = canon.AppendLong(b, []byte(m.Policy))
	case MoveUnattended:
		b = binary.AppendUvarint(b, uint64(m.Unattended/time.Second))
	}
	sig, err := canon.Sign(s.key, s.overlay.domain(proposalStatement), b)
	if err != nil {
		return nil, err
	}
	return OpenProposal(append(b, sig...), s.overlay)
}

// OpenProposal reads a proposal and verifies that By has signed it. Whether By is an
// authority the list says. b is borrowed.
func OpenProposal(b []byte, o Overlay) (*Proposal, error) {
	if len(b) > MaxProposal {
		return nil, fmt.Errorf("proposal: %w: %d bytes", ErrTooLarge, len(b))
	}
	b = append([]byte(nil), b...)
	r := canon.NewReader(b)
	if v := r.Byte(); r.Err() == nil && v != proposalVersion {
		return nil, fmt.Errorf("proposal: %w (version %d)", ErrVersion, v)
	}
	p := &Proposal{By: r.Key(), bytes: b}
	p.Kind, p.At = MotionKind(r.Byte()), ReadTime(r)
	switch p.Kind {
	case MoveChange:
		p.readChange(r)
	case MoveRevoke:
		n := r.Uvarint()
		if n == 0 || n > MaxProposed {
			r.Fail("%d entries", n)
		}
		for i := uint64(0); i < n && r.Err() == nil; i++ {
			e := Revocation{Kind: RevocationKind(r.Byte()), Key: r.Key()}
			e.Until, e.Before = timeOrNone(r), timeOrNone(r)
			if e.Kind < RevokePeer || e.Kind > RevokeDelegate {
				r.Fail("entry of %v", e.Kind)
			}
			p.Revoke = append(p.Revoke, e)
		}
		if p.Whom = string(r.Short()); p.Whom != "" && checkLDH(p.Whom) != nil {
			r.Fail("label %q", p.Whom)
		}
	case MovePolicy:
		p.Policy = string(r.Long())
	case MoveUnattended:
		s := r.Uvarint()
		if s > uint64(MaxUnattended/time.Second) {
			r.Fail("unattended for %d s", s)
		}
		p.Unattended = time.Duration(s) * time.Second
	default:
		r.Fail("motion of kind %d", p.Kind)
	}
	body := b[:len(b)-r.Len()]
	sig := r.Bytes(canon.SignatureSize)
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("proposal: %w", err)
	}
	if err := canon.Verify(p.By[:], o.domain(proposalStatement), body, sig); err != nil {
		return nil, fmt.Errorf("proposal: %w", err)
	}
	return p, nil
}

func (p *Proposal) readChange(r *canon.Reader) {
	c := Change{Kind: ChangeKind(r.Byte()), Authority: Authority{Key: r.Key()}}
	flags := r.Byte()
	c.Authority.Recovery, c.Void = flags&1 != 0, flags&2 != 0
	threshold := r.Uvarint()
	c.Authority.Name = string(r.Short())
	c.Threshold = int(min(threshold, MaxAuthorities+1))
	switch {
	case flags&^3 != 0, c.Kind < ChangePromote, c.Kind > ChangeThreshold, threshold > MaxAuthorities,
		c.Authority.Name != "" && checkLDH(c.Authority.Name) != nil, c.Kind == ChangePromote && c.Authority.Name == "":
		r.Fail("a change that is none")
	}
	p.Change = c
}

// Bytes is the form that OpenProposal takes; it is not to be changed.
func (p *Proposal) Bytes() []byte { return p.bytes }

// ID names the proposal: the beginning of a hash, in hex.
func (p *Proposal) ID() string {
	sum := sha256.Sum256(p.bytes)
	return fmt.Sprintf("%x", sum[:6])
}

// AppendSignature appends a signature under a proposal as members carry it.
//
//	key 32 | signature 64
func AppendSignature(b []byte, s Signature) []byte {
	return append(append(b, s.Key[:]...), s.Sig[:]...)
}

// SignatureBytes is the size of one that AppendSignature appends.
const SignatureBytes = 32 + ed25519.SignatureSize
