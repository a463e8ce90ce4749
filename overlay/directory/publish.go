package directory

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	kb "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/pause"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/naming"
)

const (
	publishEvery = time.Hour
	contactEvery = 30 * time.Minute
	// publishPause is the least time between two rounds, so that a crowd
	// that arrives does not cause a put each; a put that no server has taken
	// is repeated without it.
	publishPause = 5 * time.Second
	// publishSettle lets what comes together be put together.
	publishSettle = 100 * time.Millisecond
	// A put that failed although servers are known is repeated after this,
	// doubled up to publishRetryMax.
	publishRetry    = time.Second
	publishRetryMax = time.Minute
	publishTimeout  = 15 * time.Second
)

// publisher keeps this peer's name record and contact record in the database
// (draft §5, DESIGN §8 and §14.5). Puts are caused by events: a server that
// appears, a change of what the records say, and the hour. While no server is
// connected nothing is sent. It is safe for concurrent use.
type publisher struct {
	cfg  *Config
	db   store
	kick chan struct{}
	soon chan struct{}       // the pause between two rounds may end
	more func() []*ownRecord // others of this peer's, which are put elsewhere and kept up here

	round chan struct{} // full while a round goes on: one at a time

	mu      sync.Mutex         // guards the rest
	stop    context.CancelFunc // ends the round that goes on, or the last one; nil: there was none
	seq     uint64
	why     reason
	label   string       // of names
	names   []*ownRecord // the name record under its keys
	contact *ownRecord
	members []peerid.ID // that the last contact record named
	hints   []peerid.ID // that the last name record named
	settled bool        // the name is decided; nothing is put before
	card    card
	ended   bool

	unsaid bool          // that the newest version of the name is in the database
	placed chan struct{} // closed once whoever asks for the name finds it
	found  bool          // it is closed
}

// card is the name record that this peer's hellos carry: the one that was
// signed last. Those connected are shown another one when it says something
// else, and when what they have seen gets old.
type card struct {
	value  []byte
	chain  []byte
	label  string
	signed time.Time
	shown  time.Time // to all who were connected then
}

// reason says what a round has to put.
type reason uint8

const (
	nameDue    reason = 1 << iota // a new version of the name record
	contactDue                    // a new version of the contact record
	holdersDue                    // servers lack what there is
)

func newPublisher(cfg *Config, db store, seq uint64) *publisher {
	return &publisher{
		cfg: cfg, db: db, kick: make(chan struct{}, 1), soon: make(chan struct{}, 1), round: make(chan struct{}, 1), placed: make(chan struct{}), seq: seq,
		contact: newOwnRecord(naming.ContactKey(cfg.Overlay.ID, cfg.Self), contactEvery),
		more:    func() []*ownRecord { return nil },
	}
}

// Publish puts this peer's records for the first time: its name is decided.
func (d *Directory) Publish(ctx context.Context) {
	ctx, cancel := within(ctx, d.ctx)
	defer cancel()
	d.publisher.publish(ctx)
}

// Changed is to be called when this peer's chain, label or addresses are others.
func (d *Directory) Changed() { d.publisher.due(nameDue | contactDue) }

// Renewed is to be called when an issuer has confirmed this peer's membership: it
// is Changed, and all connected are shown the new record at once.
func (d *Directory) Renewed() {
	d.publisher.showAll(true)
	d.Changed()
}

// OwnRecord returns this peer's name record for a hello, nil while the name is not
// decided: others would take it for this peer's.
func (d *Directory) OwnRecord() []byte { return d.publisher.show() }

// Withdraw gives this peer's name up in the database: whoever asks for it is told
// from then on that there is none; and its users with it. Nothing is published any more. It tries again as
// long as ctx lasts, for at most 15 s, and fails if there are servers and none has
// taken it.
func (d *Directory) Withdraw(ctx context.Context) error {
	ctx, cancel := within(ctx, d.ctx)
	defer cancel()
	d.withdrawUsers(ctx)
	return d.publisher.withdraw(ctx)
}

// within returns a context for one round, that ends with either of two.
func within(ctx, other context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	stop := context.AfterFunc(other, cancel)
	return ctx, func() { stop(); cancel() }
}

func (p *publisher) lastSeq() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seq
}

// due has a round put something.
func (p *publisher) due(why reason) {
	p.mu.Lock()
	p.why |= why
	settled := p.settled
	p.mu.Unlock()
	if !settled {
		return
	}
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// records returns what there is to put.
func (p *publisher) records() []*ownRecord {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append(append(slices.Clone(p.names), p.contact), p.more()...)
}

// nextSeq is the number of a record that is signed now.
func (p *publisher) nextSeq() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seq = naming.Seq(p.cfg.Now(), p.seq)
	return p.seq
}

