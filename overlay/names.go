package overlay

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/state"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/naming"
)

const (
	// cacheLife is how long a good answer is given again without asking.
	cacheLife = 30 * time.Second
	cacheMax  = 1024
	// enough replicas with the same record end a read at once.
	enough  = 3
	seenMax = 16384
)

// names answers questions about names. It is safe for concurrent use.
type names struct {
	o     *Overlay
	marks naming.HighWater // what was seen of each name, DESIGN §14.2

	mu      sync.Mutex // guards the rest
	cache   map[string]cached
	seq     uint64 // of the last record of our own that an earlier run put
	calls   map[string]*call
	members map[peerid.ID]*membership.Member // whose chain was seen
	hints   map[peerid.ID][]peerid.ID        // members connected to a peer, from its record
}

type cached struct {
	found   Found
	expires time.Time
}

// call is a question under way that others may wait for.
type call struct {
	done  chan struct{}
	found Found
	err   error
}

type savedNames struct {
	Marks *naming.HighWater `json:"marks"`
	Seq   uint64            `json:"seq"` // the last of our own records
}

func newNames(o *Overlay) (*names, error) {
	n := &names{
		o: o, cache: map[string]cached{}, calls: map[string]*call{},
		members: map[peerid.ID]*membership.Member{}, hints: map[peerid.ID][]peerid.ID{},
	}
	s := savedNames{Marks: &n.marks}
	if err := load(o.cfg.State, docNames, &s); err != nil {
		return nil, err
	}
	n.seq = s.Seq
	return n, nil
}

func load(d *state.Dir, name string, v any) error {
	if d == nil {
		return nil
	}
	_, err := d.Load(name, v)
	return err
}

func (n *names) save() error {
	if n.o.cfg.State == nil {
		return nil
	}
	s := savedNames{Marks: &n.marks, Seq: n.seq}
	if n.o.publisher != nil {
		s.Seq = n.o.publisher.lastSeq()
	}
	return n.o.cfg.State.Save(docNames, s)
}

// saw notes that a peer has shown a valid chain: from now on its ID label
// resolves.
func (n *names) saw(m *membership.Member) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.members) >= seenMax {
		clear(n.members)
	}
	n.members[m.Peer] = m
}

// holds says whether a peer other than p has shown a confirmed certificate for
// a label.
func (n *names) holds(label string, p peerid.ID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for id, m := range n.members {
		if id != p && m.Confirmed && m.Label == label && n.o.now().Before(m.NotAfter) && !n.o.revoked.Load().Revokes(m) {
			return true
		}
	}
	return false
}

// putOut says whether a peer that showed a certificate for a label was revoked.
func (n *names) putOut(label string) bool {
	id, isPeer := naming.PeerLabel(label)
	n.mu.Lock()
	defer n.mu.Unlock()
	for p, m := range n.members {
		if (isPeer && p == id || m.Label == label) && n.o.revoked.Load().Revokes(m) {
			return true
		}
	}
	return false
}

// hint returns members that a peer said it is connected to.
func (n *names) hint(p peerid.ID) []peerid.ID {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.hints[p]
}

func (n *names) setHint(p peerid.ID, via []peerid.ID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.hints) >= cacheMax {
		clear(n.hints)
	}
	n.hints[p] = via
}

// Resolve returns the peer that has a label. The error is ErrNotFound only if
// enough servers have answered, and ErrUnavailable, which is temporary, if
// not. A label that is a peer ID needs no record, only that the peer has once
// shown its membership.
func (o *Overlay) Resolve(ctx context.Context, label string) (Found, error) {
	label = strings.ToLower(label)
	start := time.Now()
	o.cfg.Events.Emit(event.Event{Kind: event.NameAsked, Name: o.fullName(label)})
	f, err := o.names.resolve(ctx, label)
	if errors.Is(err, ErrNotFound) && o.names.putOut(label) {
		err = ErrRevoked
	}
	if err != nil {
		o.cfg.Events.Emit(event.Event{Kind: event.NameFailed, Name: o.fullName(label), Err: err.Error(), Duration: time.Since(start)})
		return Found{}, fmt.Errorf("name %q: %w", label, err)
	}
	o.cfg.Events.Emit(event.Event{Kind: event.NameResolved, Name: o.fullName(label), Peer: f.Peer, Via: f.Via, Duration: time.Since(start)})
	return f, nil
}

