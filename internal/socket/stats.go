package socket

import (
	"net/netip"
	"sync/atomic"
)

// dropReason says why a received datagram went nowhere, or one to be sent was
// not. Reasons are counted, never formatted.
type dropReason uint8

const (
	dropUnknownKind  dropReason = iota // first byte belongs to nobody
	dropEmpty                          // no bytes
	dropTruncated                      // longer than the read buffer
	dropForged                         // says that it is from a carrier's address, which no network has
	dropNoHandler                      // no callback for the kind
	dropNoView                         // QUIC, and nobody listens for it here
	dropQUICVersion                    // a long header of another version
	dropQUICLength                     // lengths that no QUIC packet has
	dropQUICStranger                   // from an address that we do not speak QUIC with
	dropQUICForged                     // a first packet that does not open
	dropQUICRate                       // too many first packets from this source
	dropQueueFull                      // a view's oldest datagram made room for a newer
	dropReadError                      // the system reported an error instead of a datagram
	dropSendBusy                       // no room in the send buffer
	dropSendTooLong                    // datagram longer than the interface takes
	dropSendError                      // any other error of the system
	dropReasons
)

var dropNames = [dropReasons]string{
	dropUnknownKind:  "unknown-kind",
	dropEmpty:        "empty",
	dropTruncated:    "truncated",
	dropForged:       "forged",
	dropNoHandler:    "no-handler",
	dropNoView:       "quic-not-listening",
	dropQUICVersion:  "quic-version",
	dropQUICLength:   "quic-length",
	dropQUICStranger: "quic-stranger",
	dropQUICForged:   "quic-forged",
	dropQUICRate:     "quic-rate",
	dropQueueFull:    "queue-full",
	dropReadError:    "read-error",
	dropSendBusy:     "send-busy",
	dropSendTooLong:  "send-too-long",
	dropSendError:    "send-error",
}

func (r dropReason) String() string { return dropNames[r] }

// DropReasons are the names under which drops are counted.
func DropReasons() []string { return dropNames[:] }

// counters are those of one Conn. They are atomics so that the read goroutine
// and senders never wait for a reader of Stats.
type counters struct {
	received      [kinds]atomic.Uint64 // datagrams, before any drop
	receivedBytes atomic.Uint64
	reads         atomic.Uint64 // system calls that gave datagrams
	sent          atomic.Uint64 // datagrams
	sentBytes     atomic.Uint64
	dropped       [dropReasons]atomic.Uint64
}

func (c *counters) drop(r dropReason) { c.dropped[r].Add(1) }

// Stats is a snapshot of a Port's counters, since Listen, over all its
// sockets, closed ones included.
type Stats struct {
	Pipe, STUN, QUIC uint64 // datagrams received, by kind
	Other            uint64 // datagrams received that are of no kind
	Received         uint64 // bytes of all these
	Reads            uint64 // receive calls: datagrams per read tell what GRO gains
	Sent             uint64 // datagrams sent
	SentBytes        uint64
	Dropped          map[string]uint64 // by reason; only what is not zero
	Sockets          []SocketStats
}

// SocketStats describes one open socket.
type SocketStats struct {
	Local netip.AddrPort
	GSO   bool // a batch is one system call
	GRO   bool // a receive call may give several datagrams
}

// add adds c's values to s.
func (s *Stats) add(c *counters) {
	s.Pipe += c.received[kindPipe].Load()
	s.STUN += c.received[kindSTUN].Load()
	s.QUIC += c.received[kindQUIC].Load()
	s.Other += c.received[kindOther].Load()
	s.Received += c.receivedBytes.Load()
	s.Reads += c.reads.Load()
	s.Sent += c.sent.Load()
	s.SentBytes += c.sentBytes.Load()
	for r := range c.dropped {
		if n := c.dropped[r].Load(); n > 0 {
			s.Dropped[dropReason(r).String()] += n
		}
	}
}

// Stats returns the counters as they are now.
func (p *Port) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Stats{Dropped: make(map[string]uint64)}
	for _, c := range p.retired {
		s.add(c)
	}
	if p.carrier != nil {
		s.add(&p.carrier.count)
	}
	for c := range p.extras {
		s.add(&c.count)
	}
	for _, c := range p.set.Load().conns {
		s.add(&c.count)
		gso, gro := c.link.offloads()
		s.Sockets = append(s.Sockets, SocketStats{Local: c.local, GSO: gso, GRO: gro})
	}
	return s
}

// merge adds o's values to c.
func (c *counters) merge(o *counters) {
	for k := range c.received {
		c.received[k].Add(o.received[k].Load())
	}
	c.receivedBytes.Add(o.receivedBytes.Load())
	c.reads.Add(o.reads.Load())
	c.sent.Add(o.sent.Load())
	c.sentBytes.Add(o.sentBytes.Load())
	for r := range c.dropped {
		c.dropped[r].Add(o.dropped[r].Load())
	}
}
