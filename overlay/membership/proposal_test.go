package membership

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/overlay/membership/canon"
)

// goldenProposal is one that revokes, as that has most in it.
func goldenProposal(t testing.TB) *Proposal {
	return must(signer(t, 60).Propose(Motion{Kind: MoveRevoke, At: epoch, Revoke: []Revocation{
		{Kind: RevokePeer, Key: Key{9}, Until: epoch.Add(time.Hour)}, {Kind: RevokeDelegate, Key: Key{8}, Before: epoch},
	}}))(t)
}

// A proposal says what was proposed, and by whom, of each kind of motion.
func TestProposal(t *testing.T) {
	t.Parallel()
	c := newCouncil(t, 2)
	ids := map[string]string{}
	all := motions(c, signer(t, 62))
	line := Authority{Key: signer(t, 63).Key(), Name: recoveryName, Recovery: true}
	all["a recovery line"] = Motion{Kind: MoveChange, At: epoch, Change: Change{Kind: ChangePromote, Authority: line}}
	all["a policy of nothing"] = Motion{Kind: MovePolicy, At: epoch}
	for what, m := range all {
		m.At, m.Unattended = m.At.Truncate(time.Second), m.Unattended.Truncate(time.Second)
		for i := range m.Revoke {
			m.Revoke[i].Before = m.Revoke[i].Before.Truncate(time.Second)
		}
		p := must(c.mars.Propose(m))(t)
		again := must(OpenProposal(p.Bytes(), c.o))(t)
		if !reflect.DeepEqual(again.Motion, m) || again.By != c.mars.Key() || again.ID() != p.ID() || len(p.ID()) != 12 || !bytes.Equal(again.Bytes(), p.Bytes()) {
			t.Errorf("%s: %+v, not %+v", what, again.Motion, m)
		}
		if ids[p.ID()] != "" {
			t.Errorf("%s and %s have one ID", what, ids[p.ID()])
		}
		ids[p.ID()] = what
		other := must(c.moon.Propose(m))(t)
		if other.ID() == p.ID() || other.By != c.moon.Key() {
			t.Errorf("%s of another is the same", what)
		}
	}
	// Whoever likes to can propose: the list says who is asked.
	if p := must(signer(t, 62).Propose(threshold(1, epoch)))(t); c.list.IsAuthority(c.o, p.By) {
		t.Error("a stranger is an authority")
	}
}

