package mesh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/field"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/naming"
	"github.com/idloc/idloc/overlay/p2p"
)

// The peers protocol: a list of members with addresses and name records, so that
// neither the way back nor a name depends on one that may be gone. Whoever comes
// in asks. The met protocol is the same list unasked: a server tells those
// connected of a member that has just come in, in an overlay so small that
// everybody may want to know everybody. A record is its peer's own, signed; the
// rest is hearsay.
//
//	answer, notice: count 1 | { peer ID 32 | server 1 | addresses 1 | { length 1 | multiaddr } | record length 2 | record }
//
// The request for a list, and the answer to a notice, are empty.
const (
	peersMax     = 16
	peersAddrs   = 4
	maxPeersList = 1 + peersMax*(peerid.Size+2+peersAddrs*(1+255)+2+naming.MaxRecord)

	// What a member may be told unasked, notices a second.
	metRate, metBurst = 20, 64
	// askPeersWidth is how many members are asked at a time; one, once smallOverlay
	// are connected.
	askPeersWidth = 3
)

var (
	peersProtocol = Protocol{Name: "peers", MaxAnswer: maxPeersList, Timeout: peersTimeout}
	metProtocol   = Protocol{Name: "met", MaxRequest: maxPeersList, Timeout: peersTimeout}
)

var errTooOften = errors.New("too many requests")

// listedPeer is what a list says of one member.
type listedPeer struct {
	id     peerid.ID
	server bool
	addrs  []ma.Multiaddr
	record []byte // empty: none is known
}

func (p listedPeer) appendTo(b []byte) []byte {
	b = append(b, p.id[:]...)
	server := byte(0)
	if p.server {
		server = 1
	}
	b = append(b, server, byte(len(p.addrs)))
	for _, a := range p.addrs {
		raw := a.Bytes()
		if len(raw) > 255 {
			raw = nil
		}
		b = field.Append8(b, raw)
	}
	return field.Append16(b, p.record)
}

func readPeers(b []byte) ([]listedPeer, error) {
	f := field.NewReader(bytes.NewReader(b))
	n := int(f.Uint8())
	if n > peersMax {
		return nil, fmt.Errorf("%d peers", n)
	}
	var out []listedPeer
	for range n {
		var p listedPeer
		f.Copy(p.id[:])
		p.server = f.Uint8() == 1
		k := int(f.Uint8())
		if k > peersAddrs {
			return nil, fmt.Errorf("%d addresses", k)
		}
		for range k {
			if m, err := ma.NewMultiaddrBytes(f.Short8()); err == nil {
				p.addrs = append(p.addrs, m)
			}
		}
		p.record = f.Short16(naming.MaxRecord)
		out = append(out, p)
	}
	if f.Err() != nil {
		return nil, f.Err()
	}
	return out, nil
}

// listed is what this peer tells of a member.
func (m *Mesh) listed(n Neighbor) listedPeer {
	return listedPeer{n.ID, n.Server, m.Addrs(n.Peer, peersAddrs, true), m.cfg.Record(n.ID)}
}

// answerPeers tells a few members' addresses, of different accounts as far as there are.
func (m *Mesh) answerPeers(_ context.Context, from *membership.Member, _ []byte) ([]byte, error) {
	b := []byte{0}
	all := shuffled(m.Members())
	account.ByTurns(all, func(n Neighbor) account.Account { return n.Member.Account() })
	for _, n := range all {
		if n.ID == from.Peer || b[0] == peersMax {
			continue
		}
		if p := m.listed(n); len(p.addrs) > 0 {
			b[0]++
			b = p.appendTo(b)
		}
	}
	return b, nil
}

func shuffled(all []Neighbor) []Neighbor {
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// introduce tells those connected of a member whose name is news.
func (m *Mesh) introduce(of Neighbor) {
	all := m.Members()
	if !m.cfg.Serving() || len(all) > peersMax {
		return
	}
	notice := m.listed(of).appendTo([]byte{1})
	for _, to := range all {
		if to.ID == of.ID {
			continue
		}
		m.Go(func() {
			ctx, cancel := context.WithTimeout(m.ctx, peersTimeout)
			defer cancel()
			if _, err := m.Ask(ctx, to.Peer, metProtocol, notice); err != nil {
				m.cfg.Log.Debug("a notice of a member that has come in", "to", to.ID, "err", err)
			}
		})
	}
}

// answerMet takes a notice.
func (m *Mesh) answerMet(_ context.Context, from *membership.Member, notice []byte) ([]byte, error) {
	if !m.met.Allow() {
		return nil, errTooOften
	}
	list, err := readPeers(notice)
	if err != nil {
		return nil, err
	}
	m.noteListed(list, from.Peer)
	return nil, nil
}

// noteListed takes what a member tells of others.
func (m *Mesh) noteListed(list []listedPeer, by peerid.ID) {
	for _, p := range list {
		if p.id == m.self || p.id == by {
			continue
		}
		m.known.Note(p.id, m.Told(p2p.ID(by), BestOf(p.addrs, knownMaxAddrs)), p.server, by)
		m.cfg.Show(p.id, p.record)
	}
	m.saveSoon()
}

// AskPeers asks a few members whom they know, and says whether there was one
// to ask. While this peer knows too few servers it connects to those it is
// told of: two servers that only share a client would each keep a database of
// their own.
func (m *Mesh) AskPeers(ctx context.Context) bool {
	all := shuffled(m.Members())
	if len(all) == 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, peersTimeout)
	defer cancel()
	width := askPeersWidth
	if len(all) >= smallOverlay && m.enoughServers() {
		width = 1
	}
	lists := make([][]listedPeer, min(len(all), width))
	var wg sync.WaitGroup
	for i := range lists {
		wg.Go(func() {
			lists[i] = m.askPeersOf(ctx, all[i].Peer)
			m.noteListed(lists[i], all[i].ID)
		})
	}
	wg.Wait()
	var heardOf []peer.AddrInfo
	for _, p := range slices.Concat(lists...) {
		if p.server && len(p.addrs) > 0 && p.id != m.self {
			heardOf = append(heardOf, peer.AddrInfo{ID: p2p.ID(p.id), Addrs: p.addrs})
		}
	}
	m.dialServers(ctx, heardOf)
	return true
}

// askPeersOf asks one member whom it knows.
func (m *Mesh) askPeersOf(ctx context.Context, p peer.ID) []listedPeer {
	b, err := m.Ask(ctx, p, peersProtocol, nil)
	if err != nil {
		return nil
	}
	list, err := readPeers(b)
	if err != nil {
		m.cfg.Log.Debug("a list of members that cannot be read", "from", p, "err", err)
	}
	return list
}
