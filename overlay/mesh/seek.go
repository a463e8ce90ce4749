package mesh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/overlay/p2p"
)

// How a peer without a connection finds the others: it tries those it knows
// again and again. A round takes four seconds if nobody answers; the first
// packet of a dial is repeated in that time, so that a member which comes up
// meanwhile is reached at once.

// dialWidth is how many members are dialled at a time.
const dialWidth = 8

var errClosed = errors.New("closed")

// bell wakes all who wait for it. The zero value is ready. It is safe for
// concurrent use.
type bell struct {
	mu sync.Mutex
	ch chan struct{} // closed by the next ring
}

// wait returns what is closed by the next ring.
func (b *bell) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}

// UnreachedError is that no member was reached.
type UnreachedError struct {
	Within time.Duration
	tried  string // attempts.text
	err    error  // why no more was tried
}

func (e *UnreachedError) Error() string {
	return fmt.Sprintf("no member reached in %v, %s: %v", e.Within.Round(10*time.Millisecond), e.tried, e.err)
}

// Unwrap returns why no more was tried.
func (e *UnreachedError) Unwrap() error { return e.err }

// Seek connects to one of those known, trying until ctx or the mesh ends, or
// one of them has refused this peer for good. Somebody who comes from outside
// is as good. ready is called before each round, and ends it too.
func (m *Mesh) Seek(ctx context.Context, known func() []peer.AddrInfo, ready func() error) error {
	start := time.Now()
	waiting := time.AfterFunc(waitingSaid, func() {
		peers := known()
		m.cfg.Log.Info("waiting for a member to answer", "known", len(peers), "why", unanswered(peers))
	})
	defer waiting.Stop()
	said := start
	for {
		rung := m.stirred.wait()
		if err := ready(); err != nil {
			return err
		}
		err := m.Round(ctx, m.tries.round(known()))
		if err == nil {
			return nil
		}
		if len(known()) == 0 {
			return err
		}
		if why := m.tries.final(); why != nil {
			return &UnreachedError{time.Since(start), m.tries.text(), why}
		}
		if ctx.Err() != nil || m.ctx.Err() != nil {
			return &UnreachedError{time.Since(start), m.tries.text(), cmp.Or(ctx.Err(), errClosed)}
		}
		if time.Since(said) > waitingSaidAgain {
			said = time.Now()
			m.cfg.Log.Info("still waiting for a member to answer", "for", time.Since(start).Round(time.Second), "why", m.tries.text())
		}
		m.rest(ctx, rung)
	}
}

// unanswered says where members are looked for.
func unanswered(peers []peer.AddrInfo) string {
	const shown = 3
	var at []string
	for _, ai := range peers {
		for _, a := range ai.Addrs {
			if text := place(a); !slices.Contains(at, text) {
				at = append(at, text)
			}
		}
	}
	switch n := len(at) - shown; {
	case len(at) == 0:
		return "no address of one is known"
	case n > 0:
		return fmt.Sprintf("no answer yet from %s and %d more", strings.Join(at[:shown], ", "), n)
	}
	return "no answer yet from " + strings.Join(at, ", ")
}

// Stir has those who wait for a member look again at once: something has changed.
func (m *Mesh) Stir() { m.stirred.ring() }

// rest waits between two rounds, or until something has changed.
func (m *Mesh) rest(ctx context.Context, rung <-chan struct{}) {
	t := time.NewTimer(m.pauseBetweenRounds())
	defer t.Stop()
	select {
	case <-t.C:
	case <-rung:
	case <-ctx.Done():
	case <-m.ctx.Done():
	}
}

// pauseBetweenRounds returns how long to wait before the next round. While the
// clock is wrong nobody can be reached, and only setting it changes that, which is
// noticed.
func (m *Mesh) pauseBetweenRounds() time.Duration {
	if m.cfg.ClockWrong() {
		return seekPauseMax
	}
	return m.tries.pause()
}

// Round connects to at least one of the peers given, in turn, and if it is one that
// keeps no part of the database waits a little for one that does: what is put
// or asked next would find none.
func (m *Mesh) Round(ctx context.Context, peers []peer.AddrInfo) error {
	ctx, cancel := context.WithTimeout(ctx, roundTimeout)
	defer cancel()
	stop := context.AfterFunc(m.ctx, cancel)
	defer stop()
	if m.ctx.Err() != nil { // AfterFunc may take longer than a dial
		return errClosed
	}
	m.ClearBackoff(peers)
	peers = slices.DeleteFunc(slices.Clone(peers), func(ai peer.AddrInfo) bool { return ai.ID == m.host.ID() })
	if len(peers) == 0 {
		return errors.New("no address of a member is known")
	}
	errs := make(chan error)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		inTurn(ctx, peers, m.isHeard, func(ai peer.AddrInfo) bool {
			err := m.dialFirst(ctx, ai)
			select {
			case errs <- err:
			case <-ctx.Done():
			}
			return err != nil
		})
	})
	return m.awaitFirst(ctx, errs, len(peers))
}

