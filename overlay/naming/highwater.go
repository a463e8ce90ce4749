package naming

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

var (
	// ErrRolledBack: a reader has seen a newer record of the same peer.
	ErrRolledBack = errors.New("record is older than one seen before")
	// ErrPinned: the label belongs to another peer, as far as this reader
	// knows, and the record's claim is not the stronger one.
	ErrPinned = errors.New("label is pinned to another peer")
	// ErrUnverified: the record did not come from a Validator.
	ErrUnverified = errors.New("record was not verified")
)

const (
	// MaxPins bounds the labels that a HighWater remembers.
	MaxPins = 4096

	highWaterVersion = 1
)

// HighWater is what a reader remembers of the names it resolved, so that
// neither an old answer nor a weaker claim passes for news (DESIGN §14.2): for
// each label the peer, by what right it has the label, and its highest seq.
// The zero value is empty and ready. Safe for concurrent use. It marshals to
// JSON, to be kept in the node's state.
type HighWater struct {
	Now func() time.Time // nil: time.Now

	mu   sync.Mutex
	pins map[string]pin
}

// pin is one label's entry.
type pin struct {
	Label    string    `json:"label"`
	Peer     peerid.ID `json:"peer"`
	Seq      uint64    `json:"seq"`
	Released bool      `json:"released,omitempty"` // its peer gave it up
	Seen     time.Time `json:"seen"`
	Until    time.Time `json:"until"` // end of the peer's certificate: then the label is free
	standing
}

func (h *HighWater) now() time.Time {
	if h.Now == nil {
		return time.Now()
	}
	return h.Now()
}

// Accept says whether the reader may believe a verified record, and remembers
// it if so.
//
//   - The pinned peer's own records are taken unless their seq went back
//     (ErrRolledBack).
//   - Another peer's are taken if nothing is pinned: the pinned peer gave the
//     label up by a tombstone, its certificate has ended, or Forget was
//     called. Else only on the word of an authority above the one that gave
//     the label to the pinned peer: any issuer's if that one is provisional, the
//     founder's if a delegate confirmed it; and if the founder has confirmed
//     both, when the other stands before the pinned one in Select's order.
//     ErrPinned otherwise, always so for provisional members.
//
// A tombstone that is accepted says that the label has nobody.
func (h *HighWater) Accept(r *Record) error {
	if r == nil || r.member == nil {
		return ErrUnverified
	}
	now := h.now()
	h.mu.Lock()
	defer h.mu.Unlock()
	p, ok := h.pins[r.Label]
	if ok && p.Peer == r.Peer {
		if r.Seq < p.Seq {
			return fmt.Errorf("%q: %w: %d, seen %d", r.Label, ErrRolledBack, r.Seq, p.Seq)
		}
	} else if ok && !p.free(now) {
		if !r.standing.moves(p.standing) {
			return fmt.Errorf("%q: %w: %v, not %v", r.Label, ErrPinned, p.Peer, r.Peer)
		}
	} else if ok && r.Tombstone {
		return nil // nobody gives up what somebody else had: nothing to remember
	}
	if h.pins == nil {
		h.pins = make(map[string]pin)
	}
	h.pins[r.Label] = pin{
		Label: r.Label, Peer: r.Peer, Seq: r.Seq, Released: r.Tombstone,
		Seen: seconds(now), Until: r.member.NotAfter, standing: r.standing,
	}
	h.shrink(now)
	return nil
}

// Behind says whether a record, parsed or verified, is older than one of the
// same peer that was accepted before. A reader that collects records goes on
// looking when it meets one.
func (h *HighWater) Behind(r *Record) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, ok := h.pins[r.Label]
	return ok && p.Peer == r.Peer && r.Seq < p.Seq
}

// free says whether anybody may have the label.
func (p pin) free(now time.Time) bool {
	return p.Released || p.Until.Before(now.Add(-membership.Tolerance))
}

// Peer returns the peer that has the label, as far as this reader knows.
func (h *HighWater) Peer(label string) (peerid.ID, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, ok := h.pins[label]
	if !ok || p.free(h.now()) {
		return peerid.ID{}, false
	}
	return p.Peer, true
}

// Forget frees the labels of a peer: it was revoked.
func (h *HighWater) Forget(peer peerid.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for label, p := range h.pins {
		if p.Peer == peer {
			delete(h.pins, label)
		}
	}
}

// Len returns the number of labels remembered.
func (h *HighWater) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.pins)
}

// shrink drops one entry if there are too many: a free one before a taken one,
// then a weak claim before a strong one, so that a member that claims
// thousands of labels pushes out its like and not the named; then the one not
// seen for longest.
func (h *HighWater) shrink(now time.Time) {
	if len(h.pins) <= MaxPins {
		return
	}
	var victim *pin
	for _, p := range h.pins {
		if victim == nil || p.before(*victim, now) {
			victim = &p
		}
	}
	delete(h.pins, victim.Label)
}

func (p pin) before(q pin, now time.Time) bool {
	if pf, qf := p.free(now), q.free(now); pf != qf {
		return pf
	}
	return cmp.Or(cmp.Compare(p.Class, q.Class), p.Seen.Compare(q.Seen), cmp.Compare(p.Label, q.Label)) < 0
}

// highWaterJSON is the stored form.
type highWaterJSON struct {
	Version int   `json:"version"`
	Pins    []pin `json:"pins"` // rising by label
}

// MarshalJSON implements json.Marshaler.
func (h *HighWater) MarshalJSON() ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := highWaterJSON{Version: highWaterVersion, Pins: make([]pin, 0, len(h.pins))}
	for _, p := range h.pins {
		out.Pins = append(out.Pins, p)
	}
	slices.SortFunc(out.Pins, func(a, b pin) int { return cmp.Compare(a.Label, b.Label) })
	return json.Marshal(out)
}

// UnmarshalJSON implements json.Unmarshaler. It replaces what h remembers;
// after an error h is as before.
func (h *HighWater) UnmarshalJSON(b []byte) error {
	var in highWaterJSON
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return fmt.Errorf("pinned names: %w", err)
	}
	if in.Version != highWaterVersion {
		return fmt.Errorf("pinned names: %w (version %d)", ErrVersion, in.Version)
	}
	if len(in.Pins) > MaxPins {
		return fmt.Errorf("pinned names: %w: %d", ErrTooLarge, len(in.Pins))
	}
	pins := make(map[string]pin, len(in.Pins))
	for _, p := range in.Pins {
		if err := membership.CheckLabel(p.Label); err != nil {
			return fmt.Errorf("pinned names: %w", err)
		}
		if _, twice := pins[p.Label]; twice || p.Peer.IsZero() || p.Class < provisionalWildcard || p.Class > confirmedNamed {
			return fmt.Errorf("pinned names: %w: entry of %q", ErrNonCanonical, p.Label)
		}
		pins[p.Label] = p
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pins = pins
	return nil
}
