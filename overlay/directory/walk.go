package directory

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	kb "github.com/libp2p/go-libp2p-kbucket"
	record "github.com/libp2p/go-libp2p-record"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/overlay/membership"
)

const (
	// replicas is how many servers keep a record under each of its keys,
	// and how many of the nearest must have answered for a complete walk.
	replicas = 8
	// depth is how many of the nearest a read asks before it believes that
	// there is no record: servers that have just come may lack it, and in an
	// overlay that grows fast most have. A record that is there is found by
	// the first few.
	depth = 4 * replicas
	// perAccount is how many of one invitation a walk for replicas counts (package account),
	// as long as there may be others: one person's keys can be ground until they are the
	// nearest.
	// spreadMax is how many it counts so. What is put goes to the nearest, and to those
	// of other invitations that are the nearest but for them: a read asks as many.
	perAccount = 2
	spreadMax  = 3 * replicas
	// width is how many servers a walk asks at a time, wide how many when as
	// many as should have the record had none.
	width = 4
	wide  = 2 * width
	// askTimeout bounds one question to one server.
	askTimeout = 2 * time.Second
	// askPatience is how long a walk whose nearest servers have mostly
	// answered waits for the rest.
	askPatience = 400 * time.Millisecond
	// NearServers is how many of the servers nearest its own ID a peer keeps
	// connections to, and how many of those nearest a target are asked for it: where
	// others look for it (DESIGN §8).
	NearServers = 3
	// LookupTimeout bounds a walk: four steps towards the key, each of which meets
	// silent servers only, or two that first dial dead ones.
	LookupTimeout = 4 * askTimeout
	// settle is how long a read waits for better records once it has a good
	// one: replicas answer within each other's jitter.
	settle = 150 * time.Millisecond
	// candidatesMax bounds what liars can make a walk remember, toldShare what the servers
	// of one invitation can: of what they name the nearest count. firstMax is how many of
	// those that are known are candidates before all others because few of theirs are.
	candidatesMax = 256
	toldShare     = candidatesMax / 4
	firstMax      = candidatesMax / 4
)

// found is one record that a server gave.
type found struct {
	from  peer.ID
	value []byte
}

// walkResult is what a walk to the servers nearest a key has brought.
type walkResult struct {
	found    []found
	nearest  []peer.ID // servers that answered, nearest first, at most replicas, or those and of other invitations as many
	answered int       // servers that answered
	heard    int       // of the replicas nearest the key, how many answered; this peer's own part counts, young servers do not
	silent   int       // of those, how many did not
	untimely int       // servers that gave a record far out of its time
	late     error     // what was wrong with one of those
	self     bool      // this peer is one of those that answered
	met      int       // servers that the walk has heard of, this peer included if it is one
}

// complete says whether enough of the servers nearest the key have answered
// for "there is no record" to be believed: twice as many as have not. Only the
// replicas nearest count, since they are who would have the record: what servers
// farther away say in the place of those that are silent is no answer. Nor is what
// young servers say, which may not have been given the record yet. Some of those
// that answer may lie.
func (r walkResult) complete() bool { return r.heard >= max(1, 2*r.silent) }

func (r walkResult) itself() int {
	if r.self {
		return 1
	}
	return 0
}

type candidate struct {
	peer  peer.ID
	dist  kb.ID
	state uint8
	told  bool            // by a server, in this walk
	by    account.Account // that server's
}

const (
	waiting uint8 = iota
	asking
	answered
	failed
	revoked // it is no member any more, whatever it was before
)

// servers are the other servers of the database, as a walk needs them.
type servers interface {
	// ask puts one question to one server.
	ask(ctx context.Context, p peer.ID, key string) reply
	// young says whether one has only just begun: it may lack records.
	young(p peer.ID) bool
	// connected says whether one is: a question to any other begins with a dial.
	connected(p peer.ID) bool
	// revoked says whether one's membership was taken back: it is none of the
	// servers.
	revoked(p peer.ID) bool
	// account is to whom a server is charged besides itself; false where it is not known
	// to be a member.
	account(p peer.ID) (account.Account, bool)
	// learn takes the addresses of a server that another one has named.
	learn(by peer.ID, ai *peer.AddrInfo)
}

