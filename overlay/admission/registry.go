package admission

import (
	"log/slog"
	"sync"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/state"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/naming"
)

// confirmedLabel is one label that an issuer has confirmed.
type confirmedLabel struct {
	Peer       peerid.ID      `json:"peer"`
	Serial     uint64         `json:"serial"`
	NotAfter   time.Time      `json:"not_after"`
	Invitation membership.Key `json:"invitation,omitzero"`
	Named      bool           `json:"named"`
	Delegate   membership.Key `json:"delegate,omitzero"` // who has confirmed it; zero: the founder
}

func heldBy(m *membership.Member) confirmedLabel {
	return confirmedLabel{Peer: m.Peer, Serial: m.Serial, NotAfter: m.NotAfter, Invitation: m.Invitation, Named: !m.Wildcard, Delegate: m.Delegate}
}

// claim is what the order of names needs of it.
func (c confirmedLabel) claim() *membership.Member {
	return &membership.Member{Peer: c.Peer, Confirmed: true, Wildcard: !c.Named, Serial: c.Serial, Delegate: c.Delegate}
}

// registry is an issuer's memory of what it and others confirmed. It is safe for
// concurrent use.
type registry struct {
	dir     *state.Dir
	log     *slog.Logger
	issuing sync.Mutex // held from the choice of a label until it is set

	mu sync.Mutex // guards s
	s  savedRegistry
}

type savedRegistry struct {
	Serial    uint64                    `json:"serial"`
	Labels    map[string]confirmedLabel `json:"labels"`
	Delegates bool                      `json:"delegates"` // others confirm too
}

func newRegistry(dir *state.Dir, log *slog.Logger) *registry {
	r := &registry{dir: dir, log: log}
	found, damaged := false, false
	if dir != nil {
		var aside error
		if found, aside = dir.LoadCache(DocLabels, &r.s); aside != nil {
			log.Warn("saved state is damaged and begun anew", "name", DocLabels, "err", aside)
			damaged = true
		}
	}
	if !found {
		// What was confirmed before is not known here any more: from now on
		// the database is asked, as if others confirmed too.
		r.s = savedRegistry{Serial: 1, Delegates: damaged}
	}
	if r.s.Labels == nil {
		r.s.Labels = map[string]confirmedLabel{}
	}
	return r
}

func (r *registry) get(label string) (confirmedLabel, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.s.Labels[label]
	return c, ok
}

// usedBy says whether a named invitation has made somebody else than p a
// member.
func (r *registry) usedBy(invitation membership.Key, p peerid.ID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.s.Labels {
		if c.Named && c.Invitation == invitation && c.Peer != p {
			return true
		}
	}
	return false
}

// invitationOf returns the invitation by which a peer came; zero: not known, or
// none.
func (r *registry) invitationOf(id peerid.ID) membership.Key {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.s.Labels {
		if c.Peer == id {
			return c.Invitation
		}
	}
	return membership.Key{}
}

// nextSerial returns a serial for a member confirmed now. It is the time, so
// that those of several issuers compare: of two confirmed claims the earlier
// stands.
func (r *registry) nextSerial(now time.Time) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.s.Serial = naming.Seq(now, r.s.Serial)
	return r.s.Serial
}

func (r *registry) set(label string, c confirmedLabel) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.s.Labels[label] = c
	r.dir.Keep(r.log, DocLabels, r.s)
}

// noteDelegate notes that somebody else confirms too.
func (r *registry) noteDelegate() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.s.Delegates = true
}

// alone says whether nobody else confirms.
func (r *registry) alone() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.s.Delegates
}
