package pipe

import (
	"encoding/binary"
	"slices"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/wallclock"
)

// What a responder must know after a restart: the offers that it has read, and up
// to which timestamp each initiator's are old. Both matter only as long as the
// clock would let such an offer through. Records:
//
//	read       1, initiator (32), timestamp (8), SHA-256 of the offer (32)
//	confirmed  2, initiator (32), timestamp (8)

// Journal keeps records across restarts: a file. Its methods are safe for
// concurrent use.
type Journal interface {
	// Filter calls keep for each record, oldest first, and forgets those for which
	// it returns false. record is borrowed for the call.
	Filter(keep func(record []byte) bool) error
	// Append adds a record; wait returns when it will be there after a crash.
	Append(record []byte) (wait func() error)
}

const (
	recordRead      = 1
	recordConfirmed = 2
	recordHead      = 1 + peerid.Size + 8
	compactAfter    = 8192 // records appended
)

func readRecord(in *Incoming) []byte {
	return append(recordOf(recordRead, in), in.hash[:]...)
}

func recordOf(kind byte, in *Incoming) []byte {
	return binary.BigEndian.AppendUint64(append([]byte{kind}, in.Peer[:]...), in.stamp)
}

// restore notes what a record says, and returns whether it still matters.
func (r *responder) restore(b []byte, now int64) (keep bool) {
	if len(b) < recordHead {
		return false
	}
	peer, stamp := peerid.ID(b[1:]), binary.BigEndian.Uint64(b[1+peerid.Size:])
	if timely(stamp) != nil || r.initiators[peer] == nil && len(r.initiators) >= maxInitiators {
		return false
	}
	rest := b[recordHead:]
	switch {
	case b[0] == recordRead && len(rest) == 32:
		from := r.initiator(peer, now)
		from.remember([32]byte(rest))
	case b[0] == recordConfirmed && len(rest) == 0:
		from := r.initiator(peer, now)
		from.timestamp, from.confirmed = max(from.timestamp, stamp), true
	default:
		return false
	}
	return true
}

// timely says whether an offer's timestamp is of this time.
func timely(stamp uint64) error {
	if wall := uint64(wallclock.Now().UnixMicro()); stamp > wall+clockTolerance || stamp+clockTolerance < wall {
		return ErrClock
	}
	return nil
}

func (i *initiator) remember(hash [32]byte) {
	if slices.Contains(i.seen, hash) {
		return
	}
	if i.seen = append(i.seen, hash); len(i.seen) > maxSeen {
		i.seen = slices.Delete(i.seen, 0, 1)
	}
}

// restoreOffers takes over what the journal has from the runs before.
func (e *Endpoint) restoreOffers() {
	if e.cfg.Offers == nil {
		return
	}
	now := e.now()
	err := e.cfg.Offers.Filter(func(record []byte) bool { return e.responder.restore(record, now) })
	if err != nil {
		e.log.Warn("which offers were read before this start is not known: recorded ones of the last minutes are answered", "err", err)
	}
}

// keep appends a record, and makes room now and then. The caller holds mu.
func (e *Endpoint) keep(record []byte) (wait func() error) {
	if e.cfg.Offers == nil {
		return nil
	}
	if e.kept++; e.kept >= compactAfter {
		e.kept = 0
		if err := e.cfg.Offers.Filter(func(b []byte) bool {
			return len(b) >= recordHead && timely(binary.BigEndian.Uint64(b[1+peerid.Size:])) == nil
		}); err != nil {
			e.log.Warn("the journal of offers is not written anew", "err", err)
		}
	}
	return e.cfg.Offers.Append(record)
}

// await waits until a record is kept. That the disk takes nothing stops nobody.
func (e *Endpoint) await(wait func() error) {
	if wait == nil {
		return
	}
	if err := wait(); err != nil {
		e.log.Warn("an offer is not kept: after a restart within the next minutes it would be answered again", "err", err)
	}
}
