package admission

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/idloc/idloc/internal/logpace"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/state"
	"github.com/idloc/idloc/internal/wallclock"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/naming"
)

// Errors of this package, found by errors.Is.
var (
	// ErrNotIssuer: only authorities and delegates can do this.
	ErrNotIssuer = errors.New("only authorities, such as the founder, and delegates can do this")
	// ErrNotFounder: only an authority of the overlay can do this: the founder, until it has
	// promoted others.
	ErrNotFounder = errors.New("only the founder, or another authority, can do this")
	// ErrLabelTaken: a label, or the named token for it, is another peer's.
	ErrLabelTaken = errors.New("label taken")
)

// Config is what a Roster needs. The functions are not called before one of the
// Roster's methods is that needs them, and never while the Roster holds a lock.
type Config struct {
	Key   ed25519.PrivateKey // this peer's; required
	State *state.Dir         // nil keeps nothing
	Now   func() time.Time   // what chains are judged by; nil is wallclock.Now
	Log   *slog.Logger       // nil is silent

	Network Network // required
	// Lookup reads the record of a label from the database; nil: there is none,
	// or it is not known whether there is. Required.
	Lookup func(ctx context.Context, label string) *naming.Record
	// Changed is called when a new revocation list is in force: what belongs to
	// those whom Sweep names is to be dropped. Required.
	Changed func()
	// Ended is called when somebody has ceased to be a member by something else than
	// that: what belongs to those whom Sweep names is to be dropped. Required.
	Ended func()
	// PolicyChanged is called when another policy is in force. May be nil.
	PolicyChanged func()
	// Proposed is called when a proposal, or a signature under one, has come. May be nil.
	Proposed func()
	// Renewed is called when this peer has a new chain, which others are to be
	// shown. Required.
	Renewed func()
	// MaxListAge is how old what this peer knows of who was revoked may get: ListAsOf.
	// Then Admit takes nobody. 0: as old as it likes.
	MaxListAge time.Duration
	// Aged is told by TellAge as of when that is known, and whether that is old: longer
	// ago than MaxListAge, or a week. May be nil.
	Aged func(asOf time.Time, old bool)
	// Shown returns the chain that a peer has shown for what it has open here, a
	// pipe; nil if nothing is. It is asked about who is not remembered. May be nil.
	Shown func(peerid.ID) []byte
}

// Roster knows who is a member: this peer, and whom it has met. It is safe for
// concurrent use.
type Roster struct {
	cfg     Config
	self    peerid.ID
	overlay membership.Overlay
	root    *membership.Root   // the founder's; nil for others
	signer  *membership.Signer // this peer as an authority, if the list says that it is one
	resumed bool               // from what was saved

	registry  *registry
	clocks    clocks
	jumps     wallclock.Jumps // of WatchClock
	returning *readmissions
	list      atomic.Pointer[membership.RevocationList]
	office    council
	history   *history
	heard     attendance
	assurance atomic.Pointer[assurance] // the newest for a list; assured says whether it counts
	issues    atomic.Bool               // issuer is not nil
	revoking  sync.Mutex                // held while an authority makes a list, so that each has its own number
	saving    sync.Mutex                // held from when a document is made until it is saved
	rotating  sync.Mutex                // held while another key is asked for

	mu          sync.Mutex // guards the rest
	own         Own
	issuer      *membership.Issuer
	delegation  []byte
	rotations   rotations
	changed     []time.Time             // when each change of who rules the overlay was adopted here
	successor   *Saved                  // what this peer is after its next start; nil: as now
	silence     map[peerid.ID]time.Time // when an issuer has not answered
	members     *simplelru.LRU[peerid.ID, *known]
	swept       *membership.RevocationList // that Sweep has seen
	withdrawals map[membership.Key]int     // that delegates have asked for, by who pays for them

	assuranceKept time.Time // of the one that was saved
}

