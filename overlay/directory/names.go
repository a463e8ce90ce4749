package directory

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/sync/singleflight"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/pause"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/naming"
)

const (
	// cacheLife is how long a good answer is given again without asking.
	cacheLife = 30 * time.Second
	cacheMax  = 1024 // labels; and peers with hints
	// askAgain is the pause before a name is asked for again, when too few
	// servers have answered.
	askAgain = 200 * time.Millisecond
)

// reader is the database as names needs it.
type reader interface {
	walk(ctx context.Context, key string, each func(found) bool) walkResult
	replicasOf(ctx context.Context, key string) walkResult
	// small says whether so few servers are known that each keeps every record.
	small() bool
	servers() []peer.ID
}

// names answers questions about names. It is safe for concurrent use.
type names struct {
	cfg    *Config
	db     reader
	check  *naming.Validator
	marks  *naming.HighWater // what was seen of each name, DESIGN §14.2
	claims *claims
	ctx    context.Context // questions end with it
	jobs   *jobs
	asks   singleflight.Group // by label

	mu    sync.Mutex // guards the rest
	cache *simplelru.LRU[string, cached]
	hints *simplelru.LRU[peerid.ID, []peerid.ID] // members connected to a peer, from its record
}

type cached struct {
	found   Found
	expires time.Time
}

func newNames(ctx context.Context, cfg *Config, db reader, check *naming.Validator, marks *naming.HighWater, j *jobs) (*names, error) {
	n := &names{cfg: cfg, db: db, check: check, marks: marks, ctx: ctx, jobs: j}
	marks.Now = cfg.Now
	var err error
	if n.claims, err = newClaims(); err != nil {
		return nil, err
	}
	if n.cache, err = simplelru.NewLRU[string, cached](cacheMax, nil); err != nil {
		return nil, err
	}
	n.hints, err = simplelru.NewLRU[peerid.ID, []peerid.ID](cacheMax, nil)
	return n, err
}

// Resolve returns the peer that has a label. The error is ErrNotFound only if
// enough servers have answered, and ErrUnavailable, which is temporary, if not. If
// the membership of whoever had it was taken back it is ErrRevoked; without enough
// servers that is said when they were asked again and again, or at once by the only
// issuer, who would know if it was given to somebody else. A label that is a peer ID
// needs no record, only that the peer has once shown its membership.
func (d *Directory) Resolve(ctx context.Context, label string) (Found, error) {
	label = strings.ToLower(label)
	start, name := time.Now(), d.cfg.Overlay.FullName(label)
	d.cfg.Events.Emit(event.Event{Kind: event.NameAsked, Name: name})
	f, err := d.names.resolve(ctx, label)
	if err != nil {
		d.cfg.Events.Emit(event.Event{Kind: event.NameFailed, Name: name, Err: err.Error(), Duration: time.Since(start)})
		return Found{}, err
	}
	d.cfg.Events.Emit(event.Event{Kind: event.NameResolved, Name: name, Peer: f.Peer, Via: f.Via, Duration: time.Since(start)})
	return f, nil
}

// Read reads the record of a label from the database; nil: there is none, or it is
// not known whether there is.
func (d *Directory) Read(ctx context.Context, label string) *naming.Record {
	return d.names.fetch(ctx, label).rec
}

// Contact reads a peer's contact record; nil as for Read.
func (d *Directory) Contact(ctx context.Context, id peerid.ID) *naming.ContactRecord {
	rec, _, _ := d.names.contact(ctx, id)
	return rec
}

// Hints returns members that a peer said it is connected to, in a record of its own
// that this peer has seen. They are not to be changed.
func (d *Directory) Hints(p peerid.ID) []peerid.ID { return d.names.hint(p) }

// Forget drops what is cached of a peer: it could not be reached.
func (d *Directory) Forget(p peerid.ID) { d.names.forget(p) }

func (n *names) hint(p peerid.ID) []peerid.ID {
	n.mu.Lock()
	defer n.mu.Unlock()
	via, _ := n.hints.Get(p)
	return via
}

func (n *names) setHint(p peerid.ID, via []peerid.ID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hints.Add(p, via)
}

func (n *names) cached(label string) (Found, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c, ok := n.cache.Get(label)
	if ok && !time.Now().Before(c.expires) {
		n.cache.Remove(label)
		ok = false
	}
	return c.found, ok
}

func (n *names) resolve(ctx context.Context, label string) (Found, error) {
	if n.ctx.Err() != nil {
		return Found{}, ErrClosed
	}
	if _, own, _ := n.cfg.Roster.Own(); label == own {
		return Found{Peer: n.cfg.Self, Label: label, Via: n.cfg.Self}, nil
	}
	if id, ok := naming.PeerLabel(label); ok {
		return n.resolvePeer(ctx, id, label)
	}
	if membership.CheckLabel(label) != nil {
		return Found{}, ErrNotFound // no record could be stored for it
	}
	if f, ok := n.cached(label); ok {
		return f, nil
	}
	f, ok := n.confirmed(label, true)
	answer := n.asks.DoChan(label, func() (any, error) { return n.ask(label) })
	if ok {
		return f, nil
	}
	quiet := time.NewTimer(recordPatience)
	defer quiet.Stop()
	for {
		select {
		case a := <-answer:
			return a.Val.(Found), a.Err
		case <-quiet.C:
			if f, ok := n.confirmed(label, false); ok {
				return f, nil
			}
		case <-ctx.Done():
			return Found{}, ctx.Err()
		}
	}
}

