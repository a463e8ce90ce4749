package pipe

import "sync/atomic"

// DropReason says why a datagram was dropped. It is an error whose making
// costs nothing; each is counted where it is returned.
type DropReason uint8

// The reasons.
const (
	DropMalformed DropReason = iota + 1 // too short, unknown type, bad plaintext
	DropIndex                           // no keys under this receiver index
	DropAuth                            // the AEAD did not open
	DropReplay                          // counter seen before, too old or over the limit
	DropExpired                         // the keys were too old or used up to send
	DropNoPath                          // nothing to send on
	DropWrite                           // the socket refused
	DropFragment                        // a piece that fits no message, or timed out
	DropSource                          // unauthenticated and from an unknown address
	DropClosed                          // the pipe is closed
	DropChannel                         // nothing is relayed on this channel
	DropQuota                           // more than is relayed for one member
	DropHandshake                       // a rekey frame, of which the peer has sent too many
	DropAck                             // an acknowledgement of what was not sent
	dropReasons
)

var dropNames = [dropReasons]string{
	DropMalformed: "malformed",
	DropIndex:     "unknown index",
	DropAuth:      "authentication failed",
	DropReplay:    "replay",
	DropExpired:   "keys expired",
	DropNoPath:    "no path",
	DropWrite:     "write failed",
	DropFragment:  "fragment",
	DropSource:    "unknown source",
	DropClosed:    "pipe closed",
	DropChannel:   "unknown channel",
	DropQuota:     "relay quota",
	DropHandshake: "too many rekeys",
	DropAck:       "false acknowledgement",
}

// String returns a stable name, used as a metric label.
func (r DropReason) String() string {
	if r < dropReasons {
		return dropNames[r]
	}
	return "unknown"
}

// Error implements error.
func (r DropReason) Error() string { return "pipe: dropped: " + r.String() }

// drops counts by reason. It may be used concurrently.
type drops [dropReasons]atomic.Uint64

// count adds one and returns r as an error.
func (d *drops) count(r DropReason) error {
	d[r].Add(1)
	return r
}

func (d *drops) snapshot() map[string]uint64 {
	m := make(map[string]uint64)
	for r := range d {
		if n := d[r].Load(); n > 0 {
			m[DropReason(r).String()] = n
		}
	}
	return m
}
