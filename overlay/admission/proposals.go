package admission

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/field"
	"github.com/idloc/idloc/overlay/membership"
)

// A signature under a proposal is one under the list that would follow the one in force.
// When that is another one, all who have approved sign again, by themselves.

const (
	// proposalsMax is how many wait at a time, and proposalsOf how many of one authority.
	proposalsMax = membership.MaxAuthorities * proposalsOf
	proposalsOf  = 4
	// maxProposals bounds them together as they are exchanged, in bytes.
	maxProposals = 256 << 10
)

// Proposal is something that waits for more authorities to approve it.
type Proposal struct {
	ID       string // names it; its beginning does where that is unique
	What     string // what it would do, in words: "revoke mars"
	Text     string // of grants: the whole of it
	By       string // the authority's name
	At       time.Time
	Expires  time.Time
	Approved []string // names of the authorities that have signed it
	Needs    int      // how many have to
	Mine     bool     // this peer has signed it
}

// council holds the proposals. It is safe for concurrent use.
type council struct {
	mu      sync.Mutex // guards the rest
	waiting map[string]*pending
	drafts  map[string]drafted   // of those, by ID
	extra   []*membership.Signer // recovery lines that were entered here
}

// drafted is what a proposal makes of one list: to compute it costs as much as the list is
// long, and everybody may show proposals.
type drafted struct {
	after uint64 // digest of the list before
	draft *membership.Draft
	err   error
}

// draftOf returns the list that follows base by a proposal that is known.
func (r *Roster) draftOf(p *pending, base *membership.RevocationList) (*membership.Draft, error) {
	id, after := p.ID(), base.Digest()
	r.office.mu.Lock()
	d, ok := r.office.drafts[id]
	r.office.mu.Unlock()
	if ok && d.after == after {
		return d.draft, d.err
	}
	draft, err := base.Draft(r.overlay, p.Motion)
	r.office.mu.Lock()
	defer r.office.mu.Unlock()
	if r.office.waiting[id] != nil {
		if r.office.drafts == nil {
			r.office.drafts = map[string]drafted{}
		}
		r.office.drafts[id] = drafted{after, draft, err}
	}
	return draft, err
}

// pending is one proposal.
type pending struct {
	*membership.Proposal
	sigs     []membership.Signature
	approved bool // by this peer
}

// propose has a motion wait for other authorities.
func (r *Roster) propose(s *membership.Signer, m membership.Motion) error {
	for _, q := range r.office.all() { // the same that waits already is approved, and not proposed again
		if sameMotion(q.Motion, m) {
			return r.approve(q.ID())
		}
	}
	for _, e := range m.Revoke {
		if e.Kind == membership.RevokePeer {
			m.Whom = r.called(e.Key)
			break
		}
	}
	p, err := s.Propose(m)
	if err != nil {
		return err
	}
	if !r.office.add(&pending{Proposal: p, approved: true}) {
		return errCouncil
	}
	return r.approve(p.ID())
}

// approve marks a proposal as this peer's own will, and says what comes of it.
func (r *Roster) approve(id string) error {
	r.office.mu.Lock()
	p := r.office.waiting[id]
	if p != nil {
		p.approved = true
	}
	r.office.mu.Unlock()
	if p == nil {
		return ErrNoProposal
	}
	r.deliberate()
	for _, q := range r.Proposals() {
		if q.ID == id {
			r.Keep()
			if r.cfg.Proposed != nil {
				r.cfg.Proposed()
			}
			r.compareWithAll(r.self)
			return fmt.Errorf("%w: proposal %s, to %s, has %d of %d signatures", ErrPending, q.ID, q.What, len(q.Approved), q.Needs)
		}
	}
	if _, err := r.Revocations().Untold().Draft(r.overlay, p.Motion); !errors.Is(err, membership.ErrNothing) {
		return fmt.Errorf("%w: it has come to nothing", cmp.Or(err, ErrNoProposal))
	}
	return nil
}

func sameMotion(a, b membership.Motion) bool {
	a.At, b.At = time.Time{}, time.Time{}
	a.Change.At, b.Change.At = time.Time{}, time.Time{}
	strip := func(m membership.Motion) string {
		m.Revoke = slices.Clone(m.Revoke)
		for i := range m.Revoke {
			m.Revoke[i].Until, m.Revoke[i].Before = time.Time{}, time.Time{}
		}
		return fmt.Sprint(m.Kind, m.Change.Kind, m.Change.Authority.Key, m.Change.Void, m.Change.Threshold, m.Revoke, m.Policy, m.Unattended)
	}
	return strip(a) == strip(b)
}

// signersHere returns the authorities as which this peer can sign.
func (r *Roster) signersHere() []*membership.Signer {
	r.office.mu.Lock()
	extra := slices.Clone(r.office.extra)
	r.office.mu.Unlock()
	return append([]*membership.Signer{r.signer}, extra...)
}