// ask asks the database for a label, for all who wait for it; it does not end with
// the first of them.
func (n *names) ask(label string) (Found, error) {
	if !n.jobs.begin() {
		return Found{}, ErrClosed
	}
	defer n.jobs.done()
	// A server that is merely slow has not said anything about the name: as
	// long as one is connected, ask again.
	deadline := time.Now().Add(LookupTimeout)
	f, err := n.read(n.ctx, label)
	// So has one that does not remember: as long as all are new, or this peer has
	// only just come back to the others, their owners put the records again.
	for errors.Is(err, ErrUnavailable) && time.Now().Before(deadline) && (len(n.db.servers()) > 0 || n.cfg.JustBack()) {
		if !pause.For(n.ctx, askAgain) {
			break
		}
		f, err = n.read(n.ctx, label)
	}
	if errors.Is(err, ErrUnavailable) && n.cfg.Roster.LabelRevoked(label) {
		err = ErrRevoked
	}
	return f, err
}

// read asks the servers and judges what they say.
func (n *names) read(ctx context.Context, label string) (Found, error) {
	a := n.fetch(ctx, label)
	switch {
	case a.rec == nil && a.untimely != nil:
		return Found{}, temporaryError{a.untimely}
	case a.rec == nil && (a.complete || n.cfg.Roster.OnlyIssuer()) && n.cfg.Roster.LabelRevoked(label):
		return Found{}, ErrRevoked
	case a.rec == nil && a.complete:
		return Found{}, ErrNotFound
	case a.rec == nil:
		return Found{}, temporaryError{ErrUnavailable}
	}
	if err := n.marks.Accept(a.rec); err != nil {
		return Found{}, temporaryError{err}
	}
	if a.rec.Tombstone {
		return Found{}, ErrNotFound
	}
	return n.believe(a.rec, a.via), nil
}

// believe takes an accepted record for the answer of a while.
func (n *names) believe(rec *naming.Record, via peerid.ID) Found {
	n.cfg.Roster.Note(rec.Member())
	n.setHint(rec.Peer, contacts(rec.Contact))
	f := Found{Peer: rec.Peer, Label: rec.Label, Via: via}
	expires := time.Now().Add(cacheLife)
	if rec.Expires.Before(expires) {
		expires = rec.Expires
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cache.Add(rec.Label, cached{f, expires})
	return f
}

// resolvePeer answers for a peer-ID label: the ID is the answer, if a valid
// chain for it was ever seen (DESIGN §14.12); else its contact record is
// looked for, which carries one.
func (n *names) resolvePeer(ctx context.Context, id peerid.ID, label string) (Found, error) {
	f := Found{Peer: id, Label: label, Via: n.cfg.Self}
	if _, ok := n.cfg.Roster.Member(id); ok || id == n.cfg.Self {
		return f, nil
	}
	if n.cfg.Roster.Revoked(id) {
		return Found{}, ErrRevoked
	}
	rec, via, complete := n.contact(ctx, id)
	switch {
	case rec != nil:
		f.Via = via
		return f, nil
	case complete:
		return Found{}, ErrNotFound
	}
	return Found{}, temporaryError{ErrUnavailable}
}

// contact reads a peer's contact record. complete says whether there is none if rec
// is nil.
func (n *names) contact(ctx context.Context, id peerid.ID) (rec *naming.ContactRecord, via peerid.ID, complete bool) {
	key := naming.ContactKey(n.cfg.Overlay.ID, id)
	res := n.db.replicasOf(ctx, key)
	for _, f := range res.found {
		r, err := n.check.OpenContact(key, f.value)
		if err != nil || r.Peer != id || rec != nil && r.Seq <= rec.Seq {
			continue
		}
		rec, via = r, fromPeer(f.from)
	}
	if rec != nil {
		n.cfg.Roster.Note(rec.Member())
		n.setHint(id, contacts(rec.Contact))
	}
	return rec, via, n.believes(res)
}

// believes says whether a walk has heard from enough servers to say that there
// is no record. A peer that is cut off from members it knows cannot tell from its
// own part alone.
func (n *names) believes(r walkResult) bool {
	if !r.complete() {
		return false
	}
	alone := r.self && r.answered == 1
	return !alone || len(n.cfg.Mesh.Neighbors()) > 0 || n.cfg.Remembered() == 0
}

// forget drops what is cached of a peer.
func (n *names) forget(p peerid.ID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hints.Remove(p)
	for _, label := range n.cache.Keys() {
		if c, _ := n.cache.Peek(label); c.found.Peer == p {
			n.cache.Remove(label)
		}
	}
}

// outdate drops what is cached and contradicts a peer's new record.
func (n *names) outdate(r *naming.Record) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, label := range n.cache.Keys() {
		if c, _ := n.cache.Peek(label); c.found.Peer == r.Peer && (label != r.Label || r.Tombstone) {
			n.cache.Remove(label)
		}
	}
}