// walker is one walk; its methods run on the walk's own goroutine.
type walker struct {
	servers servers
	me      peer.ID
	valid   record.Validator

	key    string
	target kb.ID
	each   func(found) bool
	depth  int
	spread bool // replicas are to be of several invitations
	seen   map[peer.ID]bool
	list   []*candidate   // by distance
	told   account.Counts // of these, by whom they were named
	dials  int            // questions under way that began with a dial
	res    walkResult
	done   bool
	young  bool // this peer has only just become a server
}

func newWalker(s servers, me peer.ID, valid record.Validator, key string, depth int, each func(found) bool) *walker {
	return &walker{servers: s, me: me, valid: valid, key: key, target: kb.ConvertKey(key), each: each, depth: depth, seen: map[peer.ID]bool{}}
}

type reply struct {
	c       *candidate
	dialled bool
	value   []byte
	closer  []*peer.AddrInfo
	err     error
}

// distance is how far apart two IDs are in the DHT's key space.
func distance(a, b kb.ID) kb.ID {
	out := make(kb.ID, len(a))
	for i := range a {
		out[i] = a[i] ^ b[i]
	}
	return out
}

// begin adds the servers that are known to the candidates, the nearest first; before them
// those that are nearest but for others of their account.
func (w *walker) begin(known []peer.ID) {
	sorted := make([]*candidate, len(known))
	for i, p := range known {
		sorted[i] = &candidate{peer: p, dist: distance(kb.ConvertPeerID(p), w.target)}
	}
	slices.SortFunc(sorted, (*candidate).compare)
	first := 0
	crowd := &crowd{}
	for _, c := range sorted {
		if first < firstMax && !crowd.add(w.account(c.peer)) {
			first++
			w.offer(c.peer)
		}
	}
	for _, c := range sorted {
		w.offer(c.peer)
	}
}

func (c *candidate) compare(d *candidate) int { return bytes.Compare(c.dist, d.dist) }

// offer adds peers to the candidates.
func (w *walker) offer(peers ...peer.ID) {
	for _, p := range peers {
		w.add(&candidate{peer: p})
	}
}

// add adds a candidate, unless there are enough of all, or of those that the same servers
// have named: then the farthest of these, if it has not been asked, gives way.
func (w *walker) add(c *candidate) {
	if w.seen[c.peer] || c.peer == w.me || w.servers.revoked(c.peer) {
		return
	}
	c.dist = distance(kb.ConvertPeerID(c.peer), w.target)
	if c.told && w.told.Full(c.by, toldShare) && !w.giveUp(c) || len(w.list) >= candidatesMax {
		return
	}
	w.seen[c.peer] = true
	if c.told {
		w.told.Add(c.by)
	}
	i, _ := slices.BinarySearchFunc(w.list, c, (*candidate).compare)
	w.list = slices.Insert(w.list, i, c)
}

// giveUp takes the farthest candidate out that was told as c was and waits, if it is
// farther than c.
func (w *walker) giveUp(c *candidate) bool {
	for i, old := range slices.Backward(w.list) {
		if old.compare(c) <= 0 {
			break
		}
		if old.told && old.state == waiting && (old.by == c.by || c.by.Delegate != "" && old.by.Delegate == c.by.Delegate) {
			w.list = slices.Delete(w.list, i, i+1)
			w.told.Remove(old.by)
			delete(w.seen, old.peer)
			return true
		}
	}
	return false
}

// account is to whom a server is charged besides itself, nobody if that is not known.
func (w *walker) account(p peer.ID) account.Account {
	a, _ := w.servers.account(p)
	return a
}