// deliberate signs what this peer has approved, under the list in force now, drops what has
// come to nothing, and puts in force what enough have signed.
func (r *Roster) deliberate() {
	base, now := r.Revocations().Untold(), r.now()
	for _, p := range r.office.all() {
		d, err := r.draftOf(p, base)
		if err != nil || now.After(p.At.Add(membership.ProposalFor)) || !base.IsAuthority(r.overlay, p.By) {
			r.office.drop(p.ID())
			if err != nil && !errors.Is(err, membership.ErrNothing) {
				r.cfg.Log.Info("a proposal has come to nothing", "proposal", p.ID(), "why", err)
			}
			continue
		}
		sigs := d.Signed(p.sigs)
		if p.approved {
			sigs = r.signAll(d, sigs)
		}
		r.office.signed(p.ID(), sigs)
		if len(sigs) < d.Needs() {
			continue
		}
		l, err := d.List(sigs)
		if err != nil {
			r.cfg.Log.Error("a proposal that was approved is not put in force", "proposal", p.ID(), "err", err)
			r.office.drop(p.ID())
			continue
		}
		r.office.drop(p.ID())
		r.adopt(l, r.self) // which deliberates on the others
		return
	}
}

// signAll adds the signatures of the authorities that this peer is.
func (r *Roster) signAll(d *membership.Draft, sigs []membership.Signature) []membership.Signature {
	for _, s := range r.signersHere() {
		if slices.ContainsFunc(sigs, func(o membership.Signature) bool { return o.Key == s.Key() }) {
			continue
		}
		if sig, err := d.Sign(s); err == nil {
			sigs = append(sigs, sig)
		}
	}
	return d.Signed(sigs)
}

// Proposals returns what waits for authorities, oldest first.
func (r *Roster) Proposals() (out []Proposal) {
	base := r.Revocations().Untold()
	names := r.namesOf(base)
	for _, p := range r.office.all() {
		v := Proposal{ID: p.ID(), What: r.inWords(p.Motion), Text: p.Policy, By: names(p.By), At: p.At, Expires: p.At.Add(membership.ProposalFor), Mine: p.approved}
		if d, err := r.draftOf(p, base); err == nil {
			v.Needs = d.Needs()
			for _, s := range d.Signed(p.sigs) {
				v.Approved = append(v.Approved, names(s.Key))
			}
		}
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b Proposal) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.ID, b.ID)) })
	return out
}

// Approve signs a proposal, of which the ID is given, or its beginning. ErrPending: others
// have to, too. Only authorities can, and who has entered a recovery line.
func (r *Roster) Approve(id string) error {
	if !slices.ContainsFunc(r.signersHere(), func(s *membership.Signer) bool { return r.Revocations().IsAuthority(r.overlay, s.Key()) }) {
		return ErrNotFounder
	}
	var found []string
	for _, p := range r.office.all() {
		if id != "" && strings.HasPrefix(p.ID(), id) {
			found = append(found, p.ID())
		}
	}
	if len(found) != 1 {
		return fmt.Errorf("%w: %d have an ID that begins with %q", ErrNoProposal, len(found), id)
	}
	r.revoking.Lock()
	defer r.revoking.Unlock()
	return r.approve(found[0])
}

// learnProposals takes what another carries. Only proposals of authorities are carried on,
// with signatures of authorities. b is borrowed.
func (r *Roster) learnProposals(b []byte, from peerid.ID) {
	if len(b) == 0 {
		return
	}
	all, err := readProposals(b, r.overlay)
	if err != nil {
		r.cfg.Log.Debug("proposals refused", "from", from, "err", err)
		return
	}
	base, now := r.Revocations().Untold(), r.now()
	before := r.office.digest()
	for _, p := range all {
		if !base.IsAuthority(r.overlay, p.By) || now.After(p.At.Add(membership.ProposalFor)) || p.At.After(now.Add(membership.Tolerance)) || !r.office.takes(p) {
			continue
		}
		d, err := r.draftOf(p, base)
		if err != nil {
			continue
		}
		p.sigs = d.Signed(p.sigs)
		if r.office.merge(p) {
			r.cfg.Log.Info("a proposal waits for the overlay's authorities", "proposal", p.ID(), "what", r.inWords(p.Motion))
		}
	}
	if r.office.digest() == before {
		return
	}
	r.deliberate()
	r.Keep()
	if r.cfg.Proposed != nil {
		r.cfg.Proposed()
	}
	r.compareWithAll(from)
}

// all returns the proposals, oldest first.
func (c *council) all() (out []*pending) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.waiting {
		q := *p
		q.sigs = slices.Clone(p.sigs)
		out = append(out, &q)
	}
	slices.SortFunc(out, func(a, b *pending) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.ID(), b.ID())) })
	return out
}

