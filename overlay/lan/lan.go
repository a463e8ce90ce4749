package lan

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	mrand "math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"

	"github.com/idloc/idloc/internal/peerid"
)

const (
	askFirst    = 250 * time.Millisecond
	askMost     = time.Minute
	askSpread   = 120 * time.Millisecond
	answerLeast = 20 * time.Millisecond
	answerMost  = 120 * time.Millisecond
	answerEvery = time.Second
	enough      = 3
	meetEvery   = 15 * time.Second
	meetBurst   = 4
	sourcesMax  = 256  // whose meetings are counted
	maxMessage  = 9000 // bytes; RFC 6762 §17
)

// Place is an address of this peer on an interface.
type Place struct {
	Index int            // of the interface
	Addr  netip.AddrPort // of the node's socket
	Net   netip.Prefix   // the subnet
}

// Config is what a LAN works with. All of it is required.
type Config struct {
	Overlay [32]byte  // its ID
	Self    peerid.ID // who is announced
	// Places are where this peer is on networks that others may be on.
	Places func() []Place
	// Wanted says how many members this peer looks for at once; 0: for none.
	Wanted func() int
	// Inside says whether this peer has been let in: who has not is nobody to be met.
	Inside func() bool
	// Met is told of a member that says where it is, and tries to reach it until
	// that is done or ctx ends. The addresses are as good as hearsay. It is called from
	// several goroutines, for one member at a time from one.
	Met func(ctx context.Context, id peerid.ID, at []netip.AddrPort)
	Log *slog.Logger
}

// LAN announces one peer on its local networks, and finds others there. It is safe for
// concurrent use. A nil one does nothing.
type LAN struct {
	cfg      Config
	keys     keys
	instance string // random: nothing of the peer
	listen   func(index int, v6 bool) (conn, error)
	changes  chan struct{}
	heard    chan heard

	// sources are who had members met, by source address. It belongs to Run.
	sources *simplelru.LRU[netip.Addr, *rate.Limiter]

	mu       sync.Mutex // guards meetings
	meetings map[peerid.ID]bool
}

// link is one interface and family, on which a LAN speaks. It belongs to Run.
type link struct {
	place
	conn     conn
	at       []Place
	said     time.Time   // when this peer was last announced
	question time.Time   // when anybody was last heard to ask
	answer   time.Time   // when it is to be; zero: it is not
	asked    bool        // by a question, so that others' answers may make ours needless
	others   []peerid.ID // that have announced themselves since then, at most enough
}

type place struct {
	index int
	v6    bool
}

// heard is what came on a link.
type heard struct {
	link *link
	from netip.Addr
	parsed
}

// New makes a LAN that says nothing until Run.
func New(cfg Config) *LAN {
	name := make([]byte, 8)
	_, _ = rand.Read(name)                                                     // does not fail
	sources, _ := simplelru.NewLRU[netip.Addr, *rate.Limiter](sourcesMax, nil) // fails for sizes below 1
	return &LAN{
		cfg: cfg, keys: newKeys(cfg.Overlay), instance: hex.EncodeToString(name), listen: listen,
		changes: make(chan struct{}, 1), heard: make(chan heard), sources: sources, meetings: map[peerid.ID]bool{},
	}
}

// Changed tells that the peer's addresses are others, or that it has lost the members it
// had. It returns at once.
func (l *LAN) Changed() {
	if l == nil {
		return
	}
	select {
	case l.changes <- struct{}{}:
	default:
	}
}

