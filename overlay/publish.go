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
	stored  int // servers that took the name in the last round
	members []peerid.ID
	settled bool // the name is decided; nothing is put before
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

// serverFound: there is a new place for the records. Beyond twice the
// replicas it hardly is among the nearest, and the hour will do.
func (p *publisher) serverFound() {
	p.mu.Lock()
	few := p.stored < 2*replicas
	p.mu.Unlock()
	if few {
		p.due(nameDue | contactDue)
	}
}

// contactChanged: a connection came or went.
func (p *publisher) contactChanged() {
	p.mu.Lock()
	same := slices.Equal(p.members, p.contacts())
	p.mu.Unlock()
	if !same {
		p.due(nameDue | contactDue)
	}
}

// contacts are the members through which this peer is reached: those
// connected that serve, the nearest to this peer first, because that is where
// a walk would look.
func (p *publisher) contacts() []peerid.ID {
	self := kb.ConvertPeerID(p.o.host.ID())
	type near struct {
		id     peerid.ID
		server bool
		dist   kb.ID
	}
	var all []near
	for _, d := range p.o.gate.members() {
		if d.flags&flagNoRelay != 0 {
			continue
		}
		all = append(all, near{d.id, p.o.db.speaks(d), distance(kb.ConvertPeerID(d.peer), self)})
	}
	slices.SortFunc(all, func(a, b near) int {
		if a.server != b.server {
			if a.server {
				return -1
			}
			return 1
		}
		return cmp.Or(slices.Compare(a.dist, b.dist), a.id.Compare(b.id))
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
		stored := p.now(ctx)
		wait := publishPause
		switch {
		case stored > 0 || len(p.o.db.servers()) == 0:
			// Kept; if no server is known, the next that appears kicks.
			retry = publishRetry
		default:
			wait, retry = retry, min(2*retry, publishRetryMax)
			p.due(nameDue | contactDue)
		}
		if stored == 0 && len(p.o.db.servers()) == 0 {
			continue
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
	p.mu.Unlock()
	if p.now(ctx) == 0 && len(p.o.db.servers()) > 0 {
		p.due(nameDue | contactDue)
	}
}

// now puts both records once and returns how many other servers took the
// name.
func (p *publisher) now(ctx context.Context) int {
	p.round.Lock()
	defer p.round.Unlock()
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	stop := context.AfterFunc(p.o.ctx, cancel)
	defer stop()
	p.mu.Lock()
	p.why = 0
	ended := p.ended
	p.members = p.contacts()
	contact := naming.Contact{Members: p.members}
	p.mu.Unlock()
	if ended {
		return 0
	}
	p.o.mu.Lock()
	chain, label := p.o.chain, p.o.label
	p.o.mu.Unlock()

	var wg sync.WaitGroup
	wg.Go(func() { p.putContact(ctx, chain, contact) })
	stored := 0
	if label != "" {
		stored = p.putName(ctx, chain, label, contact, false)
	}
	wg.Wait()
	return stored
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
	p.mu.Lock()
	p.stored = stored
	p.mu.Unlock()
	if stored > 0 || p.o.db.isServer() {
		p.o.cfg.Events.Emit(event.Event{Kind: event.NamePublished, Name: p.o.fullName(label)})
	}
	return stored
}

func (p *publisher) putContact(ctx context.Context, chain []byte, contact naming.Contact) {
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
		return
	}
	if _, err := p.o.db.put(ctx, naming.ContactKey(p.o.ov.ID, p.o.self), value); err != nil {
		p.o.log.Debug("putting the contact record", "err", err)
	}
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
