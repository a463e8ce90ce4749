package admission

import (
	"slices"
	"time"

	"github.com/idloc/idloc/internal/state"
	"github.com/idloc/idloc/overlay/membership"
)

// Names of the documents in the state directory.
const (
	// DocOverlay is what this peer is, a Saved. One that is damaged stops the
	// start.
	DocOverlay = "overlay"
	// DocLabels is what an issuer has confirmed. The database has it too, as
	// far as the members are there to put it: an issuer that has lost it asks
	// there before it gives a label to anybody, for good.
	DocLabels = "labels"
)

// Saved is what makes this peer a member again after a restart.
type Saved struct {
	Domain     string         `json:"domain"`
	RootKey    membership.Key `json:"root_key"`
	Root       []byte         `json:"root,omitempty"` // the founder's secret
	Chain      []byte         `json:"chain"`
	Label      string         `json:"label"`
	Delegation []byte         `json:"delegation,omitempty"`
	Revocation []byte         `json:"revocation,omitempty"`
	Changed    []time.Time    `json:"changed,omitempty"`   // when each change of who rules the overlay was adopted
	Trusted    membership.Key `json:"trusted,omitempty"`   // who has made the token, until there is a list
	Proposals  []byte         `json:"proposals,omitempty"` // that wait for authorities
	Approved   []string       `json:"approved,omitempty"`  // those that this peer has signed
	// Seed is that of the key that Chain is for, if it is another one than before: who
	// starts by it saves it as its identity first. Nothing means that it is.
	Seed []byte `json:"seed,omitempty"`
}

// Overlay returns the overlay that was saved; the zero one if it is none.
func (s *Saved) Overlay() membership.Overlay {
	o, err := membership.NewOverlay(s.Domain, s.RootKey)
	if err != nil {
		return membership.Overlay{}
	}
	return o
}

// Founder says whether it is the founder's.
func (s *Saved) Founder() bool { return len(s.Root) > 0 }

// Load returns nil if there is nothing to resume.
func Load(d *state.Dir) (*Saved, error) {
	if d == nil {
		return nil, nil
	}
	s := new(Saved)
	found, err := d.Load(DocOverlay, s)
	if err != nil || !found {
		return nil, err
	}
	return s, nil
}

// document is what the next start needs.
func (r *Roster) document() Saved {
	r.mu.Lock()
	s := Saved{
		Domain: r.overlay.Domain, RootKey: r.overlay.Root, Chain: r.own.Chain, Label: r.own.Label,
		Delegation: r.delegation, Revocation: r.Revocations().Bytes(), Changed: slices.Clone(r.changed), Trusted: r.Revocations().Trusted(),
	}
	s.Proposals, s.Approved = r.office.saved()
	if next := r.successor; next != nil {
		s.Chain, s.Label, s.Delegation, s.Seed = next.Chain, next.Label, next.Delegation, next.Seed
	}
	r.mu.Unlock()
	if r.root != nil {
		s.Root = r.root.Marshal()
	}
	return s
}

// Save writes what the next start needs, or fails: nobody has entered an
// overlay who cannot come back to it.
func (r *Roster) Save() error {
	if r.cfg.State == nil {
		return nil
	}
	r.saving.Lock()
	defer r.saving.Unlock()
	return r.cfg.State.Save(DocOverlay, r.document())
}

// Keep is Save for a peer that is in, and goes on although nothing can be
// written.
func (r *Roster) Keep() {
	r.saving.Lock()
	defer r.saving.Unlock()
	r.cfg.State.Keep(r.cfg.Log, DocOverlay, r.document())
}