// Own is this peer's own membership. Chain and Member are not to be changed.
type Own struct {
	Chain  []byte
	Member *membership.Member
	Label  string // that it claims; Member may leave it the choice
	Issuer bool   // it is the founder or a delegate
}

// newRoster makes one without a membership.
func newRoster(cfg Config, overlay membership.Overlay) (*Roster, error) {
	self, err := PeerID(cfg.Key)
	if err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = wallclock.Now
	}
	cfg.Log = logpace.New(cfg.Log)
	r := &Roster{cfg: cfg, self: self, overlay: overlay, returning: newReadmissions(), withdrawals: map[membership.Key]int{}, silence: map[peerid.ID]time.Time{}}
	r.jumps.Since(r.now()) // before anything is judged by the clock
	if r.signer, err = membership.NewSigner(overlay, cfg.Key); err != nil {
		return nil, err
	}
	if r.members, err = simplelru.NewLRU[peerid.ID, *known](membersMax, nil); err != nil {
		return nil, err
	}
	r.registry = newRegistry(cfg.State, cfg.Log, r.now())
	r.history = newHistory(cfg.State, cfg.Log)
	return r, nil
}

// Close ends what the Roster keeps on disk. It is idempotent. The Roster can be asked
// as before.
func (r *Roster) Close() {
	r.registry.close()
	r.history.keep()
}