// fairly returns the proposals so that none of an authority's stand before the first of
// another one: whoever proposes much keeps nobody else's from being carried.
func (c *council) fairly() []*pending {
	all := c.all()
	turn := map[*pending]int{}
	of := map[membership.Key]int{}
	for _, p := range all {
		turn[p] = of[p.By]
		of[p.By]++
	}
	slices.SortStableFunc(all, func(a, b *pending) int { return cmp.Compare(turn[a], turn[b]) })
	return all
}

// takes says whether a proposal is known, or has room.
func (c *council) takes(p *pending) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.waiting[p.ID()] != nil || c.room(p.By)
}

// room says whether one more of an authority has room; mu is held.
func (c *council) room(by membership.Key) bool {
	of := 0
	for _, q := range c.waiting {
		if q.By == by {
			of++
		}
	}
	return len(c.waiting) < proposalsMax && of < proposalsOf
}

func (c *council) add(p *pending) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.room(p.By) {
		return false
	}
	if c.waiting == nil {
		c.waiting = map[string]*pending{}
	}
	c.waiting[p.ID()] = p
	return true
}

// merge adds a proposal, or its signatures to those that are known. It says whether it is new.
func (c *council) merge(p *pending) bool {
	c.mu.Lock()
	q, ok := c.waiting[p.ID()]
	if ok {
		for _, s := range p.sigs {
			if !slices.ContainsFunc(q.sigs, func(o membership.Signature) bool { return o == s }) {
				q.sigs = append(slices.DeleteFunc(slices.Clone(q.sigs), func(o membership.Signature) bool { return o.Key == s.Key }), s)
			}
		}
	}
	c.mu.Unlock()
	return !ok && c.add(p)
}

func (c *council) signed(id string, sigs []membership.Signature) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.waiting[id]; p != nil {
		p.sigs = sigs
	}
}

func (c *council) drop(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
	delete(c.drafts, id)
}

func (c *council) some() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiting) > 0
}

// bytes is what others are sent.
//
//	number 1 | { proposal length 2 | proposal | signatures 1 | { key 32 | signature 64 } ... } ...
func (c *council) bytes() []byte {
	all := c.fairly()
	b := []byte{0}
	for _, p := range all {
		n := 2 + len(p.Bytes()) + 1 + len(p.sigs)*membership.SignatureBytes
		if len(b)+n > maxProposals {
			continue
		}
		b[0]++
		b = field.Append16(b, p.Bytes())
		b = append(b, byte(len(p.sigs)))
		slices.SortFunc(p.sigs, func(a, b membership.Signature) int { return bytes.Compare(a.Key[:], b.Key[:]) })
		for _, s := range p.sigs {
			b = membership.AppendSignature(b, s)
		}
	}
	if b[0] == 0 {
		return nil
	}
	return b
}

// digest names what bytes returns; 0 for nothing.
func (c *council) digest() uint64 {
	b := c.bytes()
	if b == nil {
		return 0
	}
	sum := sha256.Sum256(b)
	return binary.BigEndian.Uint64(sum[:])
}

func readProposals(b []byte, o membership.Overlay) (out []*pending, err error) {
	f := field.NewReader(bytes.NewReader(b))
	n := int(f.Uint8())
	if n > proposalsMax {
		f.Fail(errCouncil)
	}
	for i := 0; i < n && f.Err() == nil; i++ {
		body := f.Short16(membership.MaxProposal)
		sigs := int(f.Uint8())
		if f.Err() != nil || sigs > membership.MaxAuthorities {
			return nil, cmp.Or(f.Err(), errCouncil)
		}
		p := &pending{}
		for range sigs {
			var s membership.Signature
			f.Copy(s.Key[:])
			f.Copy(s.Sig[:])
			p.sigs = append(p.sigs, s)
		}
		if f.Err() != nil {
			break
		}
		if p.Proposal, err = membership.OpenProposal(body, o); err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, f.Err()
}

// saved is what the next start needs.
func (c *council) saved() (proposals []byte, approved []string) {
	for _, p := range c.all() {
		if p.approved {
			approved = append(approved, p.ID())
		}
	}
	return c.bytes(), approved
}

// restoreProposals takes what was saved. What does not read is carried by others.
func (r *Roster) restoreProposals(b []byte, approved []string) {
	if len(b) == 0 {
		return
	}
	all, err := readProposals(b, r.overlay)
	if err != nil {
		r.cfg.Log.Warn("the saved proposals are damaged: until a member shows them again there are none here", "err", err)
		return
	}
	for _, p := range all {
		p.approved = slices.Contains(approved, p.ID())
		r.office.add(p)
	}
}