// Run speaks and listens until ctx ends and all that it has begun is over.
func (l *LAN) Run(ctx context.Context) {
	if l == nil {
		return
	}
	var wg sync.WaitGroup // readers and meetings
	defer wg.Wait()
	links := map[place]*link{}
	defer func() {
		for _, k := range links {
			_ = k.conn.Close()
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var ask time.Time // when the question is due
	pause := askFirst
	l.Changed()
	for {
		timer.Reset(time.Until(nextDue(links, ask)))
		select {
		case <-ctx.Done():
			return
		case <-l.changes:
			l.open(ctx, &wg, links)
			now := time.Now()
			for _, k := range links {
				k.answer, k.asked = later(now, k.said.Add(answerEvery)), false
			}
			ask, pause = now.Add(mrand.N(askSpread)), askFirst
		case h := <-l.heard:
			l.hear(ctx, &wg, h)
		case <-timer.C:
		}
		now := time.Now()
		for _, k := range links {
			if k.answer.IsZero() || now.Before(k.answer) {
				continue
			}
			if k.answer = (time.Time{}); l.cfg.Inside() {
				k.said = now
				l.announce(k)
			}
		}
		if now.Before(ask) {
			continue
		}
		if l.cfg.Wanted() > 0 {
			l.ask(links, now)
		} else {
			pause = askMost
		}
		ask = now.Add(pause + mrand.N(askSpread))
		pause = min(2*pause, askMost)
	}
}

func nextDue(links map[place]*link, ask time.Time) time.Time {
	due := ask
	for _, k := range links {
		if !k.answer.IsZero() && k.answer.Before(due) {
			due = k.answer
		}
	}
	return due
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// open takes up sockets where this peer is now, and gives up the others.
func (l *LAN) open(ctx context.Context, wg *sync.WaitGroup, links map[place]*link) {
	at := map[place][]Place{}
	for _, p := range l.cfg.Places() {
		key := place{p.Index, p.Addr.Addr().Is6()}
		at[key] = append(at[key], p)
	}
	for key, k := range links {
		if at[key] == nil {
			_ = k.conn.Close()
			delete(links, key)
		}
	}
	for key, places := range at {
		if k := links[key]; k != nil {
			k.at = places
			continue
		}
		c, err := l.listen(key.index, key.v6)
		if err != nil {
			l.cfg.Log.Debug("not looked for on a local network", "interface", key.index, "addr", places[0].Addr, "err", err)
			continue
		}
		k := &link{place: key, conn: c, at: places}
		links[key] = k
		wg.Go(func() { l.read(ctx, k) })
	}
}

// read hands on what comes until the socket is closed.
func (l *LAN) read(ctx context.Context, k *link) {
	b := make([]byte, maxMessage)
	for {
		n, from, err := k.conn.Read(b)
		if err != nil {
			return
		}
		said := parse(b[:n], l.keys.service)
		if !said.asks && len(said.sealed) == 0 {
			continue
		}
		select {
		case l.heard <- heard{k, from, said}:
		case <-ctx.Done():
			return
		}
	}
}

// hear takes what came from somebody on the same network.
func (l *LAN) hear(ctx context.Context, wg *sync.WaitGroup, h heard) {
	k := h.link
	near := h.from.IsLinkLocalUnicast() || slices.ContainsFunc(k.at, func(p Place) bool { return p.Net.Contains(h.from.WithZone("")) })
	if !near {
		return
	}
	if h.asks {
		k.question = time.Now()
	}
	if h.asks && k.answer.IsZero() {
		wait := answerLeast + mrand.N(answerMost-answerLeast)
		k.answer, k.asked, k.others = later(time.Now().Add(wait), k.said.Add(answerEvery)), true, nil
	}
	for _, text := range h.sealed {
		id, at, err := l.keys.open(text)
		if err != nil || id == l.cfg.Self {
			continue
		}
		if k.asked && !slices.Contains(k.others, id) {
			k.others = append(k.others, id)
		}
		if k.asked && len(k.others) >= enough {
			k.answer = time.Time{}
		}
		if len(at) > 0 {
			l.meet(ctx, wg, h.from, id, at)
		}
	}
}

// mayMeet says whether another member may be met because of what a source address has
// sent, and counts it.
func (l *LAN) mayMeet(source netip.Addr) bool {
	r, ok := l.sources.Get(source)
	if !ok {
		r = rate.NewLimiter(rate.Every(meetEvery), meetBurst)
		l.sources.Add(source, r)
	}
	return r.Allow()
}

// meet has a member met of whom source has told, if that is not under way.
func (l *LAN) meet(ctx context.Context, wg *sync.WaitGroup, source netip.Addr, id peerid.ID, at []netip.AddrPort) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.meetings[id] || len(l.meetings) >= l.cfg.Wanted() || !l.mayMeet(source) {
		return
	}
	l.meetings[id] = true
	wg.Go(func() {
		l.cfg.Met(ctx, id, at)
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.meetings, id)
	})
}

// announce says on k where this peer is there.
func (l *LAN) announce(k *link) {
	var at []netip.AddrPort
	for _, p := range k.at {
		at = append(at, p.Addr)
	}
	b, err := announcement(l.keys.service, l.instance, l.keys.seal(l.cfg.Self, at), at[0].Port())
	l.send(k, b, err)
}

// ask asks on all links but those where somebody has just done so: the answers are for
// all (RFC 6762 §7.3).
func (l *LAN) ask(links map[place]*link, now time.Time) {
	b, err := question(l.keys.service)
	for _, k := range links {
		if now.Sub(k.question) >= askSpread {
			l.send(k, b, err)
		}
	}
}

func (l *LAN) send(k *link, b []byte, err error) {
	if err == nil {
		err = k.conn.Send(b)
	}
	if err != nil {
		l.cfg.Log.Debug("nothing said on a local network", "interface", k.index, "err", err)
	}
}