// orClose is r, closed if err says that it is not to be used.
func (r *Roster) orClose(err error) (*Roster, error) {
	if err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// PeerID returns the ID of the peer that has a key.
func PeerID(key ed25519.PrivateKey) (peerid.ID, error) {
	if len(key) != ed25519.PrivateKeySize {
		return peerid.ID{}, fmt.Errorf("identity key of %d bytes", len(key))
	}
	return peerid.FromPublicKey(key.Public().(ed25519.PublicKey))
}

// Found makes a new overlay for a domain, and its founder, whose label is made of
// name. Nothing is saved yet.
func Found(cfg Config, domain, name string) (*Roster, error) {
	root, err := membership.NewRoot(domain)
	if err != nil {
		return nil, err
	}
	r, err := newRoster(cfg, root.Overlay())
	if err != nil {
		return nil, err
	}
	r.root, r.signer = root, root.Signer()
	r.setIssuer(root.Issuer())
	return r.orClose(r.issueSelf(cleanLabel(name)))
}

// Enter makes this peer a provisional member by a token, under the token's label
// or, if that leaves the choice, under one made of name. A token whose time is not
// now by this machine's clock does too if the clock may be wrong: an hour or more.
// Nothing is saved yet.
func Enter(cfg Config, t *membership.Token, name string) (*Roster, error) {
	r, err := newRoster(cfg, t.Overlay())
	if err != nil {
		return nil, err
	}
	r.trust(t.Maker())
	label := t.Label()
	if label == membership.AnyLabel {
		label = cleanLabel(name)
	}
	untimely, err := r.enterAnyhow(t, label)
	if err == nil && untimely != nil && untimely.Err == membership.ErrExpired && !untimely.FarOff() {
		err = untimely
	}
	return r.orClose(err)
}

// Resume continues what was saved. If the chain has ended, a token, unless it is
// nil, or the founder's key makes another; a chain that is merely due is renewed
// when somebody can be asked (Renew).
func Resume(cfg Config, s *Saved, t *membership.Token) (*Roster, error) {
	overlay, err := membership.NewOverlay(s.Domain, s.RootKey)
	if err != nil {
		return nil, err
	}
	r, err := newRoster(cfg, overlay)
	if err != nil {
		return nil, err
	}
	r.resumed = true
	if err = r.restore(s); err == nil {
		err = r.renewOffline(s, t)
	}
	return r.orClose(err)
}

// restore takes over what was saved, without asking whether it still holds.
func (r *Roster) restore(s *Saved) error {
	var err error
	if s.Founder() {
		if r.root, err = membership.ParseRoot(s.Root); err != nil {
			return err
		}
		if r.root.Overlay() != r.overlay {
			return errors.New("saved root key is of another overlay")
		}
		r.signer = r.root.Signer()
	}
	if len(s.Revocation) > 0 {
		l, err := membership.OpenRevocationList(s.Revocation, r.overlay)
		if err != nil {
			return err
		}
		r.list.Store(l)
		r.swept = l
		r.heardOfAuthorities(l.Issued())
	} else {
		r.trust(s.Trusted)
	}
	r.changed = s.Changed
	r.recallAssurance()
	if r.authority() {
		r.setIssuer(r.signer.Issuer())
	}
	r.restoreProposals(s.Proposals, s.Approved)
	if len(s.Delegation) > 0 {
		i, err := membership.NewDelegate(r.cfg.Key, s.Delegation, r.overlay, r.now(), r.Revocations())
		if err == nil && r.issuer == nil {
			r.setIssuer(i)
		}
		if err == nil || errors.As(err, new(*membership.TimeError)) {
			r.delegation = s.Delegation // it may begin when the clock is set
		}
	}
	return nil
}

// renewOffline makes the saved chain good, as far as that needs nobody else.
func (r *Roster) renewOffline(s *Saved, t *membership.Token) error {
	err := r.take(s.Chain, s.Label)
	var out *membership.TimeError
	if errors.As(err, &out) && out.Err == membership.ErrNotYetValid {
		// It was good when it was saved, so the clock is behind. Nothing is
		// made with it: it would be over when the clock is set.
		r.sayBehind(out)
		return r.takeFrom(s.Chain, s.Label, r.now())
	}
	if r.authority() {
		if r.own.Member == nil && r.root == nil {
			r.own.Member, _ = membership.Claimed(s.Chain) // what it keeps of that: issueSelf
		}
		if err != nil || membership.NeedsRenewal(r.own.Member, r.now()) {
			return r.issueSelf(s.Label)
		}
		return nil
	}
	if err != nil && t != nil && (!errors.Is(err, membership.ErrRevoked) || errors.Is(err, membership.ErrVoid)) {
		if e := r.enter(t, s.Label); e == nil {
			return nil
		}
	}
	if errors.Is(err, membership.ErrExpired) {
		return r.takeLapsed(s, err)
	}
	return err
}

// takeLapsed goes on with a chain that has ended, why: whoever is reached may renew it,
// and nobody serves this peer before.
func (r *Roster) takeLapsed(s *Saved, why error) error {
	m, err := membership.VerifyLapsed(s.Chain, r.overlay, r.now(), r.Revocations())
	if errors.Is(err, membership.ErrIncomplete) {
		return why
	}
	if err != nil {
		return fmt.Errorf("own membership: %w", err)
	}
	r.cfg.Log.Warn("this node's membership has ended while it was away: it looks for an authority or a delegate, or for somebody who reaches one, and is let in nowhere before", "why", why)
	return r.setOwn(s.Chain, s.Label, m)
}

func (r *Roster) now() time.Time { return r.cfg.Now() }

// Overlay returns what is public about the overlay.
func (r *Roster) Overlay() membership.Overlay { return r.overlay }

// Self returns this peer's ID.
func (r *Roster) Self() peerid.ID { return r.self }

// Founder says whether this peer holds the overlay's root key.
func (r *Roster) Founder() bool { return r.root != nil }

// Own returns this peer's own membership as it is now.
func (r *Roster) Own() Own {
	r.mu.Lock()
	defer r.mu.Unlock()
	own := r.own
	own.Issuer = r.issuer != nil
	return own
}

// setIssuer makes this peer an issuer; mu is held, or nobody else has the Roster.
func (r *Roster) setIssuer(i *membership.Issuer) {
	r.issuer = i
	r.issues.Store(true)
}

// issuing returns the issuer that this peer is; nil if it is none.
func (r *Roster) issuing() *membership.Issuer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.issuer
}

