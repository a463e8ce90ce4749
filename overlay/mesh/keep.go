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
)

// keeper holds the few connections through which this peer is found: to the
// servers nearest its ID and to the members that its contact record names. All
// others may be trimmed (connsLow), so it says in its hello which it needs, and
// the other side spares those as well: an overlay of a thousand peers is no
// thousand connections at each of them. It is safe for concurrent use.
type keeper struct {
	conns   connmgr.ConnManager
	changed func(peer.ID) // a member has to be told

	mu    sync.Mutex // guards the rest
	near  []peer.ID  // servers nearest this peer's ID, as they were found last
	named []peer.ID  // in this peer's contact record
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

// heard notes whether a member needs its connection to us.
func (k *keeper) heard(p peer.ID, needs bool) {
	if needs {
		k.conns.Protect(p, protectTheirs)
	} else {
		k.conns.Unprotect(p, protectTheirs)
	}
}

// left forgets what a member needed that is not connected any more.
func (k *keeper) left(p peer.ID) { k.conns.Unprotect(p, protectTheirs) }

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