// dialFirst connects to a member as the first one, and notes what came of it.
func (m *Mesh) dialFirst(ctx context.Context, ai peer.AddrInfo) error {
	m.host.Peerstore().AddAddrs(ai.ID, ai.Addrs, peerstore.TempAddrTTL)
	_, err := m.Connect(ctx, ai)
	for _, p := range dialProbes(ai.Addrs, err) {
		m.cfg.Probed(p)
	}
	m.tries.note(ai, err, ctx.Err() != nil)
	return err
}

// awaitFirst returns when one of the dials, of which there are so many, or somebody
// from outside has made a member of this peer's, and a server of the database if
// one comes soon.
func (m *Mesh) awaitFirst(ctx context.Context, errs <-chan error, dials int) error {
	var all []error
	var patience <-chan time.Time // for a server; set with the first member
	for dials > 0 {
		rung := m.stirred.wait()
		if members := m.Members(); len(members) > 0 {
			if slices.ContainsFunc(members, func(n Neighbor) bool { return n.Server }) {
				return nil
			}
			if patience == nil {
				patience = time.After(serverPatience)
			}
		}
		select {
		case err := <-errs:
			dials--
			if err != nil {
				all = append(all, err)
			}
		case <-rung:
		case <-patience:
			return nil
		case <-ctx.Done():
			if patience != nil {
				return nil
			}
			return fmt.Errorf("no member reached: %w", errors.Join(append(all, ctx.Err())...))
		}
	}
	if len(m.Members()) > 0 {
		return nil
	}
	return fmt.Errorf("no member reached: %w", errors.Join(all...))
}

// inTurn dials those given, the most useful first, and the next when dial says so
// or those dialled say nothing, until ctx ends, and waits for the dials. All at once
// would be many handshakes, in vain but one, at members that have just as much to do
// when an office has lost what it was connected to.
func inTurn(ctx context.Context, peers []peer.AddrInfo, heard, dial func(peer.AddrInfo) (next bool)) {
	sem := make(chan struct{}, dialWidth)
	next := make(chan struct{}, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	for i, ai := range peers {
		if i > 0 && !awaitTurn(ctx, peers[:i], heard, next) {
			return
		}
		select {
		case sem <- struct{}{}:
		case <-ctx.Done():
			return
		}
		wg.Go(func() {
			on := dial(ai)
			<-sem
			if !on {
				return
			}
			select {
			case next <- struct{}{}:
			default:
			}
		})
	}
}

// awaitTurn returns when one of those dialled makes room for the next, or none of
// them has just been heard: whoever was answers, and may be busy. It says whether
// ctx has not ended.
func awaitTurn(ctx context.Context, dialled []peer.AddrInfo, heard func(peer.AddrInfo) bool, next <-chan struct{}) bool {
	tick := time.NewTicker(seekPace)
	defer tick.Stop()
	for range seekPatience / seekPace {
		select {
		case <-ctx.Done():
			return false
		case <-next:
			return true
		case <-tick.C:
		}
		if !slices.ContainsFunc(dialled, heard) {
			return true
		}
	}
	return true
}

// isHeard says whether a packet of QUIC has just come from where a member is.
func (m *Mesh) isHeard(ai peer.AddrInfo) bool {
	return slices.ContainsFunc(ai.Addrs, func(a ma.Multiaddr) bool {
		at, ok := p2p.Place(a)
		return ok && m.cfg.Port.HeardQUIC(at, heardFor)
	})
}

// ServerHeard says whether a packet of QUIC has just come from where a server is that this
// peer was connected to once.
func (m *Mesh) ServerHeard() bool { return slices.ContainsFunc(m.known.Servers(), m.isHeard) }

// Alone says whether this peer knows members and is connected to none, and why
// the last attempts to reach one have failed.
func (m *Mesh) Alone() (bool, string) {
	if len(m.Members()) > 0 || len(m.known.AddrInfos()) == 0 {
		return false, ""
	}
	return true, m.tries.text()
}

// JustBack says whether this peer, which knows members, has only just begun to look
// for them: a server may be reached any moment.
func (m *Mesh) JustBack() bool {
	return len(m.known.AddrInfos()) > 0 && (time.Since(m.made) < AloneAfter || m.tries.justAlone())
}

// SayAlone is for when a peer has found nobody: it says so, once, if it has been
// looking for long, or at once.
func (m *Mesh) SayAlone(atOnce bool) {
	since := m.tries.alone()
	if !atOnce && time.Since(since) < AloneAfter {
		return
	}
	alone, why := m.Alone()
	if !alone || !m.tries.sayOnce() {
		return
	}
	m.cfg.Log.Warn("no member is reached: this node is up, but alone, and goes on trying", "why", why)
	m.cfg.Alone(why)
}
