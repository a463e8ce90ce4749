package overlay

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	kb "github.com/libp2p/go-libp2p-kbucket"

	"github.com/idloc/idloc/internal/event"
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
// appears, a change of what the records say, and the hour. It is safe for
// concurrent use.
type publisher struct {
	o    *Overlay
	kick chan struct{}

	round sync.Mutex // one round at a time

	mu      sync.Mutex // guards the rest
	seq     uint64
	why     reason
	members []peerid.ID // that the last contact record named
	hints   []peerid.ID // that the last name record named
	settled bool        // the name is decided; nothing is put before
	ended   bool
}

// reason says what a round has to put.
type reason uint8

const (
	nameDue reason = 1 << iota
	contactDue
)

func newPublisher(o *Overlay) *publisher {
	return &publisher{o: o, kick: make(chan struct{}, 1), seq: o.names.seq}
}

func (p *publisher) lastSeq() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seq
}

func (p *publisher) nextSeq() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seq = naming.Seq(p.o.now(), p.seq)
	return p.seq
}

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

// changed: the chain or the label is another one.
func (p *publisher) changed() { p.due(nameDue | contactDue) }

// serverFound: there is a new place for the records. With more servers than
// twice the replicas it is hardly among the nearest; if it is, those that have
// the records hand them over (handover.go).
func (p *publisher) serverFound() {
	if len(p.o.db.servers()) <= 2*replicas {
		p.due(nameDue | contactDue)
	}
}

// contactChanged: a connection came or went. The contact record follows at
// once. The name record, which is put under three keys, has its contacts as a
// hint only: it is put again when none of them is connected any more.
func (p *publisher) contactChanged() {
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
	_, ok := p.o.gate.member(toLibp2p(id))
	return ok
}

// contactsLocked are the members through which this peer is reached: those
// connected that serve; of these first the ones that the last record named, so
// that not each newcomer causes a put, then the nearest to this peer, because
// that is where a walk would look.
func (p *publisher) contactsLocked() []peerid.ID {
	self := kb.ConvertPeerID(p.o.host.ID())
	type near struct {
		id   peerid.ID
		rank int
		dist kb.ID
	}
	var all []near
	for _, d := range p.o.gate.members() {
		if d.flags&flagNoRelay != 0 {
			continue
		}
		rank := 0
		if !p.o.db.speaks(d) {
			rank += 2
		}
		if !slices.Contains(p.members, d.id) {
			rank++
		}
		all = append(all, near{d.id, rank, distance(kb.ConvertPeerID(d.peer), self)})
	}
	slices.SortFunc(all, func(a, b near) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), slices.Compare(a.dist, b.dist), a.id.Compare(b.id))
	})
	var out []peerid.ID
	for _, n := range all[:min(len(all), naming.MaxMembers)] {
		out = append(out, n.id)
	}
	return out
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
			if !pause(ctx, publishSettle) {
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
		again := p.now(ctx)
		wait := publishPause
		switch {
		case again == 0:
			retry = publishRetry
		case len(p.o.db.servers()) == 0:
			continue // the next that appears kicks
		default:
			wait, retry = retry, min(2*retry, publishRetryMax)
			p.due(again)
		}
		if !pause(ctx, wait) {
			return
		}
	}
}

// pause waits, and says whether ctx has not ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// first puts the records for the first time: the name is decided.
func (p *publisher) first(ctx context.Context) {
	p.mu.Lock()
	p.settled = true
	p.why = nameDue | contactDue
	p.mu.Unlock()
	if again := p.now(ctx); again != 0 && len(p.o.db.servers()) > 0 {
		p.due(again)
	}
}