// What cannot be proposed is refused, to who proposes and to who reads, without a panic.
func TestProposalBounds(t *testing.T) {
	t.Parallel()
	c := newCouncil(t, 2)
	venus := signer(t, 62)
	many := func(n int) Motion {
		return Motion{Kind: MoveRevoke, At: epoch, Revoke: slicesOf(n, Revocation{Kind: RevokePeer, Key: Key{1}})}
	}
	for what, m := range map[string]Motion{
		"no kind": {At: epoch}, "kind 5": {Kind: 5, At: epoch}, "no time": {Kind: MovePolicy}, "a time before 1970": {Kind: MovePolicy, At: time.Unix(-1, 0)}, "a time too late": {Kind: MovePolicy, At: time.Unix(maxUnix+1, 0)},
		"no entries": many(0), "too many entries": many(MaxProposed + 1), "an entry of no kind": {Kind: MoveRevoke, At: epoch, Revoke: []Revocation{{Key: Key{1}}}},
		"a policy too long": {Kind: MovePolicy, At: epoch, Policy: strings.Repeat("#", 70000)}, "unattended for ever": {Kind: MoveUnattended, At: epoch, Unattended: MaxUnattended + time.Second}, "unattended below 0": {Kind: MoveUnattended, At: epoch, Unattended: -time.Second},
		"a change of no kind": {Kind: MoveChange, At: epoch}, "a change of kind 4": {Kind: MoveChange, At: epoch, Change: Change{Kind: 4}},
		"no name": promote(venus, "", epoch), "a name that is none": promote(venus, "Venus", epoch), "a name of 64 bytes": promote(venus, strings.Repeat("a", 64), epoch), "a name of 300 bytes": promote(venus, strings.Repeat("a", 300), epoch),
		"a threshold too high": threshold(MaxAuthorities+1, epoch), "a threshold below 0": threshold(-1, epoch),
	} {
		if p, err := c.mars.Propose(m); err == nil || p != nil {
			t.Errorf("%s: %+v", what, p)
		}
	}
	for what, m := range map[string]Motion{
		"most entries": many(MaxProposed), "the longest policy": {Kind: MovePolicy, At: epoch, Policy: strings.Repeat("#", MaxPolicyText)}, "the longest name": promote(venus, strings.Repeat("a", 63), epoch),
	} {
		if p, err := c.mars.Propose(m); err != nil || len(p.Bytes()) > MaxProposal-MaxAuthorities*SignatureBytes {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := OpenProposal(make([]byte, MaxProposal+1), c.o); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a larger one: %v", err)
	}
	for _, v := range []byte{0, 2} {
		if _, err := OpenProposal([]byte{v}, c.o); !errors.Is(err, ErrVersion) {
			t.Errorf("version %d: %v", v, err)
		}
	}
}

func slicesOf(n int, e Revocation) []Revocation {
	all := make([]Revocation, n)
	for i := range all {
		all[i] = e
	}
	return all
}

// Every byte of a proposal counts, it is of one overlay, and nobody proposes in another's name.
func TestProposalForged(t *testing.T) {
	t.Parallel()
	c := newCouncil(t, 2)
	for what, b := range map[string][]byte{"revokes": goldenProposal(t).Bytes(), "changes": must(c.mars.Propose(promote(signer(t, 62), "venus", epoch)))(t).Bytes()} {
		for i := range b {
			for bit := range 8 {
				bad := bytes.Clone(b)
				bad[i] ^= 1 << bit
				if p, err := OpenProposal(bad, c.o); err == nil || p != nil {
					t.Fatalf("one that %s with bit %d of byte %d changed: %+v", what, bit, i, p)
				}
			}
			if _, err := OpenProposal(b[:i], c.o); err == nil {
				t.Fatalf("one that %s cut to %d", what, i)
			}
		}
		if _, err := OpenProposal(append(bytes.Clone(b), 0), c.o); err == nil {
			t.Errorf("one that %s with a byte more", what)
		}
		other := must(newRoot("example.com", bytes.Repeat([]byte{2}, 32)))(t).Overlay()
		if _, err := OpenProposal(b, other); !errors.Is(err, ErrSignature) {
			t.Errorf("one that %s in another overlay: %v", what, err)
		}
		renamed := bytes.Clone(b[:len(b)-canon.SignatureSize])
		key := c.moon.Key()
		copy(renamed[1:], key[:])
		renamed = append(renamed, must(canon.Sign(c.mars.key, c.o.domain(proposalStatement), renamed))(t)...)
		if _, err := OpenProposal(renamed, c.o); !errors.Is(err, ErrSignature) {
			t.Errorf("one that %s in another's name: %v", what, err)
		}
	}
	// To have proposed is not to have signed: a proposal's signature is under nothing else.
	d := must(c.list.Draft(c.o, threshold(1, epoch)))(t)
	b := must(c.mars.Propose(threshold(1, epoch)))(t).Bytes()
	if good := d.Signed([]Signature{{c.mars.Key(), [64]byte(b[len(b)-64:])}}); len(good) != 0 {
		t.Error("a proposal is a signature of what it proposes")
	}
}

// A signature as members carry it.
func TestSignatureBytes(t *testing.T) {
	t.Parallel()
	c := newCouncil(t, 2)
	sig := must(must(c.list.Draft(c.o, threshold(1, epoch)))(t).Sign(c.mars))(t)
	b := AppendSignature([]byte{7}, sig)
	if len(b) != 1+SignatureBytes || SignatureBytes != 96 || Key(b[1:33]) != sig.Key || [64]byte(b[33:]) != sig.Sig {
		t.Errorf("%d bytes: %x", len(b), b)
	}
}

// The proposal as it was written once says the same for ever.
func TestGoldenProposal(t *testing.T) {
	t.Parallel()
	p := must(OpenProposal(golden(t, "proposal1.hex", goldenProposal(t).Bytes()), testRoot(t).Overlay()))(t)
	want := Motion{Kind: MoveRevoke, At: epoch, Revoke: []Revocation{{Kind: RevokePeer, Key: Key{9}, Until: epoch.Add(time.Hour)}, {Kind: RevokeDelegate, Key: Key{8}, Before: epoch}}}
	if !reflect.DeepEqual(p.Motion, want) || p.By != signer(t, 60).Key() {
		t.Errorf("%+v by %v", p.Motion, p.By)
	}
}

// FuzzProposal reads proposals as they are, and what stands in them behind a right signature.
func FuzzProposal(f *testing.F) {
	c := newCouncil(f, 2)
	f.Add(goldenProposal(f).Bytes())
	for _, m := range motions(c, signer(f, 62)) {
		b := must(c.mars.Propose(m))(f).Bytes()
		f.Add(b)
		f.Add(b[:len(b)-canon.SignatureSize])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := OpenProposal(b, c.o); err == nil && !bytes.Equal(p.Bytes(), b) {
			t.Fatalf("two forms of one proposal: %x, %x", b, p.Bytes())
		}
		if len(b) < 33 {
			return
		}
		b = bytes.Clone(b)
		key := c.mars.Key()
		copy(b[1:], key[:])
		b = append(b, must(canon.Sign(c.mars.key, c.o.domain(proposalStatement), b))(t)...)
		p, err := OpenProposal(b, c.o)
		if err != nil {
			return
		}
		if again, err := c.mars.Propose(p.Motion); err == nil && !bytes.Equal(again.Bytes(), b) {
			t.Fatalf("two forms of one proposal: %x, %x", b, again.Bytes())
		}
		if d, err := c.list.Draft(c.o, p.Motion); err == nil && len(d.message) == 0 {
			t.Fatalf("nothing is signed: %+v", p.Motion)
		}
	})
}