func (n *names) resolve(ctx context.Context, label string) (Found, error) {
	if n.o.ctx.Err() != nil {
		return Found{}, ErrClosed
	}
	if label == n.o.Label() {
		return Found{Peer: n.o.self, Label: label, Via: n.o.self}, nil
	}
	if id, ok := naming.PeerLabel(label); ok {
		return n.resolvePeer(ctx, id, label)
	}
	if membership.CheckLabel(label) != nil {
		return Found{}, ErrNotFound // no record could be stored for it
	}
	n.mu.Lock()
	if c, ok := n.cache[label]; ok {
		if time.Now().Before(c.expires) {
			n.mu.Unlock()
			return c.found, nil
		}
		delete(n.cache, label)
	}
	c := n.calls[label]
	if c == nil {
		c = &call{done: make(chan struct{})}
		n.calls[label] = c
		n.mu.Unlock()
		// It runs for all who wait for it and does not end with the first.
		if !n.o.spawn(func() { n.run(label, c) }) {
			n.finish(label, c, Found{}, ErrClosed)
		}
	} else {
		n.mu.Unlock()
	}
	select {
	case <-c.done:
		return c.found, c.err
	case <-ctx.Done():
		return Found{}, ctx.Err()
	}
}

func (n *names) run(label string, c *call) {
	// A server that is merely slow has not said anything about the name: as
	// long as one is connected, ask again.
	deadline := time.Now().Add(lookupTimeout)
	f, err := n.read(n.o.ctx, label)
	for errors.Is(err, ErrUnavailable) && time.Now().Before(deadline) && len(n.o.db.servers()) > 0 {
		if !pause(n.o.ctx, askAgain) {
			break
		}
		f, err = n.read(n.o.ctx, label)
	}
	n.finish(label, c, f, err)
}

func (n *names) finish(label string, c *call, f Found, err error) {
	c.found, c.err = f, err
	n.mu.Lock()
	delete(n.calls, label)
	n.mu.Unlock()
	close(c.done)
}

// read asks the servers and judges what they say.
func (n *names) read(ctx context.Context, label string) (Found, error) {
	rec, via, complete, untimely := n.fetch(ctx, label)
	if rec == nil {
		if untimely != nil {
			return Found{}, temporaryError{untimely}
		}
		if complete {
			return Found{}, ErrNotFound
		}
		return Found{}, temporaryError{ErrUnavailable}
	}
	if err := n.marks.Accept(rec); err != nil {
		return Found{}, temporaryError{err}
	}
	if rec.Tombstone {
		return Found{}, ErrNotFound
	}
	n.saw(rec.Member())
	n.setHint(rec.Peer, append(append([]peerid.ID(nil), rec.Contact.Members...), rec.Contact.Relays...))
	f := Found{Peer: rec.Peer, Label: label, Via: via}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.cache) >= cacheMax {
		clear(n.cache)
	}
	expires := time.Now().Add(cacheLife)
	if rec.Expires.Before(expires) {
		expires = rec.Expires
	}
	n.cache[label] = cached{f, expires}
	return f, nil
}