// answerSelf counts this peer's own part of the database as an answer; value is
// nil if it has no record.
func (w *walker) answerSelf(value []byte, young bool) {
	w.res.self, w.young = true, young
	w.res.answered++
	if value != nil {
		w.take(w.me, value)
	}
}

// take checks a record and hands it on.
func (w *walker) take(from peer.ID, value []byte) {
	if w.done {
		return
	}
	if err := w.valid.Validate(w.key, value); err != nil {
		var out *membership.TimeError
		if errors.As(err, &out) && out.FarOff() {
			w.res.untimely++
			w.res.late = err
		}
		return
	}
	f := found{from, value}
	w.res.found = append(w.res.found, f)
	if w.each != nil && !w.each(f) {
		w.done = true
	}
}

func (w *walker) run(ctx context.Context) walkResult {
	ctx, cancel := context.WithCancel(ctx)
	replies := make(chan reply)
	quiet := time.NewTimer(askPatience)
	defer quiet.Stop()
	var asks sync.WaitGroup
	busy := 0
	for {
		for busy < w.width() && !w.done && ctx.Err() == nil {
			c := w.choose()
			if c == nil {
				break
			}
			c.state = asking
			busy++
			dialled := !w.servers.connected(c.peer)
			if dialled {
				w.dials++
			}
			asks.Go(func() {
				r := w.servers.ask(ctx, c.peer, w.key)
				r.c, r.dialled = c, dialled
				replies <- r
			})
		}
		if busy == 0 {
			break
		}
		var r reply
		select {
		case r = <-replies:
		case <-quiet.C:
			if !w.done && w.goodEnough(busy) {
				w.done = true
				cancel()
			}
			continue
		}
		quiet.Reset(askPatience)
		busy--
		if r.dialled {
			w.dials--
		}
		if w.done {
			continue // the asks under way were cancelled; collect them
		}
		w.heard(r)
		if w.done {
			cancel()
		}
	}
	cancel()
	asks.Wait()
	w.leaveOutRevoked()
	w.countNearest()
	return w.res
}

// goodEnough says whether the walk may end without the servers that have not
// answered for askPatience, of which busy are still being asked: they are most
// likely dead. Those that have answered must outnumber them, and a read that has
// found nothing needs enough of the nearest, which may just be late.
// Who has a record to put waits less: what is still dialled when all that are
// connected have answered, and is not most of them, is given the record once it is
// reached.
func (w *walker) goodEnough(busy int) bool {
	if w.next(true) != nil || w.nextOther() != nil {
		return false
	}
	if w.spread && w.res.answered > 0 && w.res.answered >= busy && !w.awaitsConnected() {
		return true
	}
	if w.res.answered <= busy+w.count(failed) {
		return false
	}
	if w.each == nil || len(w.res.found) > 0 {
		return true
	}
	w.leaveOutRevoked()
	w.countNearest()
	return w.res.complete()
}

// awaitsConnected says whether a server that is connected has still to answer.
func (w *walker) awaitsConnected() bool {
	return slices.ContainsFunc(w.list, func(c *candidate) bool { return c.state == asking && w.servers.connected(c.peer) })
}

// leaveOutRevoked takes those out of the walk whose membership was taken back
// since they came in: that they are silent says nothing, and what they say does not
// count.
func (w *walker) leaveOutRevoked() {
	for _, c := range w.list {
		if w.servers.revoked(c.peer) {
			c.state = revoked
		}
	}
}

