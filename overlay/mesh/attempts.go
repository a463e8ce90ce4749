package mesh

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/carrier"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/p2p"
)

const (
	// seekFirst are tried in each round: those that were of most use. The same
	// number of others take turns.
	seekFirst = 8
	// attemptsMax bounds how many members' failures are remembered.
	attemptsMax = 2 * knownMax
)

// attempts is whom this peer has tried to reach since it last had a member, and
// why each was not reached. It is safe for concurrent use.
type attempts struct {
	mu     sync.Mutex // guards the rest
	order  []peer.ID
	last   map[peer.ID]attempt
	since  time.Time // when it became alone; zero: it is not, or nobody has looked
	pauses int       // rounds that were tried since
	said   bool      // that it is alone
}

// attempt is the newest one to reach a member.
type attempt struct {
	addrs []ma.Multiaddr
	err   error
}

// note keeps why a member was not reached; one that was cut short only if there
// is no other reason.
func (a *attempts) note(ai peer.AddrInfo, err error, cut bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if old := a.last[ai.ID]; cut && old.err != nil {
		return
	}
	if a.last == nil || len(a.last) >= attemptsMax {
		a.last, a.order = map[peer.ID]attempt{}, nil
	}
	if _, ok := a.last[ai.ID]; !ok {
		a.order = append(a.order, ai.ID)
	}
	a.last[ai.ID] = attempt{ai.Addrs, err}
}

// reached forgets what went wrong, and says whether that this peer is alone was
// said.
func (a *attempts) reached() (said bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	said = a.said
	a.last, a.order, a.since, a.pauses, a.said = nil, nil, time.Time{}, 0, false
	return said
}

// alone notes that nobody is connected, and returns since when.
func (a *attempts) alone() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.since.IsZero() {
		a.since = time.Now()
	}
	return a.since
}

// justAlone says whether this peer has not been alone for long.
func (a *attempts) justAlone() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.since.IsZero() && time.Since(a.since) < AloneAfter
}

// sayOnce says whether that this peer is alone has not been said yet.
func (a *attempts) sayOnce() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	was := a.said
	a.said = true
	return !was
}

// round returns whom to try next of those known, the most useful first: some of
// them each time, the others in turn.
func (a *attempts) round(known []peer.AddrInfo) []peer.AddrInfo {
	a.mu.Lock()
	n := a.pauses
	a.mu.Unlock()
	return takeTurns(known, 2*seekFirst, n)
}

// pause returns how long to wait before the next round.
func (a *attempts) pause() time.Duration {
	since := a.alone()
	a.mu.Lock()
	n := a.pauses
	a.pauses++
	a.mu.Unlock()
	most := seekPauseSoon
	if time.Since(since) > seekSoon {
		most = seekPauseMax
	}
	return min(seekPause<<min(n, 8), most)
}

// text says who was tried, where, and what the last reason of each was.
func (a *attempts) text() string {
	const shown = 8
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.order) == 0 {
		return "none tried yet"
	}
	addrs, silence, elsewhere := 0, true, false
	var parts []string
	for _, p := range a.order {
		t := a.last[p]
		addrs += len(t.addrs)
		silence = silence && t.silent()
		elsewhere = elsewhere || errors.Is(t.err, carrier.ErrNotServed)
		if len(parts) < shown {
			parts = append(parts, fmt.Sprintf("%s (%s)", p, why(t)))
		}
	}
	if n := len(a.order) - shown; n > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", n))
	}
	switch {
	case silence && elsewhere:
		parts = append(parts, "nothing came back over UDP, and over TCP somebody else answers in the members' place: this network may want a login in a browser first (a captive portal), or has a proxy that opens TLS")
	case silence:
		parts = append(parts, "nothing came back over UDP, which is blocked on the way, or nobody runs there")
	}
	return fmt.Sprintf("%s tried at %s: %s", counted(len(a.order), "member"), counted(addrs, "address"), strings.Join(parts, "; "))
}

// silent says whether nothing came back, from any address.
func (t attempt) silent() bool {
	probes := dialProbes(t.addrs, t.err)
	for _, p := range probes {
		if p.Heard || p.Err != "" {
			return false
		}
	}
	return len(probes) > 0
}

// final returns why this peer need not try again: a member has refused it for
// good. nil if it may.
func (a *attempts) final() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.order {
		var no *RefusedError
		if errors.As(a.last[p].err, &no) && no.Final {
			return a.last[p].err
		}
	}
	return nil
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	if strings.HasSuffix(what, "s") {
		what += "e"
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// why is what has gone wrong at each of a member's addresses, in a line.
func why(t attempt) string {
	var dial *swarm.DialError
	if !errors.As(t.err, &dial) || len(dial.DialErrors) == 0 {
		var at []string
		for _, a := range t.addrs {
			at = append(at, place(a))
		}
		return strings.Join(at, ", ") + ": " + reasonOf(t.err)
	}
	var parts []string
	for _, e := range dial.DialErrors {
		at := place(e.Address)
		parts = append(parts, at+": "+strings.TrimPrefix(reasonOf(e.Cause), "carrier "+at+": "))
	}
	return strings.Join(parts, ", ")
}

// place is an address as people write it.
func place(m ma.Multiaddr) string {
	if a, ok := p2p.CarrierAddress(m); ok {
		return a.String()
	}
	if at, ok := p2p.AddrPort(m); ok {
		return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()).String()
	}
	return m.String()
}

func reasonOf(err error) string {
	switch {
	case err == nil:
		return "reached"
	case errors.Is(err, membership.ErrNotMember), errors.As(err, new(*RefusedError)):
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return "no answer"
	}
	return err.Error()
}
