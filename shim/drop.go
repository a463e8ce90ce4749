package shim

import (
	"sync/atomic"

	"github.com/idloc/idloc/shim/pep"
)

// Drop is a reason why a packet went no further. It is counted, not logged.
type Drop uint8

// The reasons. Out: on the way to a pipe. In: on the way to the stack.
const (
	DropOutMalformed Drop = iota // not an IP packet that the stack should send
	DropOutSource                // the source is not this node's LSI
	DropOutProtocol              // neither TCP, UDP, ICMP echo nor an ICMP error
	DropOutNoPeer                // the destination is nobody's LSI
	DropOutQueue                 // pushed out of the hold queue by newer ones
	DropOutFailed                // held for a pipe that could not be opened
	DropOutTooBig                // larger than any pipe takes
	DropOutPipe                  // the pipe did not take it
	DropOutClosed                // the shim is closed
	DropInNoMapping              // the peer has no LSI of that family
	DropInShort                  // shorter than its headers
	DropInTCPOffset              // TCP data offset outside the segment
	DropInUDPLength              // UDP length is not the datagram's
	DropInProtocol               // a protocol that does not pass
	DropInFragment               // fragment header impossible, or of TCP
	DropInICMPType               // neither echo nor an error we pass
	DropInICMPQuote              // quote too short or of the wrong family
	DropInNoUpper                // no stack attached
	DropOutBare                  // the real socket of a null flow did not take it
	DropAnswer                   // ICMP answers queued faster than taken
	numDrops
)

var dropNames = [numDrops]string{
	"out-malformed", "out-source", "out-protocol", "out-no-peer", "out-held", "out-failed",
	"out-too-big", "out-pipe", "out-closed", "in-no-mapping", "in-short", "in-tcp-offset",
	"in-udp-length", "in-protocol", "in-fragment", "in-icmp-type", "in-icmp-quote",
	"in-no-upper", "out-bare", "answer-queue",
}

// DropReasons are the names under which drops are counted.
func DropReasons() []string { return dropNames[:] }

// String returns the name under which Stats counts it.
func (d Drop) String() string {
	if d < numDrops {
		return dropNames[d]
	}
	return "unknown"
}

// Error makes a Drop an error without an allocation.
func (d Drop) Error() string { return "shim: dropped: " + d.String() }

// counters are written on the data path with atomic adds only.
type counters struct {
	drops  [numDrops]atomic.Uint64
	out    atomic.Uint64
	in     atomic.Uint64
	merged atomic.Uint64
	misses atomic.Uint64

	tcp pep.Counters
}

func (c *counters) drop(d Drop) Drop {
	c.drops[d].Add(1)
	return d
}

// Stats is a snapshot of the counters since New.
type Stats struct {
	Out    uint64            // packets of the stack that went into a pipe (a super packet is one)
	In     uint64            // packets delivered to the stack (a merged run is one)
	Merged uint64            // datagrams that were merged into a packet before them
	Misses uint64            // Connects started
	Early  uint64            // TCP segments that waited for one that was overtaken
	Gaps   uint64            // times that such a wait was in vain
	Drops  map[string]uint64 // by reason, zeros left out
}

// Stats may be called at any time from any goroutine.
func (s *Shim) Stats() Stats {
	st := Stats{
		Out:    s.count.out.Load(),
		In:     s.count.in.Load(),
		Merged: s.count.merged.Load(),
		Misses: s.count.misses.Load(),
		Early:  s.count.tcp.Held.Load(),
		Gaps:   s.count.tcp.GivenUp.Load(),
		Drops:  make(map[string]uint64),
	}
	for d := range s.count.drops {
		if n := s.count.drops[d].Load(); n != 0 {
			st.Drops[Drop(d).String()] = n
		}
	}
	return st
}
