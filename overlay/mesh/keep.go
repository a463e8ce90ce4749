package mesh

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/quic-go/quic-go"

	"github.com/idloc/idloc/internal/account"
)

// keeper holds the few connections through which this peer is found: to the
// servers nearest its ID and to the members that its contact record names. All
// others may be trimmed (connsLow), so it says in its hello which it needs, and
// the other side spares those as well, as many as one account may have: an overlay
// of a thousand peers is no thousand connections at each of them. It is safe for
// concurrent use.
type keeper struct {
	conns   connmgr.ConnManager
	changed func(peer.ID) // a member has to be told
	share   int           // keepShare

	mu     sync.Mutex                  // guards the rest
	near   []peer.ID                   // servers nearest this peer's ID, as they were found last
	named  []peer.ID                   // in this peer's contact record
	theirs map[peer.ID]account.Account // that need us, and are spared
	of     account.Counts              // of theirs
}

// keepShare is how many members of one invitation are spared because they say that they
// need it: an office that has one server. What is above may be trimmed, and come back.
const keepShare = inboundMax / 3

func newKeeper(conns connmgr.ConnManager, changed func(peer.ID)) *keeper {
	return &keeper{conns: conns, changed: changed, share: keepShare, theirs: map[peer.ID]account.Account{}}
}

// Tags of connections that are not trimmed: needed here, or there.
const (
	protectMine   = "idloc-mine"
	protectTheirs = "idloc-theirs"
)

// needs says whether the connection to p is one to be found by.
func (k *keeper) needs(p peer.ID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.needsLocked(p)
}

func (k *keeper) needsLocked(p peer.ID) bool {
	return slices.Contains(k.near, p) || slices.Contains(k.named, p)
}

// nearest returns the servers nearest this peer's ID that were found last.
func (k *keeper) nearest() []peer.ID {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.near
}

// set replaces one of the lists.
func (k *keeper) set(list *[]peer.ID, now []peer.ID) {
	k.mu.Lock()
	old := *list
	var changed []peer.ID
	for _, p := range old {
		if !slices.Contains(now, p) {
			changed = append(changed, p)
		}
	}
	for _, p := range now {
		if !k.needsLocked(p) {
			changed = append(changed, p)
		}
	}
	*list = now
	for _, p := range old {
		if !k.needsLocked(p) {
			k.conns.Unprotect(p, protectMine)
		}
	}
	for _, p := range now {
		k.conns.Protect(p, protectMine)
	}
	k.mu.Unlock()
	for _, p := range changed {
		k.changed(p)
	}
}

// heard notes whether a member, whose account is given, needs its connection to us.
func (k *keeper) heard(p peer.ID, a account.Account, needs bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.releaseLocked(p)
	if !needs || k.of.Full(a, k.share) {
		k.conns.Unprotect(p, protectTheirs)
		return
	}
	k.theirs[p] = a
	k.of.Add(a)
	k.conns.Protect(p, protectTheirs)
}

// releaseLocked charges nobody for a member any more.
func (k *keeper) releaseLocked(p peer.ID) {
	if a, ok := k.theirs[p]; ok {
		delete(k.theirs, p)
		k.of.Remove(a)
	}
}

// left forgets what a member needed that is not connected any more.
func (k *keeper) left(p peer.ID) { k.heard(p, account.Account{}, false) }

// trimmed says whether a connection has ended because one of its ends had too
// many: its peer is still there.
func trimmed(c network.Conn) bool {
	var q *quic.Conn
	if !c.As(&q) {
		return false
	}
	var why *quic.ApplicationError
	return errors.As(context.Cause(q.Context()), &why) && why.ErrorCode == quic.ApplicationErrorCode(network.ConnGarbageCollected)
}
