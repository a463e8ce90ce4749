package mesh

import (
	"context"
	"math/rand/v2"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/overlay/p2p"
)

// servers counts those that keep a part of the database.
func servers(all []Neighbor) (n int) {
	for _, m := range all {
		if m.Server {
			n++
		}
	}
	return n
}

// enoughServers says whether this peer looks for no others. There are to be as many accounts
// as servers among them, as far as those that are connected, and this one, are of so many:
// keys of one token that say that they are servers are one, those of a delegate's tokens two
// (package account).
func (m *Mesh) enoughServers() bool {
	all := m.Members()
	if servers(all) < m.cfg.EnoughServers {
		return false
	}
	own := m.cfg.Account()
	there := []account.Account{own}
	var serving []account.Account
	if m.cfg.Serving() {
		serving = append(serving, own)
	}
	for _, n := range all {
		a := n.Member.Account()
		there = append(there, a)
		if n.Server {
			serving = append(serving, a)
		}
	}
	return account.Several(serving, 1) >= min(m.cfg.EnoughServers, account.Several(there, 1))
}

// lacking leaves of servers those that are not connected and of which there are not enough:
// where only accounts are too few, a few of those that are of others, or may be.
func (m *Mesh) lacking(list []peer.AddrInfo) []peer.AddrInfo {
	list = slices.DeleteFunc(list, func(ai peer.AddrInfo) bool { _, in := m.Member(ai.ID); return in })
	all := m.Members()
	if servers(all) < m.cfg.EnoughServers {
		return list
	}
	var of account.Counts
	if m.cfg.Serving() {
		of.Add(shortAccount(m.cfg.Account()))
	}
	for _, n := range all {
		if n.Server {
			of.Add(shortAccount(n.Member.Account()))
		}
	}
	known := m.known.accounts()
	list = slices.DeleteFunc(list, func(ai peer.AddrInfo) bool { return of.Full(known[ai.ID], 1) })
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list[:min(len(list), serversAtOnce)]
}

// dialServers connects to servers of those given until enough are connected, in
// turn: the next when one is connected, has failed or says nothing.
func (m *Mesh) dialServers(ctx context.Context, list []peer.AddrInfo) {
	if m.enoughServers() {
		return
	}
	if list = m.lacking(list); len(list) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, DialTimeout)
	defer cancel()
	inTurn(ctx, list, m.isHeard, func(ai peer.AddrInfo) bool {
		if err := m.try(ctx, ai); err != nil {
			m.cfg.Log.Debug("a server is not reached", "peer", ai.ID, "err", err)
		} else if m.enoughServers() {
			cancel()
		}
		return true
	})
}

// accounts is to whom those are charged of whom that is known, shortly.
func (k *Known) accounts() map[peer.ID]account.Account {
	k.mu.Lock()
	defer k.mu.Unlock()
	of := map[peer.ID]account.Account{}
	for id, p := range k.peers {
		of[p2p.ID(id)] = p.account()
	}
	return of
}

// shortAccount is an account as it is kept with those that are known.
func shortAccount(a account.Account) account.Account {
	return account.Account{Invitation: shortly(a.Invitation), Delegate: shortly(a.Delegate)}
}