// serverFound is called when a server has said hello. If it lacks what it should
// have it is given that; else nothing is due.
func (p *publisher) serverFound(s peer.ID) {
	p.mu.Lock()
	waiting := p.why != 0
	p.mu.Unlock()
	if waiting || slices.ContainsFunc(p.records(), func(r *ownRecord) bool { return r.scarce(p.db) || r.lackedBy(p.db, s) }) {
		p.due(holdersDue)
	}
}

// forgetHolder notes that a server has only just begun, or is no member any more.
func (p *publisher) forgetHolder(s peer.ID) {
	for _, r := range p.records() {
		r.forget(s)
	}
}

// holds says whether a server has a record of this peer's.
func (p *publisher) holds(s peer.ID) bool {
	return slices.ContainsFunc(p.records(), func(r *ownRecord) bool { return r.heldBy(s) })
}

// loseHolder notes that a server is gone: what it had is given to the next nearest,
// if that is connected, and put anew if only few others have it.
func (p *publisher) loseHolder(s peer.ID) {
	for _, r := range p.records() {
		if !r.heldBy(s) {
			continue
		}
		r.forget(s)
		if r.scarce(p.db) || len(r.lacking(p.db)) > 0 {
			p.due(holdersDue)
		}
	}
}

// contactsChanged: a connection came or went. The contact record follows at
// once. The name record, which is put under three keys, has its contacts as a
// hint only: it is put again when none of them is connected any more.
func (p *publisher) contactsChanged() {
	p.mu.Lock()
	now := p.contactsLocked()
	var why reason
	if !slices.Equal(p.members, now) {
		why = contactDue
	}
	if len(now) > 0 && !slices.ContainsFunc(p.hints, p.connected) {
		why |= nameDue
	}
	p.mu.Unlock()
	if why != 0 {
		p.due(why)
	}
}

func (p *publisher) connected(id peerid.ID) bool {
	_, ok := p.cfg.Mesh.Member(toPeer(id))
	return ok
}

// contactsLocked are the members through which this peer is reached: those
// connected that serve; of these first the ones that the last record named, so
// that not each newcomer causes a put, then the nearest to this peer, because
// that is where a walk would look. One invitation has not all of them, where there are
// others: whoever holds a token can be any number of members, and pass nothing on.
func (p *publisher) contactsLocked() []peerid.ID {
	self := kb.ConvertPeerID(toPeer(p.cfg.Self))
	type near struct {
		id   peerid.ID
		rank int
		dist kb.ID
	}
	var all []near
	for _, n := range p.cfg.Mesh.Neighbors() {
		if n.NoRelay {
			continue
		}
		rank := 0
		if !n.Server {
			rank += 2
		}
		if !slices.Contains(p.members, n.ID) {
			rank++
		}
		all = append(all, near{n.ID, rank, distance(kb.ConvertPeerID(n.Peer), self)})
	}
	slices.SortFunc(all, func(a, b near) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), slices.Compare(a.dist, b.dist), a.id.Compare(b.id))
	})
	var out, more []peerid.ID
	of := &crowd{}
	for _, n := range all {
		var a account.Account
		if m, ok := p.cfg.Roster.Member(n.id); ok {
			a = m.Account()
		}
		if of.add(a) {
			more = append(more, n.id)
		} else {
			out = append(out, n.id)
		}
	}
	out = append(out, more...)
	return out[:min(len(out), naming.MaxMembers)]
}

// run puts what is due until ctx ends.
func (p *publisher) run(ctx context.Context) {
	name, contact := time.NewTimer(publishEvery), time.NewTimer(contactEvery)
	defer name.Stop()
	defer contact.Stop()
	retry := publishRetry
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.kick:
			if !pause.For(ctx, publishSettle) {
				return
			}
		case <-name.C:
			p.due(nameDue)
			name.Reset(publishEvery)
			continue
		case <-contact.C:
			p.due(contactDue)
			contact.Reset(contactEvery)
			continue
		}
		again := p.put(ctx)
		wait := publishPause
		switch {
		case !again:
			retry = publishRetry
		case len(p.db.servers()) == 0:
			continue // the next that appears kicks
		default:
			wait, retry = retry, min(2*retry, publishRetryMax)
			p.due(holdersDue)
		}
		if !p.rest(ctx, wait) {
			return
		}
	}
}

