package netstack

import (
	"maps"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/idloc/idloc/internal/inner"
	"github.com/idloc/idloc/internal/peerid"
)

// A node that ends says so once for each pipe, again and again until the peer has
// heard it (internal/pipe). If the peer has all that was written to it, that says
// the end of each of its connections as well, so that Close waits for none of their
// FINs, which go out once. A peer takes it as the end of all that is open there,
// so it is said only where that is true:
//
//   - nothing lies in a send buffer that the peer has not acknowledged;
//   - no connection has ended otherwise than by a FIN, unless the peer has reset
//     it: our reset may have been lost, and what times out discards what it had;
//   - no handshake is under way, and none was since Close has begun, for nobody
//     accepts such a connection; and the pipe is up.
//
// Where it is not true the peer is told that the node has ended, and what has
// neither our FIN nor our reset yet is reset there.

// maxUnsure is how many peers are remembered; beyond, no peer is sure.
const maxUnsure = 4096

// deliveries is what is known of the peers. Its methods may be used concurrently.
type deliveries struct {
	mu     sync.Mutex             // guards what follows
	unsure map[peerid.ID]struct{} // may have a connection that did not end by a FIN
	told   map[peerid.ID]struct{} // are told that all was delivered; nil until then
}

// doubt notes that a connection with the peer has ended otherwise than by a FIN.
func (d *deliveries) doubt(id peerid.ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.unsure == nil {
		d.unsure = make(map[peerid.ID]struct{})
	}
	if len(d.unsure) < maxUnsure {
		d.unsure[id] = struct{}{}
	}
}

// sure says whether all connections with the peer that are over ended by a FIN.
func (d *deliveries) sure(id peerid.ID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, unsure := d.unsure[id]
	return !unsure && !id.IsZero() && len(d.unsure) < maxUnsure
}

// forget is told that the peer's process is over.
func (d *deliveries) forget(id peerid.ID) {
	d.mu.Lock()
	delete(d.unsure, id)
	d.mu.Unlock()
}

// tell notes which peers are told that all was delivered.
func (d *deliveries) tell(peers map[peerid.ID]netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.told = make(map[peerid.ID]struct{})
	for id := range peers {
		d.told[id] = struct{}{}
	}
}

// resets is shown a reset, and says whether it may go: not to a peer that is told
// that all was delivered. One that refuses a SYN has the number 0, and one that
// answers what comes for a connection that is over acknowledges nothing.
func (l *link) resets(h *inner.Header) bool {
	id, ok := l.shim.Table().Peer(h.Dst)
	if !ok || h.Seq == 0 {
		return true
	}
	d := &l.deliveries
	d.mu.Lock()
	_, told := d.told[id]
	d.mu.Unlock()
	if !told && h.Flags&inner.ACK != 0 {
		d.doubt(id)
	}
	return !told
}

// doubtOpening doubts the peers whose handshakes are under way. Those that begin
// later are doubted when they are answered.
func (s *Stack) doubtOpening() {
	for ep := range s.endpoints() {
		if ep.EndpointState() != tcp.StateSynRecv {
			continue
		}
		if a, ok := remoteOf(ep); ok {
			s.link.doubt(a)
		}
	}
}

// doubt doubts the peer at LSI a.
func (l *link) doubt(a netip.Addr) {
	if id, ok := l.shim.Table().Peer(a); ok {
		l.deliveries.doubt(id)
	}
}

// tellDelivered has the peers told that have all, where something is left in
// closing, and their connections go without a word more.
func (s *Stack) tellDelivered() {
	peers := s.orphans.delivered()
	s.link.deliveries.tell(peers)
	for _, a := range peers {
		s.shim.Delivered(a)
	}
}

// delivered returns the peers of orphans that lack nothing but ends, and an
// address of each.
func (o *orphans) delivered() map[peerid.ID]netip.Addr {
	o.mu.Lock()
	defer o.mu.Unlock()
	peers, lack := make(map[peerid.ID]netip.Addr), make(map[peerid.ID]bool)
	for ep, c := range o.all {
		switch state := ep.EndpointState(); {
		case state == tcp.StateError:
			lack[c.peer] = lack[c.peer] || !c.window.reset.Load() // it has discarded what it had
		case !unacknowledgedIn(state):
		case o.lacksEnd(ep, c):
			peers[c.peer] = c.window.key.Peer
		default:
			lack[c.peer] = true
		}
	}
	maps.DeleteFunc(peers, func(id peerid.ID, _ netip.Addr) bool { return lack[id] })
	return peers
}

// lacksEnd says whether the peer of an orphan lacks nothing but its end, which it is
// told otherwise.
func (o *orphans) lacksEnd(ep *tcp.Endpoint, c *orphan) bool {
	if !o.link.deliveries.sure(c.peer) || !o.link.shim.HasPipe(c.window.key.Peer) {
		return false
	}
	c.bare = c.bare || bare(ep, c.wq)
	return c.bare
}
