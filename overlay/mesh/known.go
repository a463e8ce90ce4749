package mesh

import (
	"cmp"
	"encoding/hex"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/state"
	"github.com/idloc/idloc/overlay/hearsay"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/p2p"
)

const (
	// KnownFile is the document in the state directory. It is made anew if it is
	// damaged: there are the token's addresses, or whoever comes.
	KnownFile     = "peers"
	knownMax      = 256          // an office, whom its founder calls after a restart
	knownShare    = knownMax / 4 // of one invitation, where there is no room for all
	knownMaxAddrs = 8
)

// KnownMember is a member that this peer, or a later start, can try.
type KnownMember struct {
	Peer   peerid.ID `json:"peer"`
	Addrs  []string  `json:"addrs"`
	Server bool      `json:"server"`
	Issuer bool      `json:"issuer,omitempty"` // the founder, or a delegate
	Seen   time.Time `json:"seen"`
	// By is the member that told of it; zero if this peer was connected to it
	// itself. Hearsay changes nothing about those, and makes room for them.
	By peerid.ID `json:"by,omitzero"`
	// Of and Under are the first bytes of the invitation and of the delegate that it is
	// charged to (package account); "" is none, or not known.
	Of    string `json:"of,omitempty"`
	Under string `json:"under,omitempty"`
	// Proven are those of Addrs at which it has answered.
	Proven []string `json:"proven,omitempty"`
}

// Known keeps addresses of members across restarts, so that the way back does not
// depend on who was in the token. It is safe for concurrent use.
type Known struct {
	dir     *state.Dir
	self    peerid.ID
	hearsay *hearsay.Gate // nil: all that is told may be tried

	mu    sync.Mutex // guards the rest
	peers map[peerid.ID]KnownMember
	dirty bool
}

// LoadKnown reads what is saved in a directory, nil if there is none, and tells the
// gate at which addresses members have answered before. The error is about a file
// that was damaged; the Known is good all the same.
func LoadKnown(dir *state.Dir, self peerid.ID, gate *hearsay.Gate) (*Known, error) {
	k := &Known{dir: dir, self: self, hearsay: gate, peers: map[peerid.ID]KnownMember{}}
	if dir == nil {
		return k, nil
	}
	var list []KnownMember
	found, damaged := dir.LoadCache(KnownFile, &list)
	if !found {
		list = nil
	}
	for _, p := range list {
		if !p.Peer.IsZero() {
			k.peers[p.Peer] = p
		}
	}
	k.recallProven()
	return k, damaged
}

func (k *Known) recallProven() {
	if k.hearsay == nil {
		return
	}
	for _, p := range k.peers {
		for _, m := range p2p.Parse(p.Proven) {
			if at, ok := p2p.Place(m); ok {
				k.hearsay.Recalled(string(p2p.ID(p.Peer)), at, p.Seen)
			}
		}
	}
}

// Note adds or refreshes a member; addrs are the best first. by is who told of it,
// zero if this peer is connected to it.
func (k *Known) Note(id peerid.ID, addrs []ma.Multiaddr, server bool, by peerid.ID) {
	k.note(id, addrs, server, by, account.Account{})
}

// NoteMet is Note for a member that this peer is connected to, and is charged to of.
func (k *Known) NoteMet(id peerid.ID, addrs []ma.Multiaddr, server bool, of account.Account) {
	k.note(id, addrs, server, peerid.ID{}, of)
}