// rest waits between two rounds, less if a server has come that lacks the
// records. It says whether ctx has not ended.
func (p *publisher) rest(ctx context.Context, wait time.Duration) bool {
	if !pause.For(ctx, min(wait, publishSettle)) {
		return false
	}
	t := time.NewTimer(wait - min(wait, publishSettle))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-p.soon:
	case <-t.C:
	}
	return true
}

// endPause is called when a server has come that has only just begun: whoever asks
// there for this peer's name is told that there is none until it is put.
func (p *publisher) endPause() {
	select {
	case p.soon <- struct{}{}:
	default:
	}
}

func (p *publisher) publish(ctx context.Context) {
	p.mu.Lock()
	p.settled = true
	p.why = nameDue | contactDue
	p.mu.Unlock()
	if p.put(ctx) && len(p.db.servers()) > 0 {
		p.due(holdersDue)
	}
}

// begin waits until no other round goes on, and says whether ctx has not ended before;
// end must follow if so.
func (p *publisher) begin(ctx context.Context) bool {
	select {
	case p.round <- struct{}{}: // also when ctx has ended: versions are kept here
		return true
	default:
	}
	select {
	case p.round <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (p *publisher) end() { <-p.round }

// put is one round: it makes the new versions that are due and brings all records
// to the servers that lack them. It says whether there is more to do. Without a
// server that is connected it keeps the versions here, and the rest stays due.
func (p *publisher) put(ctx context.Context) (again bool) {
	if !p.begin(ctx) {
		return true
	}
	defer p.end()
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	chain, label, _ := p.cfg.Roster.Own()
	p.mu.Lock()
	p.stop = cancel
	why := p.why
	p.why = 0
	ended := p.ended
	contact := naming.Contact{Members: p.contactsLocked()}
	if !slices.Equal(p.members, contact.Members) {
		why |= contactDue
	}
	p.members = contact.Members
	if why&nameDue != 0 {
		p.hints = contact.Members
	}
	p.mu.Unlock()
	p.cfg.Mesh.KeepNamed(contact.Members)
	if ended {
		return false
	}
	var fresh []*ownRecord
	if why&contactDue != 0 {
		fresh = append(fresh, p.signContact(chain, contact)...)
	}
	if why&nameDue != 0 && label != "" {
		fresh = append(fresh, p.signName(chain, label, contact, false)...)
	}
	return p.bring(ctx, fresh, label)
}

// bring brings new versions to the servers that should have them, and gives the
// other records to those that lack them.
func (p *publisher) bring(ctx context.Context, fresh []*ownRecord, label string) (again bool) {
	for _, r := range fresh {
		if err := p.db.keep(ctx, r.key, r.value); err != nil {
			p.cfg.Log.Debug("keeping a record of this peer's", "label", label, "err", err)
		}
	}
	if slices.ContainsFunc(fresh, func(r *ownRecord) bool { return r != p.contact }) {
		p.mu.Lock()
		p.unsaid = true
		p.mu.Unlock()
	}
	if len(p.db.servers()) == 0 {
		p.notePlaced(label)
		return true
	}
	all := p.records()
	var wg sync.WaitGroup
	for _, r := range all {
		wg.Go(func() {
			if !slices.Contains(fresh, r) && !r.scarce(p.db) {
				r.giveLacking(ctx, p.db)
				return
			}
			if _, err := r.put(ctx, p.db, false); err != nil {
				p.cfg.Log.Debug("putting a record of this peer's", "label", label, "err", err)
			}
		})
	}
	wg.Wait()
	p.notePlaced(label)
	return slices.ContainsFunc(all, func(r *ownRecord) bool { return r.scarce(p.db) || len(r.lacking(p.db)) > 0 })
}

func (p *publisher) show() []byte {
	chain, label, confirmed := p.cfg.Roster.Own()
	p.mu.Lock()
	defer p.mu.Unlock()
	if label == "" || !confirmed && !p.settled {
		return nil
	}
	current := p.card.label == label && bytes.Equal(p.card.chain, chain) && time.Since(p.card.signed) < naming.MaxLife/2
	if p.ended || current {
		return p.card.value
	}
	if _, err := p.signLocked(chain, label, naming.Contact{Members: p.contactsLocked()}, false); err != nil {
		p.cfg.Log.Error("signing the name record", "label", label, "err", err)
		return nil
	}
	return p.card.value
}

// signLocked makes a name record, which hellos carry from then on.
func (p *publisher) signLocked(chain []byte, label string, contact naming.Contact, tombstone bool) ([]byte, error) {
	now := p.cfg.Now()
	p.seq = naming.Seq(now, p.seq)
	rec := naming.Record{
		Label: label, Seq: p.seq, Issued: now, Expires: now.Add(naming.MaxLife),
		Tombstone: tombstone, Contact: contact, Chain: chain,
	}
	value, err := rec.Sign(p.cfg.Key, p.cfg.Overlay)
	if err == nil {
		p.card.value, p.card.chain, p.card.label, p.card.signed = value, chain, label, time.Now()
	}
	return value, err
}

// showAll shows the record to those connected, if it is time for that.
func (p *publisher) showAll(always bool) {
	p.mu.Lock()
	due := always || time.Since(p.card.shown) > publishEvery/2
	if due {
		p.card.shown = time.Now()
	}
	p.mu.Unlock()
	if due {
		p.cfg.Mesh.Greet()
	}
}

// signName makes a new version of the name record, shows it to those connected and
// returns it under its keys.
func (p *publisher) signName(chain []byte, label string, contact naming.Contact, tombstone bool) []*ownRecord {
	p.mu.Lock()
	value, err := p.signLocked(chain, label, contact, tombstone)
	if err == nil && label != p.label {
		p.label, p.names = label, nil
		for _, key := range naming.Keys(p.cfg.Overlay.ID, label) {
			p.names = append(p.names, newOwnRecord(key, publishEvery))
		}
	}
	names := p.names
	p.mu.Unlock()
	if err != nil {
		p.cfg.Log.Error("signing the name record", "label", label, "err", err)
		return nil
	}
	for _, r := range names {
		r.set(value)
	}
	p.showAll(tombstone)
	return names
}

// signContact makes a new version of the contact record.
func (p *publisher) signContact(chain []byte, contact naming.Contact) []*ownRecord {
	now := p.cfg.Now()
	rec := naming.ContactRecord{
		Seq: p.nextSeq(), Issued: now, Expires: now.Add(naming.MaxContactLife), Contact: contact, Chain: chain,
		Addrs: p.cfg.Addrs(naming.MaxAddrs),
	}
	value, err := rec.Sign(p.cfg.Key, p.cfg.Overlay)
	if err != nil {
		p.cfg.Log.Error("signing the contact record", "err", err)
		return nil
	}
	p.contact.set(value)
	return []*ownRecord{p.contact}
}

// withdraw puts a tombstone: the name is given up at once instead of when its
// record expires. A round that goes on ends: what it puts is not wanted any more, and
// it may take as long as this may.
func (p *publisher) withdraw(ctx context.Context) error {
	p.mu.Lock()
	p.ended = true
	if p.stop != nil {
		p.stop()
	}
	p.mu.Unlock()
	chain, label, _ := p.cfg.Roster.Own()
	if label == "" {
		return nil
	}
	if !p.begin(ctx) {
		return fmt.Errorf("giving up the name %q: %w", label, ctx.Err())
	}
	defer p.end()
	names := p.signName(chain, label, naming.Contact{}, true)
	taken := p.putTombstone(ctx, names)
	for !taken && len(p.db.servers()) > 0 && pause.For(ctx, publishRetry) {
		taken = p.putTombstone(ctx, names)
	}
	switch {
	case taken:
		p.cfg.Events.Emit(event.Event{Kind: event.NamePublished, Name: p.cfg.Overlay.FullName(label)})
		return nil
	case len(p.cfg.Mesh.Neighbors()) == 0 && p.cfg.Remembered() == 0:
		return nil // there never was anybody to tell
	case len(p.cfg.Mesh.Neighbors()) == 0:
		return fmt.Errorf("giving up the name %q: no member is connected", label)
	case ctx.Err() != nil:
		return fmt.Errorf("giving up the name %q: no server of the database has taken the tombstone: %w", label, ctx.Err())
	}
	return fmt.Errorf("giving up the name %q: no server of the database has taken the tombstone", label)
}

// putTombstone says whether any server has taken one under any of the name's keys.
func (p *publisher) putTombstone(ctx context.Context, names []*ownRecord) bool {
	taken := make([]int, len(names))
	var wg sync.WaitGroup
	for i, r := range names {
		wg.Go(func() { taken[i], _ = r.put(ctx, p.db, true) })
	}
	wg.Wait()
	return len(taken) > 0 && slices.Max(taken) > 0
}
