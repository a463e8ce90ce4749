package admission

import (
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/state"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/naming"
)

const (
	// labelsKept is how long after its holder's end a label is remembered: who comes
	// back within that has its old serial, and is known to have been a member.
	labelsKept = membership.RenewFor
	// compactAbove is how many records the journal has at least before it is written
	// anew; it is when half of them say nothing any more.
	compactAbove = 1024
)

// confirmedLabel is one label that an issuer has confirmed.
type confirmedLabel struct {
	Peer       peerid.ID
	Serial     uint64
	NotAfter   time.Time
	Invitation membership.Key
	Named      bool
	Delegate   membership.Key // who has confirmed it; zero: the founder
	Roles      membership.Roles
	Tags       membership.Tags
}

func heldBy(m *membership.Member) confirmedLabel {
	return confirmedLabel{Peer: m.Peer, Serial: m.Serial, NotAfter: m.NotAfter, Invitation: m.Invitation, Named: !m.Wildcard, Delegate: m.Delegate, Roles: m.Roles, Tags: m.Tags}
}

// claim is what the order of names needs of it.
func (c confirmedLabel) claim() *membership.Member {
	return &membership.Member{Peer: c.Peer, Confirmed: true, Wildcard: !c.Named, Serial: c.Serial, Delegate: c.Delegate}
}

// registry is a peer's memory of what was confirmed and of who came by which
// invitation. What is new is appended to a journal. It is safe for concurrent use.
type registry struct {
	dir     *state.Dir
	log     *slog.Logger
	journal *state.Journal // nil keeps nothing
	issuing sync.Mutex     // held from the choice of a label until it is set

	mu          sync.Mutex // guards the rest
	serial      uint64
	delegates   bool // others confirm too
	labels      map[string]confirmedLabel
	made        map[membership.Key]made  // invitations, by this issuer
	successions map[peerid.ID]succession // by the new key
	came        came
	proofs      *simplelru.LRU[proofKey, proof]
	records     int      // in the journal
	unsaved     bool     // the journal lacks some
	later       []func() // waits for records that nobody waits for
}

// newRegistry reads what was kept. It is closed by close.
func newRegistry(dir *state.Dir, log *slog.Logger, now time.Time) *registry {
	r := &registry{dir: dir, log: log, serial: 1, labels: map[string]confirmedLabel{}, made: map[membership.Key]made{}, successions: map[peerid.ID]succession{}, came: newCame()}
	r.proofs, _ = simplelru.NewLRU[proofKey, proof](proofsMax, nil)
	if dir == nil {
		return r
	}
	j, err := dir.OpenJournal(DocLabels)
	if err != nil {
		log.Warn("what is confirmed is not saved", "name", DocLabels, "err", err)
		return r
	}
	r.journal = j
	err = j.Filter(func(b []byte) bool {
		r.restore(b)
		r.records++
		return true
	})
	switch {
	case errors.Is(err, state.ErrDamaged):
		// What was confirmed before is not known here any more: from now on
		// the database is asked, as if others confirmed too.
		log.Warn("saved state is damaged and begun anew", "name", DocLabels, "err", err)
		r.delegates = true
		r.append(delegatesRecord())
	case err != nil:
		r.unsaved = true
		dir.Complain(log, DocLabels, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.compact(now)
	return r
}

// close ends the journal.
func (r *registry) close() {
	if r.journal != nil {
		_ = r.journal.Close() // what could not be written was said
	}
}

// append adds a record to the journal; mu is held. What it returns waits until it is
// on the disk.
func (r *registry) append(b []byte) (wait func()) {
	if r.journal == nil {
		return func() {}
	}
	if r.unsaved {
		err := r.rewrite()
		return func() { r.dir.Complain(r.log, DocLabels, err) }
	}
	r.records++
	written := r.journal.Append(b)
	return func() {
		err := written()
		r.dir.Complain(r.log, DocLabels, err)
		if err != nil {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.unsaved = true
		}
	}
}

// rewrite writes the journal anew with what matters; mu is held.
func (r *registry) rewrite() error {
	all := r.all()
	err := r.journal.Rewrite(all)
	r.unsaved = err != nil
	if err == nil {
		r.records = len(all)
	}
	return err
}

// compact forgets what does not matter any more, and writes the journal anew if
// that is most of it; mu is held.
func (r *registry) compact(now time.Time) {
	r.prune(now)
	if r.journal != nil && r.records > compactAbove && r.records > 2*len(r.all()) {
		r.dir.Complain(r.log, DocLabels, r.rewrite())
	}
}

// prune forgets what does not matter any more; mu is held.
func (r *registry) prune(now time.Time) {
	for label, c := range r.labels {
		if now.After(c.NotAfter.Add(labelsKept)) {
			delete(r.labels, label)
		}
	}
	for key, m := range r.made {
		if now.After(m.end.Add(membership.Grace)) {
			delete(r.made, key)
		}
	}
	for next, s := range r.successions {
		if now.After(s.until) {
			delete(r.successions, next)
		}
	}
	r.came.prune(now)
}

// sweep is compact, now and then. It says what could not be written.
func (r *registry) sweep(now time.Time) {
	r.mu.Lock()
	waits := r.later
	r.later = nil
	r.mu.Unlock()
	for _, wait := range waits {
		wait()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.compact(now)
}

func (r *registry) get(label string) (confirmedLabel, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.labels[label]
	return c, ok
}

// origin is Roster.origin of who was given a label.
func (r *registry) origin(id peerid.ID) (invitation, delegate membership.Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.labels {
		if c.Peer == id {
			return c.Invitation, c.Delegate
		}
	}
	return invitation, delegate
}

// nextSerial returns a serial for a member confirmed now. It is the time, so
// that those of several issuers compare: of two confirmed claims the earlier
// stands.
func (r *registry) nextSerial(now time.Time) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.serial = naming.Seq(now, r.serial)
	return r.serial
}

// set gives a label. What it returns waits until that is on the disk.
func (r *registry) set(label string, c confirmedLabel) (wait func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.labels[label] = c
	return r.append(labelRecord(label, c))
}

// noteDelegate notes that somebody else confirms too.
func (r *registry) noteDelegate() (wait func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.delegates {
		return func() {}
	}
	r.delegates = true
	return r.append(delegatesRecord())
}

// alone says whether nobody else confirms.
func (r *registry) alone() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.delegates
}

// labelOf returns the label that a peer was given by an issuer, as far as known here.
func (r *registry) labelOf(id peerid.ID) (string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for label, c := range r.labels {
		if c.Peer == id {
			return label, true
		}
	}
	return "", false
}