// countNearest fills in what the nearest have said so far.
func (w *walker) countNearest() {
	w.res.heard, w.res.silent, w.res.nearest = 0, 0, nil
	w.res.met = len(w.list) + w.res.itself()
	crowd, spread := &crowd{}, 0
	self := distance(kb.ConvertPeerID(w.me), w.target)
	counted := !w.res.self || w.young
	for _, c := range w.list {
		if c.state == revoked {
			continue
		}
		if !counted && bytes.Compare(self, c.dist) < 0 {
			counted = true
			w.countOne(true)
		}
		if c.state != answered || !w.servers.young(c.peer) {
			w.countOne(c.state == answered)
		}
		if c.state != answered {
			continue
		}
		first := w.spread && spread < replicas && !crowd.add(w.account(c.peer))
		if first {
			spread++
		}
		if first || len(w.res.nearest) < replicas {
			w.res.nearest = append(w.res.nearest, c.peer)
		}
	}
	if !counted {
		w.countOne(true)
	}
}

// crowd counts servers by their account.
type crowd struct{ of account.Counts }

// add counts one, unless there are enough of its account without it, and says whether so.
func (c *crowd) add(a account.Account) (enough bool) {
	if c.of.Full(a, perAccount) {
		return true
	}
	c.of.Add(a)
	return false
}

// countOne counts the next one by distance, if it is one of the nearest.
func (w *walker) countOne(answered bool) {
	switch {
	case w.res.heard+w.res.silent >= replicas:
	case answered:
		w.res.heard++
	default:
		w.res.silent++
	}
}

// width is how many servers may be asked at a time now. Who looks for where to
// put a record finds it with few.
func (w *walker) width() int {
	if w.depth > replicas && w.res.answered >= replicas {
		return wide
	}
	return width
}

func (w *walker) count(state uint8) int {
	n := 0
	for _, c := range w.list {
		if c.state == state {
			n++
		}
	}
	return n
}

// choose returns whom to ask next, nil if nobody. Half of the questions under way at most
// begin with a dial, as long as others can be asked: liars name servers that do not exist.
func (w *walker) choose() *candidate {
	for _, dial := range [...]bool{w.dials < w.width()/2, true} {
		if c := w.next(dial); c != nil {
			return c
		}
	}
	return w.nextOther()
}

// next returns the nearest candidate to ask, or nil once the nearest depth
// that have not failed were asked. Without dial it is one that is connected.
func (w *walker) next(dial bool) *candidate {
	n, crowd := 0, &crowd{}
	for i, c := range w.list {
		switch c.state {
		case waiting:
			if dial || w.servers.connected(c.peer) {
				return c
			}
			continue // it has its turn when a dial has ended
		case failed, revoked:
			continue
		}
		if w.spread && i < spreadMax && c.state == answered && crowd.add(w.account(c.peer)) {
			continue
		}
		if n++; n >= w.depth {
			return nil
		}
	}
	return nil
}

// nextOther returns a candidate beside the nearest, if few accounts were asked: a thousand
// keys of one token are nearer to any key than most honest servers. It is nil once as many
// as there are replicas were asked, of which no more than perAccount are of one invitation.
// Whom nothing is known of is not asked.
func (w *walker) nextOther() *candidate {
	if !w.spread && w.each == nil {
		return nil
	}
	n, crowd := 0, &crowd{}
	for _, c := range w.list {
		if (c.state == answered || c.state == asking) && !crowd.add(w.account(c.peer)) {
			n++
		}
	}
	if n >= replicas {
		return nil
	}
	for _, c := range w.list {
		if c.state != waiting {
			continue
		}
		if a, known := w.servers.account(c.peer); known && !crowd.of.Full(a, perAccount) {
			return c
		}
	}
	return nil
}

func (w *walker) heard(r reply) {
	if w.servers.revoked(r.c.peer) {
		r.c.state = revoked
		return
	}
	if r.err != nil {
		r.c.state = failed
		return
	}
	r.c.state = answered
	w.res.answered++
	by := w.account(r.c.peer)
	for _, ai := range r.closer {
		if ai.ID == w.me || len(ai.Addrs) == 0 {
			continue
		}
		w.servers.learn(r.c.peer, ai)
		w.add(&candidate{peer: ai.ID, told: true, by: by})
	}
	if r.value != nil {
		w.take(r.c.peer, r.value)
	}
}
