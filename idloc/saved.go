package idloc

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/idloc/idloc/internal/carrier"
	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/nat64"
	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/internal/state"
	"github.com/idloc/idloc/overlay/admission"
)

// The names under which state is kept in Config.Dir, beside the overlay's. The
// identity alone may stop a start: all others can be made anew.
const (
	stateIdentity = "identity"
	statePort     = "port" // the numbers that this node has had, newest first
	// stateLSIs: made anew, peers get other LSIs than before, which is what
	// happens to whoever has not been heard of for long anyway.
	stateLSIs = "lsis"
	// stateTimestamp is that of the newest offer, or while a node runs ahead of it. Peers take no offer that is
	// not newer than the last one; made anew, offers go by the clock alone, and
	// that is past it unless it was set back since.
	stateTimestamp = "timestamp"
	// stateOffers is the journal of the offers that were read. Made anew, offers
	// of the last minutes that somebody has recorded are answered once more.
	stateOffers = "offers"
)

// portsKept is how many numbers are remembered, and tried at a start.
const portsKept = 4

// identity loads the peer's key, or makes it.
func identity(dir *state.Dir) (ed25519.PrivateKey, error) {
	var saved struct {
		Seed []byte `json:"seed"`
	}
	found, err := dir.Load(stateIdentity, &saved)
	if err != nil {
		return nil, err
	}
	if s, err := admission.Load(dir); err == nil && s != nil && len(s.Seed) == ed25519.SeedSize && !bytes.Equal(s.Seed, saved.Seed) {
		// Node.Rotate has given this node another key: from now on it is that one.
		saved.Seed = s.Seed
		return ed25519.NewKeyFromSeed(saved.Seed), dir.Save(stateIdentity, &saved)
	}
	if found {
		if len(saved.Seed) != ed25519.SeedSize {
			return nil, fmt.Errorf("the saved identity has a key of %d bytes, want %d", len(saved.Seed), ed25519.SeedSize)
		}
		return ed25519.NewKeyFromSeed(saved.Seed), nil
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	saved.Seed = key.Seed()
	return key, dir.Save(stateIdentity, &saved)
}

// listen opens the node's port, which is a part of its state: members remember
// it, and tokens name it. Without Config.Port it is the one of the last start;
// if somebody else has that now, one of those before it, else any.
func (n *Node) listen() error {
	var had []uint16
	n.load(statePort, &had)
	had = slices.DeleteFunc(had, func(p uint16) bool { return p == 0 })
	tries := []uint16{n.cfg.Port}
	if n.cfg.Port == 0 {
		tries = append(slices.Clone(had), 0)
	}
	var taken error // why the newest was not to be had
	for _, number := range tries {
		cfg := socket.Config{
			Net: n.cfg.Net, Addrs: n.cfg.Addrs, Port: number, Logger: n.cfg.Logger,
			NotReal: n.cfg.lsiRanges(), OnPipe: n.onPipe, OnSTUN: n.onSTUN, OnChange: n.onChange,
			NAT64: nat64.System,
		}
		if n.carriers != nil {
			cfg.Carrier, cfg.CarrierTooLong = n.carriers, carrier.ErrTooLong
		}
		sock, err := socket.Listen(cfg)
		if err == nil {
			n.sock = sock
			break
		}
		if errors.Is(err, socket.ErrNoAddress) && n.cfg.Addrs != nil {
			return &ConfigError{"Addrs", fmt.Errorf("this host has none of %v now: %w", n.cfg.Addrs, err)}
		}
		if number == tries[len(tries)-1] {
			return err
		}
		if taken == nil {
			taken = err
		}
	}
	now := n.sock.Number()
	if taken != nil {
		n.log.Warn("this node's UDP port is somebody else's now, and it uses another: members that remember the old one "+
			"hear of it as soon as this node reaches one of them, but tokens minted before lead to the old one",
			"old", had[0], "port", now, "err", taken)
	}
	if len(had) == 0 || had[0] != now {
		had = append([]uint16{now}, slices.DeleteFunc(had, func(p uint16) bool { return p == now })...)
		n.save(statePort, had[:min(len(had), portsKept)])
	}
	return nil
}

// saveLSIs keeps the table, so that a restart gives peers the same LSIs.
func (n *Node) saveLSIs() { n.save(stateLSIs, n.table.Entries()) }

// dirt is what has changed since it was saved. Each has a capacity of one.
type dirt struct{ table, offers chan struct{} }

func newDirt() dirt { return dirt{make(chan struct{}, 1), make(chan struct{}, 1)} }

// note takes note of an event that something to be saved goes with.
func (d dirt) note(k event.Kind) {
	c := d.table
	switch k {
	case event.LSIAssigned:
	case event.OfferSent:
		c = d.offers
	default:
		return
	}
	select {
	case c <- struct{}{}:
	default:
	}
}

// timestampEvery is the least time between two writes of the newest offer's timestamp. An
// offer that gets no answer goes many ways, and each write has the disk do something twice.
const timestampEvery = 10 * time.Second

// keepState saves the table and the timestamp of the newest offer after
// changes, off the path of whoever dials: a crash must not give an LSI to
// another peer, nor let offers begin again below what peers have seen. So the
// timestamp that is written is ahead of those that are used until the next is.
func (n *Node) keepState() {
	offers := n.dirty.offers
	pause := time.NewTimer(timestampEvery)
	defer pause.Stop()
	for {
		select {
		case <-n.dirty.table:
			n.saveLSIs()
		case <-offers:
			n.save(stateTimestamp, n.pipes.Load().LastTimestamp()+uint64(2*timestampEvery/time.Microsecond))
			offers = nil
			pause.Reset(timestampEvery)
		case <-pause.C:
			offers = n.dirty.offers
		case <-n.ctx.Done():
			return
		}
	}
}

// save keeps a document. That the disk takes nothing is logged and stops nobody.
func (n *Node) save(name string, v any) {
	n.saving.Lock()
	defer n.saving.Unlock()
	n.state.Keep(n.log, name, v)
}

// load reads a document that can be made anew, and says whether v holds it.
func (n *Node) load(name string, v any) bool {
	found, aside := n.state.LoadCache(name, v)
	if aside != nil {
		n.log.Warn("saved state is damaged and begun anew", "name", name, "err", aside)
	}
	return found
}