// fetch reads the record of a label from all its keys, and says who gave the
// one that counts, or whether enough servers have said that there is none.
// untimely is not nil if at least half of those that answered gave a record
// that is far out of its time: rather than that so many keep what is stale,
// this machine's clock is wrong. Or all were older than what was seen before.
func (n *names) fetch(ctx context.Context, label string) (rec *naming.Record, via peerid.ID, complete bool, untimely error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	keys := naming.Keys(n.o.ov.ID, label)
	ask := keys[:]
	if n.o.db.small() {
		ask = keys[:1] // every server keeps every record
	}
	var (
		mu    sync.Mutex
		all   []found
		old   error // a record that this reader has seen a newer one of
		timer *time.Timer
		wg    sync.WaitGroup
	)
	complete = true
	each := func(f found) bool {
		mu.Lock()
		defer mu.Unlock()
		if r, err := naming.Parse(f.value); err == nil && n.marks.Behind(r) {
			old = fmt.Errorf("%q: %w: %d", label, naming.ErrRolledBack, r.Seq)
			return true // no answer: not that of a server which is up to date
		}
		all = append(all, f)
		if timer == nil {
			timer = time.AfterFunc(settle, cancel)
		}
		return agreeing(all, f.value) < enough
	}
	for _, key := range ask {
		wg.Go(func() {
			res := n.o.db.walk(ctx, key, each)
			mu.Lock()
			defer mu.Unlock()
			complete = complete && n.believes(res)
			if res.untimely > 0 && 2*res.untimely >= res.answered {
				untimely = res.late
			}
			if len(all) > 0 && agreeing(all, all[len(all)-1].value) >= enough {
				cancel() // the walks of the other keys may end
			}
		})
	}
	wg.Wait()
	if timer != nil {
		timer.Stop()
	}
	values := make([][]byte, len(all))
	for i, f := range all {
		values[i] = f.value
	}
	if len(values) == 0 {
		return nil, via, complete, cmp.Or(untimely, old)
	}
	rec, err := n.o.validator.SelectName(label, values)
	if err != nil {
		return nil, via, false, untimely
	}
	for _, f := range all {
		if r, err := naming.Parse(f.value); err == nil && r.Peer == rec.Peer && r.Seq == rec.Seq {
			via, _ = fromLibp2p(f.from)
			break
		}
	}
	return rec, via, complete, nil
}

// agreeing counts the servers that gave a value.
func agreeing(all []found, value []byte) int {
	from := map[peer.ID]bool{}
	for _, f := range all {
		if bytes.Equal(f.value, value) {
			from[f.from] = true
		}
	}
	return len(from)
}

// resolvePeer answers for a peer-ID label: the ID is the answer, if a valid
// chain for it was ever seen (DESIGN §14.12); else its contact record is
// looked for, which carries one.
func (n *names) resolvePeer(ctx context.Context, id peerid.ID, label string) (Found, error) {
	f := Found{Peer: id, Label: label, Via: n.o.self}
	if id == n.o.self || n.known(id) {
		return f, nil
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

// known says whether a valid chain of the peer was seen.
func (n *names) known(id peerid.ID) bool {
	m, ok := n.o.gate.member(toLibp2p(id))
	if !ok {
		n.mu.Lock()
		m = n.members[id]
		n.mu.Unlock()
	}
	return m != nil && n.o.now().Before(m.NotAfter) && !n.o.revoked.Load().Revokes(m)
}

// contact reads a peer's contact record.
func (n *names) contact(ctx context.Context, id peerid.ID) (rec *naming.ContactRecord, via peerid.ID, complete bool) {
	key := naming.ContactKey(n.o.ov.ID, id)
	res := n.o.db.walk(ctx, key, nil)
	for _, f := range res.found {
		r, err := n.o.validator.OpenContact(key, f.value)
		if err != nil || r.Peer != id || rec != nil && r.Seq <= rec.Seq {
			continue
		}
		rec = r
		via, _ = fromLibp2p(f.from)
	}
	if rec != nil {
		n.saw(rec.Member())
		n.setHint(id, append(append([]peerid.ID(nil), rec.Contact.Members...), rec.Contact.Relays...))
	}
	return rec, via, n.believes(res)
}

// believes says whether a walk has heard from enough servers to say that there
// is no record. A peer that is cut off from members it knows, or that has just
// taken the database over because nobody served it any more, cannot tell from
// its own part alone.
func (n *names) believes(r walkResult) bool {
	if !r.complete() {
		return false
	}
	if !r.self || r.answered > 1 {
		return true
	}
	if len(n.o.gate.members()) == 0 && len(n.o.peers.addrInfos()) > 0 {
		return false
	}
	return !n.o.db.tookOver()
}

// forget drops what is cached of a peer: it could not be reached, or is none
// of ours any more.
func (n *names) forget(p peerid.ID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.hints, p)
	for k, c := range n.cache {
		if c.found.Peer == p {
			delete(n.cache, k)
		}
	}
}
