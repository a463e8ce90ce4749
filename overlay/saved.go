package overlay

import (
	"cmp"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/state"
	"github.com/idloc/idloc/overlay/membership"
)

// Names of the documents in the state directory.
const (
	docOverlay = "overlay" // saved
	docPeers   = "peers"   // remembered members
	docNames   = "names"   // high-water marks and the own sequence number
	docLabels  = "labels"  // what an issuer has confirmed
)

// saved is what makes this peer a member again after a restart.
type saved struct {
	Domain     string         `json:"domain"`
	RootKey    membership.Key `json:"root_key"`
	Root       []byte         `json:"root,omitempty"` // the founder's secret
	Chain      []byte         `json:"chain"`
	Label      string         `json:"label"`
	Delegation []byte         `json:"delegation,omitempty"`
	Revocation []byte         `json:"revocation,omitempty"`
}

func (s *saved) overlay() membership.Overlay {
	o, err := membership.NewOverlay(s.Domain, s.RootKey)
	if err != nil {
		return membership.Overlay{}
	}
	return o
}

// loadSaved returns nil if there is nothing to resume.
func loadSaved(d *state.Dir) (*saved, error) {
	if d == nil {
		return nil, nil
	}
	s := new(saved)
	found, err := d.Load(docOverlay, s)
	if err != nil || !found {
		return nil, err
	}
	return s, nil
}

// save writes what the next start needs.
func (o *Overlay) save() error {
	if o.cfg.State == nil {
		return nil
	}
	o.mu.Lock()
	s := saved{
		Domain: o.ov.Domain, RootKey: o.ov.Root, Chain: o.chain, Label: o.label,
		Delegation: o.delegation, Revocation: o.revoked.Load().Bytes(),
	}
	o.mu.Unlock()
	if o.root != nil {
		s.Root = o.root.Marshal()
	}
	return o.cfg.State.Save(docOverlay, s)
}

// restore takes over what was saved, without asking whether it still holds.
func (o *Overlay) restore(s *saved) error {
	var err error
	if o.ov, err = membership.NewOverlay(s.Domain, s.RootKey); err != nil {
		return err
	}
	if len(s.Root) > 0 {
		if o.root, err = membership.ParseRoot(s.Root); err != nil {
			return err
		}
		if o.root.Overlay() != o.ov {
			return errors.New("overlay: saved root key is of another overlay")
		}
		o.issuer = o.root.Issuer()
	}
	if len(s.Revocation) > 0 {
		l, err := membership.OpenRevocationList(s.Revocation, o.ov)
		if err != nil {
			return err
		}
		o.revoked.Store(l)
	}
	if len(s.Delegation) > 0 {
		if i, err := membership.NewDelegate(o.cfg.Key, s.Delegation, o.ov, o.now(), o.revoked.Load()); err == nil {
			o.issuer, o.delegation = i, s.Delegation
		}
	}
	return nil
}

// renewOffline makes the saved chain good, as far as that needs nobody else:
// the founder issues itself a new one, and a token that still admits does for
// a chain that has ended. A chain that is merely due is renewed online.
func (o *Overlay) renewOffline(s *saved, t *membership.Token) error {
	err := o.take(s.Chain, s.Label)
	if o.root != nil {
		if err != nil || membership.NeedsRenewal(o.member, o.now()) {
			return o.issueSelf(s.Label)
		}
		return nil
	}
	if err != nil && t != nil && !errors.Is(err, membership.ErrRevoked) {
		if e := o.enter(t, s.Label); e == nil {
			return nil
		}
	}
	return err
}

func publicKey(key ed25519.PrivateKey) (peerid.ID, error) {
	if len(key) != ed25519.PrivateKeySize {
		return peerid.ID{}, fmt.Errorf("overlay: identity key of %d bytes", len(key))
	}
	return peerid.FromPublicKey(key.Public().(ed25519.PublicKey))
}

// cleanLabel makes a host label of what a user or a machine calls itself.
func cleanLabel(s string) string {
	s, _, _ = strings.Cut(strings.ToLower(s), ".")
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		}
		return '-'
	}, s)
	s = strings.Trim(s[:min(len(s), maxBaseLabel)], "-")
	if membership.CheckLabel(s) != nil {
		return "peer"
	}
	return s
}

// maxBaseLabel leaves room for "-999" in a label.
const maxBaseLabel = 59

const (
	maxRemembered      = 64
	maxRememberedAddrs = 8
	forgetAfter        = 30 * 24 * time.Hour
)

// rememberedPeer is a member that a later start can try.
type rememberedPeer struct {
	Peer   peerid.ID `json:"peer"`
	Addrs  []string  `json:"addrs"`
	Server bool      `json:"server"`
	Seen   time.Time `json:"seen"`
	// By is the member that told of it; zero if this peer was connected to it
	// itself. Hearsay changes nothing about those, and makes room for them.
	By peerid.ID `json:"by,omitzero"`
}