// take makes a chain this peer's own, if it holds now.
func (r *Roster) take(chain []byte, label string) error {
	m, err := membership.VerifyChain(chain, r.overlay, r.now(), r.Revocations())
	if err != nil {
		return fmt.Errorf("own membership: %w", err)
	}
	return r.setOwn(chain, label, m)
}

// takeFrom makes a chain this peer's own that is good at some time from at on.
// The clock says another: all its signatures hold.
func (r *Roster) takeFrom(chain []byte, label string, at time.Time) error {
	for {
		m, err := membership.VerifyChain(chain, r.overlay, at, r.Revocations())
		var out *membership.TimeError
		if errors.As(err, &out) && out.Err == membership.ErrNotYetValid && out.Limit.After(at) {
			at = out.Limit
			continue
		}
		if err != nil {
			return err
		}
		return r.setOwn(chain, label, m)
	}
}

// setOwn makes a membership this peer's own. A provisional one does not take the place of
// a confirmed one that holds: that came meanwhile.
func (r *Roster) setOwn(chain []byte, label string, m *membership.Member) error {
	if m.Peer != r.self {
		return errors.New("a chain for another peer")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.own.Member; old != nil && old.Confirmed && !m.Confirmed && r.standing(old) == nil {
		return nil
	}
	r.own = Own{Chain: chain, Member: m, Label: label}
	r.heard.begin(m.NotBefore)
	return nil
}

// enter makes this peer a provisional member by the token.
func (r *Roster) enter(t *membership.Token, label string) error {
	chain, err := t.SelfIssue(r.cfg.Key, label, r.now())
	if err != nil {
		return err
	}
	err = r.take(chain, label)
	if trusting := membership.Trusting(r.overlay, t.Maker()); trusting != nil && errors.Is(err, membership.ErrSignature) {
		// An authority has made it of which the list that this peer has does not know yet.
		m, err := membership.VerifyChain(chain, r.overlay, r.now(), trusting)
		if err != nil {
			return fmt.Errorf("own membership: %w", err)
		}
		return r.setOwn(chain, label, m)
	}
	return err
}

// enterAnyhow is enter. If the token's time is not now by the clock, which may be
// wrong, the chain begins with the token's, so that others can take it; untimely
// says so then.
func (r *Roster) enterAnyhow(t *membership.Token, label string) (untimely *membership.TimeError, err error) {
	err = r.enter(t, label)
	if !errors.As(err, &untimely) {
		return nil, err
	}
	chain, err := t.SelfIssue(r.cfg.Key, label, t.Invitation().NotBefore)
	if err != nil {
		return untimely, err
	}
	return untimely, r.takeFrom(chain, label, t.Invitation().NotBefore)
}

// CheckToken makes the provisional membership anew if the clock was set since it
// was made. A token that has expired by this machine's clock is over, which is the
// error, once a member is heard of that has the same time; if the others' is
// another, theirs counts.
func (r *Roster) CheckToken(t *membership.Token) error {
	own, now := r.Own(), r.now()
	if membership.CheckTimes("", own.Member.NotBefore, own.Member.NotAfter, now) != nil {
		untimely, err := r.enterAnyhow(t, own.Label)
		if err != nil {
			return err
		}
		if untimely != nil && untimely.Err == membership.ErrNotYetValid {
			r.sayBehind(untimely)
		}
	}
	if off, n := r.ClockOff(); n == 0 || off.Abs() > membership.Tolerance {
		return nil
	}
	return membership.CheckTimes("the token", time.Time{}, t.Invitation().NotAfter, now)
}

// maxBaseLabel leaves room for "-999" in a label.
const maxBaseLabel = 59

// cleanLabel makes a host label of what a user or a machine calls itself.
func cleanLabel(s string) string {
	s, _, _ = strings.Cut(strings.ToLower(s), ".")
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		}
		return '-'
	}, s)
	s = strings.Trim(s[:min(len(s), maxBaseLabel)], "-")
	if membership.CheckLabel(s) != nil {
		return "peer"
	}
	return s
}
