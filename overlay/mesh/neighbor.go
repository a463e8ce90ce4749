package mesh

import (
	"context"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

// Neighbor is a connected member, as of its newest hello. It is a copy that does
// not change; what it points to is nobody's to change.
type Neighbor struct {
	Peer   peer.ID // as libp2p has it
	ID     peerid.ID
	Member *membership.Member
	Chain  []byte // that Member was read from
	Roles
	Remote ma.Multiaddr // where its newest connection goes
}

// door is what the gate knows about one connected peer. The gate's mu guards it.
type door struct {
	Neighbor               // Member is nil until the chain was verified
	open     chan struct{} // closed once it was
	gone     chan struct{} // closed with the last connection
	// newest is the connection that was admitted last. latest ends when
	// another one is; nil: nobody has asked for it.
	newest    network.Conn
	latest    context.Context
	endLatest context.CancelFunc
	err       error // why it was refused, set before gone is closed
	// youngUntil is when a server has records, if it had none when it said hello.
	youngUntil time.Time
}

// end closes what waits for a door; the gate's mu is held.
func (d *door) end() {
	close(d.gone)
	if d.latest != nil {
		d.endLatest()
	}
}

// replace notes that a connection was admitted; the gate's mu is held.
func (d *door) replace(c network.Conn) {
	if d.newest != nil && !d.newest.Stat().Opened.Before(c.Stat().Opened) {
		return
	}
	d.newest = c
	if d.latest != nil {
		d.endLatest()
		d.latest = nil
	}
}