// remembered keeps addresses of members across restarts, so that the way back
// does not depend on who was in the token. It is safe for concurrent use.
type remembered struct {
	dir  *state.Dir
	self peerid.ID

	mu    sync.Mutex // guards the rest
	peers map[peerid.ID]rememberedPeer
	dirty bool
}

func newRemembered(dir *state.Dir, self peerid.ID) (*remembered, error) {
	r := &remembered{dir: dir, self: self, peers: map[peerid.ID]rememberedPeer{}}
	if dir == nil {
		return r, nil
	}
	var list []rememberedPeer
	if _, err := dir.Load(docPeers, &list); err != nil {
		return nil, err
	}
	for _, p := range list {
		r.peers[p.Peer] = p
	}
	return r, nil
}

// note adds or refreshes a member. by is who told of it, zero if we are
// connected to it.
func (r *remembered) note(id peerid.ID, addrs []ma.Multiaddr, server bool, by peerid.ID) {
	if id == r.self || len(addrs) == 0 {
		return
	}
	p := rememberedPeer{Peer: id, Server: server, Seen: time.Now().UTC().Truncate(time.Second), By: by}
	for _, a := range addrs[:min(len(addrs), maxRememberedAddrs)] {
		p.Addrs = append(p.Addrs, a.String())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	old, ok := r.peers[id]
	if ok && old.By.IsZero() && !by.IsZero() && p.Seen.Sub(old.Seen) < forgetAfter {
		return
	}
	if ok && old.By == p.By && old.Server == p.Server && slices.Equal(old.Addrs, p.Addrs) && p.Seen.Sub(old.Seen) < time.Hour {
		return
	}
	r.peers[id] = p
	if len(r.peers) > maxRemembered {
		victim := r.victimLocked()
		delete(r.peers, victim)
		if victim == id {
			return // there is no room for it: nothing has changed
		}
	}
	r.dirty = true
}

// forget drops a peer that is no member any more, and what it told.
func (r *remembered) forget(id peerid.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, p := range r.peers {
		if k == id || p.By == id {
			delete(r.peers, k)
			r.dirty = true
		}
	}
}

// victimLocked is whom to forget first: of what was only told, the oldest of
// the member that has told most, so that one that lies crowds out its own lies;
// if nothing was, the least useful.
func (r *remembered) victimLocked() peerid.ID {
	var told map[peerid.ID]int
	for _, p := range r.peers {
		if !p.By.IsZero() {
			if told == nil {
				told = map[peerid.ID]int{}
			}
			told[p.By]++
		}
	}
	order := func(a, b rememberedPeer) int {
		return cmp.Or(cmp.Compare(told[b.By], told[a.By]), a.Seen.Compare(b.Seen), a.Peer.Compare(b.Peer))
	}
	var out rememberedPeer
	for _, p := range r.peers {
		if !p.By.IsZero() && (out.Peer.IsZero() || order(p, out) < 0) {
			out = p
		}
	}
	if out.Peer.IsZero() {
		for _, p := range r.peers {
			if out.Peer.IsZero() || p.compare(out) > 0 {
				out = p
			}
		}
	}
	return out.Peer
}

// compare orders the most useful first: those that this peer was connected to,
// servers, then the newest.
func (p rememberedPeer) compare(q rememberedPeer) int {
	first := func(a, b bool) int {
		switch {
		case a == b:
			return 0
		case a:
			return -1
		}
		return 1
	}
	return cmp.Or(first(p.By.IsZero(), q.By.IsZero()), first(p.Server, q.Server), q.Seen.Compare(p.Seen), p.Peer.Compare(q.Peer))
}

// sortedLocked returns the most useful first.
func (r *remembered) sortedLocked() []rememberedPeer {
	out := make([]rememberedPeer, 0, len(r.peers))
	for _, p := range r.peers {
		if time.Since(p.Seen) < forgetAfter {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, rememberedPeer.compare)
	return out
}

// addrInfos returns whom to try, most useful first.
func (r *remembered) addrInfos() []peer.AddrInfo {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []peer.AddrInfo
	for _, p := range r.sortedLocked() {
		ai := peer.AddrInfo{ID: toLibp2p(p.Peer)}
		for _, s := range p.Addrs {
			if a, err := ma.NewMultiaddr(s); err == nil {
				ai.Addrs = append(ai.Addrs, a)
			}
		}
		if len(ai.Addrs) > 0 {
			out = append(out, ai)
		}
	}
	return out
}

func (r *remembered) save() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dir == nil || !r.dirty {
		return nil
	}
	r.dirty = false
	return r.dir.Save(docPeers, r.sortedLocked())
}

// addrInfos reads multiaddrs with peer IDs, one AddrInfo for each peer;
// what cannot be read is left out.
func addrInfos(texts []string) []peer.AddrInfo {
	var list []ma.Multiaddr
	for _, s := range texts {
		if m, err := ma.NewMultiaddr(s); err == nil {
			list = append(list, m)
		}
	}
	out, err := peer.AddrInfosFromP2pAddrs(list...)
	if err != nil {
		return nil
	}
	return out
}
