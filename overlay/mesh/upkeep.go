package mesh

import (
	"context"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/pause"
	"github.com/idloc/idloc/overlay/p2p"
)

// smallOverlay is up to how many connected members everybody is connected to
// everybody, so that a lookup is one round trip.
const smallOverlay = ConnsLow / 2

// Wake runs the upkeep soon.
func (m *Mesh) Wake() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Run is the mesh's housekeeping. It returns after Leave.
func (m *Mesh) Run() {
	m.Go(m.saveArrivals)
	if m.cfg.Carriers != nil {
		m.Go(m.uncarry)
	}
	t := time.NewTimer(UpkeepEvery)
	defer t.Stop()
	var pulsed, asked, noted, greeted time.Time
	said := m.cfg.Hello().Addrs
	few := fewRetry // how soon to ask again while few servers are known
	for {
		pulse := false
		select {
		case <-m.ctx.Done():
			return
		case <-m.wake:
			few = fewRetry
		case <-t.C:
			pulse = true
		}
		next := UpkeepEvery
		if pulse && time.Since(pulsed) >= UpkeepEvery/2 {
			pulsed = time.Now()
			m.cfg.Pulse()
			m.known.Save(m.cfg.Log)
		}
		if (pulse || time.Since(asked) > m.askPause()) && m.AskPeers(m.ctx) {
			asked = time.Now()
		}
		if pulse || time.Since(noted) > rememberPause {
			noted = time.Now()
			m.Remember()
		}
		if now := m.cfg.Hello().Addrs; time.Since(greeted) > greetPause && !sameAddrs(said, now) {
			greeted, said = time.Now(), now
			m.Greet() // where this peer is has changed
		}
		if !m.enoughServers() {
			// Whoever was asked may just not have heard of them yet.
			next = min(next, few)
			few = min(2*few, UpkeepEvery)
			m.tryServers()
		}
		if !m.Online() {
			next = m.pauseBetweenRounds()
		}
		if m.cfg.Decide() {
			next = min(next, roleRetry)
		}
		t.Reset(next)
	}
}

// sameAddrs says whether two lists have the same addresses, in any order.
func sameAddrs(a, b []ma.Multiaddr) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(m ma.Multiaddr) bool { return !slices.ContainsFunc(b, m.Equal) })
}

// askPause is the least time between two questions for members.
func (m *Mesh) askPause() time.Duration {
	if servers(m.Members()) == 0 {
		return fewRetry / 2 // somebody must know where the records are
	}
	return askPeersPause
}

// Remember keeps the addresses of those connected for the next start, and Save
// writes them.
func (m *Mesh) Remember() {
	for _, n := range m.Members() {
		m.note(n)
	}
}

// Save is described at Remember.
func (m *Mesh) Save() { m.known.Save(m.cfg.Log) }

// note keeps the addresses of a member: the one of its connection, which is
// there from the first moment on, is among them.
func (m *Mesh) note(n Neighbor) {
	m.known.NoteMet(n.ID, m.Addrs(n.Peer, knownMaxAddrs, false), n.Server, n.Member.Account())
	if n.Issuer {
		m.known.NoteIssuer(n.ID)
	}
}

// saveSoon has who is known saved within moments.
func (m *Mesh) saveSoon() {
	select {
	case m.arrived <- struct{}{}:
	default:
	}
}

// saveArrivals saves who is known soon after a member has come in for the
// first time, or was heard of: a crash a second later must find the way back. It
// looks twice, since a member's own addresses are known a moment after its
// connection's. While a crowd comes in it looks less and less often: some of them are
// enough to find the way back.
func (m *Mesh) saveArrivals() {
	every := saveEvery
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-m.arrived:
		}
		for range 2 {
			m.Remember()
			m.Save()
			if !pause.For(m.ctx, every) {
				return
			}
		}
		if len(m.arrived) > 0 {
			every = min(2*every, UpkeepEvery)
		} else {
			every = saveEvery
		}
	}
}

// serversAtOnce is how many servers of before are tried at a time: half of them
// those that were of most use, the others in turn.
const serversAtOnce = 8

// othersAtOnce is how many members that were no servers are tried with them. A
// whole office may look at the same time.
const othersAtOnce = 2

// tryServers dials servers that this peer was connected to once and is not now,
// in the background. Two parts of an overlay that have come up apart, each with
// a database of its own, find each other so. So do two parts that are left when
// the only server is gone through which they were connected: with the second
// round that finds no server connected, any member that is known is tried, a few
// at a time.
func (m *Mesh) tryServers() {
	if !m.tryingServers.CompareAndSwap(false, true) {
		return
	}
	turn := m.serverTurn
	m.serverTurn++
	list := takeTurns(m.lacking(m.known.Servers()), serversAtOnce, turn)
	if servers(m.Members()) > 0 {
		m.serverless = 0
	} else if m.serverless++; m.serverless > 1 {
		others := m.known.which(func(p KnownMember) bool {
			_, in := m.Member(p2p.ID(p.Peer))
			return !in && !(p.Server && p.By.IsZero())
		})
		for i := range min(len(others), othersAtOnce) {
			list = append(list, others[(turn*othersAtOnce+i)%len(others)])
		}
	}
	m.Go(func() {
		defer m.tryingServers.Store(false)
		m.dialServers(m.ctx, list)
	})
}

// takeTurns returns at most n of a list: the first half always, and of the others
// as many as fit, from one turn to the next other ones.
func takeTurns(list []peer.AddrInfo, n, turn int) []peer.AddrInfo {
	if len(list) <= n {
		return list
	}
	out := append([]peer.AddrInfo{}, list[:n/2]...)
	rest := list[n/2:]
	for i := range n - n/2 {
		out = append(out, rest[(turn*(n-n/2)+i)%len(rest)])
	}
	return out
}

// Online says whether there is anybody to talk to, and tries the ways back
// if not. It is true as well where nobody is known.
func (m *Mesh) Online() bool {
	if len(m.Members()) > 0 {
		return true
	}
	known := m.WaysBack()
	if len(known) == 0 {
		return true // nobody to wait for
	}
	err := m.Round(m.ctx, m.tries.round(known))
	if err != nil {
		m.cfg.Log.Debug("no member reached", "err", err)
		m.SayAlone(false)
	}
	return err == nil
}

// Back says whether a member is connected, and tries all ways back once, also those
// that have just failed, if not.
func (m *Mesh) Back(ctx context.Context) bool {
	if len(m.Members()) > 0 {
		return true
	}
	known := m.WaysBack()
	m.ClearBackoff(known)
	return len(known) > 0 && m.Round(ctx, known) == nil
}
