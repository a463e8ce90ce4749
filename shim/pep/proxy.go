package pep

import (
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"

	"github.com/idloc/idloc/internal/inner"
)

// Link is the shim as a Proxy has it. It may be called from several goroutines,
// and with locks of the Proxy held: it does not call back.
type Link interface {
	// SendAck sends a TCP segment without payload; its header th is borrowed.
	SendAck(v6 bool, class uint8, th []byte)
	// SendSure is SendAck, and the pipe repairs it.
	SendSure(v6 bool, class uint8, th []byte)
	// Deliver gives the stack a packet, which it owns from then on; h is
	// borrowed.
	Deliver(h *inner.Header, packet buffer.Buffer)
}

// Counters may be read at any time. The Proxies of a node share one, and what all of
// them hold is bounded by it.
type Counters struct {
	Held    atomic.Uint64 // segments that waited for those before them
	GivenUp atomic.Uint64 // gaps that lasted too long

	bytes atomic.Int64 // of payload that waits now
}

// Batch is what packets for the peer leave in: a pipe.Batch.
type Batch interface {
	Room(n int) []byte
	Seal()
}

// Proxy works for the TCP between this node and one peer. Its methods may be used
// concurrently. It must not be copied.
type Proxy struct {
	link  Link
	count *Counters
	acks  atomic.Pointer[acks]  // nil until a small segment comes in
	order atomic.Pointer[order] // nil until a segment with payload does
	last  atomic.Pointer[lastAcks]
}

// Init makes p ready; both are required.
func (p *Proxy) Init(l Link, c *Counters) { p.link, p.count = l, c }

// start is what times are measured from: time.Since of it reads the monotonic
// clock only.
var start = time.Now()
