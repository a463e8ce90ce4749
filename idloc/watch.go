package idloc

import (
	"context"
	"iter"
	"sync"
	"time"

	"github.com/idloc/idloc/internal/event"
)

// Event is one step of a node's work, as Watch hands it out: a plain value.
type Event = event.Event

// EventKind names a step; its text is stable and used in JSON.
type EventKind = event.Kind

// The steps, in the order in which a first Dial meets them (draft §2, §6).
// The comment of each says which fields of Event it fills besides Time.
const (
	EventNameAsked       = event.NameAsked       // Name
	EventNameResolved    = event.NameResolved    // Name, Peer, Via (who served the record), Duration
	EventNameFailed      = event.NameFailed      // Name, Err
	EventLSIAssigned     = event.LSIAssigned     // Peer, Name, LSI
	EventMiss            = event.Miss            // Peer, LSI: no mapping, the packet is held, or the Dial waits
	EventOfferSent       = event.OfferSent       // Peer, Via
	EventOfferForwarded  = event.OfferForwarded  // From, Peer: this node passed an offer on
	EventOfferReceived   = event.OfferReceived   // Peer, Via
	EventAnswerReceived  = event.AnswerReceived  // Peer, Via, Duration
	EventCandidates      = event.Candidates      // Peer, Detail
	EventPairChosen      = event.PairChosen      // Peer, Local, Remote, Duration
	EventPipeUp          = event.PipeUp          // Peer, Local, Remote, Detail, Duration since the miss (not on the answering side)
	EventPipeMoved       = event.PipeMoved       // Peer, Local, Remote, Via (the relay, if it goes through one now)
	EventPipeRekeyed     = event.PipeRekeyed     // Peer
	EventPipeClosed      = event.PipeClosed      // Peer, Err
	EventPipeFailed      = event.PipeFailed      // Peer, Stage, Err, Duration since the miss
	EventFlowUp          = event.FlowUp          // with null encapsulation: Peer, Local, Remote, Detail (protocol)
	EventFlowMoved       = event.FlowMoved       // the same flow has other real addresses: Peer, Local, Remote, Detail
	EventFlowClosed      = event.FlowClosed      // Peer, Local, Remote, Detail
	EventPacketsReleased = event.PacketsReleased // Peer, LSI, Detail: how many, Dials that waited included
	EventPeerConnected   = event.PeerConnected   // Peer, Name, Remote
	EventPeerGone        = event.PeerGone        // Peer
	EventAlone           = event.Alone           // Err: no member is reached, and this node goes on trying; EventPeerConnected ends it
	EventRevoked         = event.Revoked         // Peer, Name
	EventProposed        = event.Proposed        // a member has brought something that waits for authorities, or one more signature; one event for each that waits: Name (who wants it), Detail (ID, what, signatures)
	EventNamePublished   = event.NamePublished   // Name
	EventDialed          = event.Dialed          // Peer, Name, Detail (network), Duration; Stage and Err if it failed
)

// watchBuffer is how many events a watcher may lag behind.
const watchBuffer = 1024

// keptEvents is how many events the page can look back on.
const keptEvents = 512

// hub hands events to watchers. Publish never blocks: a watcher that lags
// loses its oldest events. It also fixes their order: the same for all
// watchers; and it keeps the newest for the page. Safe for concurrent use.
type hub struct {
	mu       sync.Mutex // guards all below
	watchers map[*watcher]struct{}
	closed   bool
	seq      uint64    // of the newest event
	last     time.Time // its Time
	kept     []Event   // the newest; a ring once there are keptEvents
}

// watcher is one Watch call: a ring of the newest events.
type watcher struct {
	mu   sync.Mutex // guards the ring
	ring []Event    // grows up to watchBuffer
	head int
	n    int
	wake chan struct{} // capacity 1
	done chan struct{} // closed by the hub
}

func newHub() *hub { return &hub{watchers: map[*watcher]struct{}{}} }

func (h *hub) publish(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seq++
	e.Seq = h.seq
	if e.Time.Before(h.last) { // two goroutines have met here in the other order
		e.Time = h.last
	}
	h.last = e.Time
	if len(h.kept) < keptEvents {
		h.kept = append(h.kept, e)
	} else {
		h.kept[(e.Seq-1)%keptEvents] = e
	}
	for w := range h.watchers {
		w.push(e)
	}
}

// all returns the newest events, oldest first.
func (h *hub) all() []Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	oldest := 0
	if len(h.kept) == keptEvents {
		oldest = int(h.seq % keptEvents)
	}
	return append(append(make([]Event, 0, len(h.kept)), h.kept[oldest:]...), h.kept[:oldest]...)
}

func (h *hub) subscribe() *watcher {
	w := &watcher{wake: make(chan struct{}, 1), done: make(chan struct{})}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		close(w.done)
		return w
	}
	h.watchers[w] = struct{}{}
	return w
}

func (h *hub) unsubscribe(w *watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.watchers[w]; ok {
		delete(h.watchers, w)
		close(w.done)
	}
}

func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for w := range h.watchers {
		delete(h.watchers, w)
		close(w.done)
	}
}

func (w *watcher) push(e Event) {
	w.mu.Lock()
	switch {
	case w.n < len(w.ring):
	case w.n < watchBuffer:
		bigger := make([]Event, min(max(16, 2*len(w.ring)), watchBuffer))
		copy(bigger[copy(bigger, w.ring[w.head:]):], w.ring[:w.head])
		w.ring, w.head = bigger, 0
	default:
		w.head = (w.head + 1) % len(w.ring)
		w.n--
	}
	w.ring[(w.head+w.n)%len(w.ring)] = e
	w.n++
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watcher) pop() (Event, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.n == 0 {
		return Event{}, false
	}
	e := w.ring[w.head]
	w.ring[w.head] = Event{}
	w.head = (w.head + 1) % len(w.ring)
	w.n--
	return e, true
}

// Watch returns the node's events from the moment of the call until ctx ends
// or the node closes; events that came before the close are still delivered.
// The sequence may be ranged over once.
//
// Events come in the order in which the node emitted them: the same for every
// watcher, numbered by Seq, with times that do not go back unless the host's
// clock does. A step is emitted before anything follows from it: offer-sent
// before the offer has left, pipe-up before the pipe takes its first packet;
// only packets-released tells what has been done, and answers to those packets
// may be told before it. Steps that do not lead to each other have no more
// order than the goroutines that take them: the peer's first packet may bring a
// pipe up before ICE has chosen a pair, and Dial may return before the range
// over this sequence has come to what made it possible. The events of two
// nodes have no order but what follows from who told whom: their clocks differ.
//
// A watcher that lags more than 1,024 events behind loses the oldest: watching
// never slows the node. It sees that from a gap in Seq.
func (n *Node) Watch(ctx context.Context) iter.Seq[Event] {
	w := n.hub.subscribe()
	stop := context.AfterFunc(ctx, func() { n.hub.unsubscribe(w) })
	return func(yield func(Event) bool) {
		defer stop()
		defer n.hub.unsubscribe(w)
		for {
			for {
				e, ok := w.pop()
				if !ok {
					break
				}
				if !yield(e) {
					return
				}
			}
			select {
			case <-w.wake:
			case <-w.done:
				for e, ok := w.pop(); ok; e, ok = w.pop() {
					if ctx.Err() != nil || !yield(e) {
						return
					}
				}
				return
			}
		}
	}
}