// now puts what is due once, and returns what no other server has taken.
func (p *publisher) now(ctx context.Context) (again reason) {
	p.round.Lock()
	defer p.round.Unlock()
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	stop := context.AfterFunc(p.o.ctx, cancel)
	defer stop()
	p.o.mu.Lock()
	chain, label := p.o.chain, p.o.label
	p.o.mu.Unlock()
	p.mu.Lock()
	why := p.why
	p.why = 0
	ended := p.ended
	contact := naming.Contact{Members: p.contactsLocked()}
	p.members = contact.Members
	if why&nameDue != 0 {
		p.hints = contact.Members
	}
	p.mu.Unlock()
	p.o.keeper.setNamed(contact.Members)
	if ended {
		return 0
	}

	var wg sync.WaitGroup
	contacted := 0
	wg.Go(func() { contacted = p.putContact(ctx, chain, contact) })
	if why&nameDue != 0 && label != "" && p.putName(ctx, chain, label, contact, false) == 0 {
		again |= nameDue
	}
	wg.Wait()
	if contacted == 0 {
		again |= contactDue
	}
	return again
}

// putName signs and puts the name record under its keys.
func (p *publisher) putName(ctx context.Context, chain []byte, label string, contact naming.Contact, tombstone bool) int {
	now := p.o.now()
	rec := naming.Record{
		Label: label, Seq: p.nextSeq(), Issued: now, Expires: now.Add(naming.MaxLife),
		Tombstone: tombstone, Contact: contact, Chain: chain,
	}
	value, err := rec.Sign(p.o.cfg.Key, p.o.ov)
	if err != nil {
		p.o.log.Error("signing the name record", "label", label, "err", err)
		return 0
	}
	keys := naming.Keys(p.o.ov.ID, label)
	counts := make([]int, len(keys))
	var wg sync.WaitGroup
	for i, key := range keys {
		wg.Go(func() {
			n, err := p.o.db.put(ctx, key, value)
			if err != nil {
				p.o.log.Debug("putting the name record", "label", label, "key", i, "err", err)
			}
			counts[i] = n
		})
	}
	wg.Wait()
	stored := slices.Max(counts)
	if stored > 0 || p.o.db.isServer() {
		p.o.cfg.Events.Emit(event.Event{Kind: event.NamePublished, Name: p.o.fullName(label)})
	}
	return stored
}

// putContact signs and puts the contact record, and returns how many other
// servers took it.
func (p *publisher) putContact(ctx context.Context, chain []byte, contact naming.Contact) int {
	now := p.o.now()
	rec := naming.ContactRecord{
		Seq: p.nextSeq(), Issued: now, Expires: now.Add(naming.MaxContactLife), Contact: contact, Chain: chain,
	}
	for _, m := range p.o.host.Addrs() {
		if len(rec.Addrs) < naming.MaxAddrs {
			rec.Addrs = append(rec.Addrs, m.String())
		}
	}
	value, err := rec.Sign(p.o.cfg.Key, p.o.ov)
	if err != nil {
		p.o.log.Error("signing the contact record", "err", err)
		return 0
	}
	n, err := p.o.db.put(ctx, naming.ContactKey(p.o.ov.ID, p.o.self), value)
	if err != nil {
		p.o.log.Debug("putting the contact record", "err", err)
	}
	return n
}

// withdraw puts a tombstone: the name is given up at once instead of when its
// record expires. It fails if there are servers and none has taken it.
func (p *publisher) withdraw(ctx context.Context) error {
	p.round.Lock()
	defer p.round.Unlock()
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	stop := context.AfterFunc(p.o.ctx, cancel)
	defer stop()
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	p.o.mu.Lock()
	chain, label := p.o.chain, p.o.label
	p.o.mu.Unlock()
	if label == "" || p.putName(ctx, chain, label, naming.Contact{}, true) > 0 {
		return nil
	}
	if len(p.o.gate.members()) == 0 {
		if len(p.o.peers.addrInfos()) == 0 {
			return nil // there never was anybody to tell
		}
		return fmt.Errorf("giving up the name %q: no member is connected", label)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("giving up the name %q: %w", label, err)
	}
	return fmt.Errorf("giving up the name %q: no server of the database has taken the tombstone", label)
}

// Withdraw gives this peer's name up in the database, to be called before
// Close by a peer that does not come back soon: whoever asks for the name is
// told from then on that there is none. Nothing is published any more.
func (o *Overlay) Withdraw(ctx context.Context) error { return o.publisher.withdraw(ctx) }
