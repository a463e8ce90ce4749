package overlay

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/quic-go/quic-go"

	"github.com/idloc/idloc/internal/peerid"
)

// keeper holds the few connections through which this peer is found: to the
// servers nearest its ID and to the members that its contact record names. All
// others may be trimmed (connsLow), so it says in its hello which it needs, and
// the other side spares those as well: an overlay of a thousand peers is no
// thousand connections at each of them. It is safe for concurrent use.
type keeper struct {
	o *Overlay

	mu    sync.Mutex // guards the rest
	near  []peer.ID
	named []peer.ID
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

// setNear replaces the nearest servers, setNamed whom the contact record names.
func (k *keeper) setNear(now []peer.ID) { k.set(&k.near, now) }

func (k *keeper) setNamed(ids []peerid.ID) {
	now := make([]peer.ID, len(ids))
	for i, id := range ids {
		now[i] = toLibp2p(id)
	}
	k.set(&k.named, now)
}

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
	conns := k.o.host.ConnManager()
	for _, p := range old {
		if !k.needsLocked(p) {
			conns.Unprotect(p, protectMine)
		}
	}
	for _, p := range now {
		conns.Protect(p, protectMine)
	}
	k.mu.Unlock()
	for _, p := range changed {
		k.o.gate.greetAgain(p)
	}
}

// heard notes whether a member needs its connection to us.
func (k *keeper) heard(p peer.ID, flags uint8) {
	if flags&flagKeep != 0 {
		k.o.host.ConnManager().Protect(p, protectTheirs)
	} else {
		k.o.host.ConnManager().Unprotect(p, protectTheirs)
	}
}

// left forgets what a member needed that is not connected any more.
func (k *keeper) left(p peer.ID) {
	if _, ok := k.o.gate.member(p); !ok {
		k.o.host.ConnManager().Unprotect(p, protectTheirs)
	}
}

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