func (k *Known) note(id peerid.ID, addrs []ma.Multiaddr, server bool, by peerid.ID, of account.Account) {
	if id == k.self || len(addrs) == 0 {
		return
	}
	p := KnownMember{Peer: id, Server: server, Seen: time.Now().UTC().Truncate(time.Second), By: by, Of: shortly(of.Invitation), Under: shortly(of.Delegate)}
	for _, a := range addrs[:min(len(addrs), knownMaxAddrs)] { // the caller has ranked them
		p.Addrs = append(p.Addrs, a.String())
		if at, ok := p2p.Place(a); ok && by.IsZero() && k.hearsay != nil && k.hearsay.Knows(string(p2p.ID(id)), at) {
			p.Proven = append(p.Proven, a.String())
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	old, ok := k.peers[id]
	p.Issuer = old.Issuer
	if ok && old.By.IsZero() && !by.IsZero() && p.Seen.Sub(old.Seen) < forgetAfter {
		return
	}
	if ok && old.same(p) && p.Seen.Sub(old.Seen) < noteEvery {
		return
	}
	k.peers[id] = p
	if len(k.peers) > knownMax {
		victim := k.victimLocked()
		delete(k.peers, victim)
		if victim == id {
			return // there is no room for it: nothing has changed
		}
	}
	k.dirty = true
}

// same says whether nothing but the time has changed.
func (p KnownMember) same(q KnownMember) bool {
	return p.By == q.By && p.Server == q.Server && p.account() == q.account() && slices.Equal(p.Addrs, q.Addrs) && slices.Equal(p.Proven, q.Proven)
}

// account is to whom a member is charged, as far as that is kept.
func (p KnownMember) account() account.Account {
	return account.Account{Invitation: p.Of, Delegate: p.Under}
}

// shortly is as much of a key as tells two apart.
func shortly(key string) string { return hex.EncodeToString([]byte(key[:min(len(key), 8)])) }

// NoteIssuer notes that a member that is known can let others in.
func (k *Known) NoteIssuer(id peerid.ID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if p, ok := k.peers[id]; ok && !p.Issuer {
		p.Issuer = true
		k.peers[id] = p
		k.dirty = true
	}
}

// Forget drops a peer that is no member any more, and what it told.
func (k *Known) Forget(id peerid.ID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for other, p := range k.peers {
		if other == id || p.By == id {
			delete(k.peers, other)
			k.dirty = true
		}
	}
}

// ForgetRevoked forgets the members that a revocation list names; l may be nil.
func (k *Known) ForgetRevoked(l *membership.RevocationList) {
	k.mu.Lock()
	defer k.mu.Unlock()
	revoked := func(p peerid.ID) bool { return !p.IsZero() && l.Has(membership.RevokePeer, membership.KeyOf(p)) }
	for id, p := range k.peers {
		if revoked(id) || revoked(p.By) {
			delete(k.peers, id)
			k.dirty = true
		}
	}
}

// victimLocked is whom to forget first: of what was only told, the oldest of
// the member that has told most, so that one that lies crowds out its own lies;
// if nothing was, the least useful, of an account that has more than its share if one has.
func (k *Known) victimLocked() peerid.ID {
	told := map[peerid.ID]int{}
	for _, p := range k.peers {
		if !p.By.IsZero() {
			told[p.By]++
		}
	}
	order := func(a, b KnownMember) int {
		return cmp.Or(cmp.Compare(told[b.By], told[a.By]), a.Seen.Compare(b.Seen), a.Peer.Compare(b.Peer))
	}
	var out KnownMember
	for _, p := range k.peers {
		if !p.By.IsZero() && (out.Peer.IsZero() || order(p, out) < 0) {
			out = p
		}
	}
	if !out.Peer.IsZero() {
		return out.Peer
	}
	var of account.Counts
	for _, p := range k.peers {
		of.Add(p.account())
	}
	crowds := func(p KnownMember) bool { return of.Full(p.account(), knownShare+1) }
	for _, p := range k.peers {
		if out.Peer.IsZero() || crowds(p) && !crowds(out) || crowds(p) == crowds(out) && p.compare(out) > 0 {
			out = p
		}
	}
	return out.Peer
}

// compare orders the most useful first: those that this peer was connected to,
// the founder and delegates, whom most members look for, servers, then the newest.
func (p KnownMember) compare(q KnownMember) int {
	first := func(a, b bool) int {
		switch {
		case a == b:
			return 0
		case a:
			return -1
		}
		return 1
	}
	return cmp.Or(first(p.By.IsZero(), q.By.IsZero()), first(p.Issuer, q.Issuer), first(p.Server, q.Server), q.Seen.Compare(p.Seen), p.Peer.Compare(q.Peer))
}

// sortedLocked returns those that were seen not too long before this peer has last seen
// anybody, the most useful first. One that was off for a year, or alone, knows whom it
// knew then.
func (k *Known) sortedLocked() []KnownMember {
	var last time.Time
	for _, p := range k.peers {
		if p.Seen.After(last) {
			last = p.Seen
		}
	}
	if now := time.Now(); last.After(now) { // by a clock that was wrong
		last = now
	}
	out := make([]KnownMember, 0, len(k.peers))
	for _, p := range k.peers {
		if last.Sub(p.Seen) < forgetAfter {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, KnownMember.compare)
	return out
}

// which returns those that want accepts and that have an address to try, the most
// useful first.
func (k *Known) which(want func(KnownMember) bool) []peer.AddrInfo {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []peer.AddrInfo
	for _, p := range k.sortedLocked() {
		if !want(p) {
			continue
		}
		if ai := (peer.AddrInfo{ID: p2p.ID(p.Peer), Addrs: k.tryable(p)}); len(ai.Addrs) > 0 {
			out = append(out, ai)
		}
	}
	return out
}

// List returns those seen within a month of the last one, the most useful first.
func (k *Known) List() []KnownMember {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.sortedLocked()
}

// AddrInfos returns whom to try, the most useful first.
func (k *Known) AddrInfos() []peer.AddrInfo {
	return k.which(func(KnownMember) bool { return true })
}

// Servers returns those that this peer was connected to and that served the
// database then.
func (k *Known) Servers() []peer.AddrInfo {
	return k.which(func(p KnownMember) bool { return p.Server && p.By.IsZero() })
}

// Met returns those that this peer was connected to.
func (k *Known) Met() []peer.AddrInfo {
	return k.which(func(p KnownMember) bool { return p.By.IsZero() })
}

// Addrs are the addresses of one member.
func (k *Known) Addrs(id peerid.ID) []ma.Multiaddr {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.tryable(k.peers[id])
}

// tryable are the addresses of a member that may be tried. They are charged to
// who told them: another member, or it itself.
func (k *Known) tryable(p KnownMember) []ma.Multiaddr {
	addrs := p2p.Parse(p.Addrs)
	if k.hearsay == nil {
		return addrs
	}
	by := p.By
	if by.IsZero() {
		by = p.Peer
	}
	return told(k.hearsay, string(p2p.ID(by)), addrs)
}

// Save writes what has changed. If the disk takes nothing, the next call does.
func (k *Known) Save(log *slog.Logger) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.dirty {
		k.dirty = !k.dir.Keep(log, KnownFile, k.sortedLocked())
	}
}
