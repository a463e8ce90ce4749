package mesh

import (
	"context"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/quic-go/quic-go"

	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/overlay/p2p"
)

// A NAT that forgets, or a host that wakes up elsewhere with the same private
// address, leaves QUIC connections behind that nobody answers on: QUIC's
// server follows no client that changes its address without saying so, and
// its idle timeout is half a minute. An offer must not wait for that. So who is
// suspected is asked a question, and a connection on which nothing at all comes
// back is closed: not one on which the answer alone is late. How long nothing may
// come back goes by the connection's own round trips, and is counted in what this
// process has lived through: a machine that is busy blames nobody.

// suspectProbes is how many of QUIC's probe timeouts (RFC 9002 §6.2) silence must
// last: QUIC doubles the time from one probe to the next, so that three probes, of
// which one at least should come through, take seven.
const suspectProbes = 7

// suspects finds out which connections are dead, with one question at a time for
// each member. It is safe for concurrent use.
type suspects struct {
	// links returns the connections to a member, ask puts a question to it.
	links func(peer.ID) []link
	ask   func(context.Context, peer.ID) error
	// gone is told that connections to a member were closed.
	gone func(peer.ID)

	mu    sync.Mutex // guards what follows
	asked map[peer.ID]bool
	last  time.Time // due said so
}

// link is a connection as a question needs it.
type link interface {
	// received counts what has come in on it.
	received() uint64
	// probeTimeout is after how long QUIC repeats what was not acknowledged; zero
	// if it is not known.
	probeTimeout() time.Duration
	close()
}

// due says whether it is time to ask everybody for a reason that may come often.
func (s *suspects) due() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.last) < suspectPause {
		return false
	}
	s.last = time.Now()
	return true
}

// begin says whether nobody asks a member yet, and notes that it is asked; end
// that it no longer is.
func (s *suspects) begin(p peer.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked[p] {
		return false
	}
	s.asked[p] = true
	return true
}

func (s *suspects) end(p peer.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.asked, p)
}

// question asks a member whether it is there, and closes those connections to it on
// which nothing comes back.
func (s *suspects) question(ctx context.Context, p peer.ID) {
	links := s.links(p)
	if len(links) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, suspectMax)
	defer cancel()
	before := make([]uint64, len(links))
	for i, l := range links {
		before[i] = l.received()
	}
	answered := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		// Any failure but silence is an answer, or a connection that has ended by
		// itself.
		_ = s.ask(ctx, p)
		close(answered)
	})
	if !awaitSilence(ctx, links, answered) {
		return
	}
	for i, l := range links {
		if l.received() == before[i] {
			l.close()
		}
	}
	s.gone(p)
}

// awaitSilence returns true once nothing has come in on any of the connections for
// as long as it takes to believe that they are dead; false if the question was
// answered or ctx has ended.
func awaitSilence(ctx context.Context, links []link, answered <-chan struct{}) bool {
	var most time.Duration
	for _, l := range links {
		most = max(most, l.probeTimeout())
	}
	patience := max(suspectMin, suspectProbes*most)
	heard := func() (sum uint64) {
		for _, l := range links {
			sum += l.received()
		}
		return sum
	}
	tick := time.NewTicker(suspectTick)
	defer tick.Stop()
	last, silent := heard(), time.Duration(0)
	for {
		select {
		case <-answered:
			return false
		case <-ctx.Done():
			return false
		case <-tick.C: // what comes late is dropped by the ticker, and not counted
		}
		silent += suspectTick
		if now := heard(); now != last {
			last, silent = now, 0
		}
		if silent >= patience {
			return true
		}
	}
}

// quicLink is a link of libp2p's.
type quicLink struct {
	c    network.Conn
	q    *quic.Conn // nil: not known
	port *socket.Port
}

func (m *Mesh) linksTo(p peer.ID) []link {
	var out []link
	for _, c := range m.host.Network().ConnsToPeer(p) {
		l := &quicLink{c: c, port: m.cfg.Port}
		if !c.As(&l.q) {
			l.q = nil
		}
		out = append(out, l)
	}
	return out
}

func (l *quicLink) received() uint64 {
	if l.q == nil {
		return 0
	}
	return l.q.ConnectionStats().PacketsReceived
}

func (l *quicLink) probeTimeout() time.Duration {
	if l.q == nil {
		return 0
	}
	st := l.q.ConnectionStats()
	return st.SmoothedRTT + 4*st.MeanDeviation + maxAckDelay // RFC 9002 §6.2.1
}

func (l *quicLink) close() {
	at, ok := p2p.FarEnd(l.c.RemoteMultiaddr())
	if l.q == nil && ok && l.port.HeardQUIC(at, suspectMin) {
		return // something has come from there at least
	}
	_ = l.c.Close()
}

// Received counts the packets that have come in on the connections there are to a member.
func (m *Mesh) Received(p peer.ID) (sum uint64) {
	for _, l := range m.linksTo(p) {
		sum += l.received()
	}
	return sum
}

// Suspect asks a member a question, and closes the connections to it if nothing at
// all comes back on them. It returns at once.
func (m *Mesh) Suspect(p peer.ID) {
	if !m.suspects.begin(p) {
		return
	}
	m.Go(func() {
		defer m.suspects.end(p)
		m.suspects.question(m.ctx, p)
	})
}

// SuspectAll is Suspect for all members. SuspectAllNowAndThen is the same for a
// reason that may come often.
func (m *Mesh) SuspectAll() {
	for _, n := range m.Members() {
		m.Suspect(n.Peer)
	}
}

// SuspectAllNowAndThen is described at SuspectAll.
func (m *Mesh) SuspectAllNowAndThen() {
	if m.suspects.due() {
		m.SuspectAll()
	}
}

// newSuspects wires suspects to the mesh. A member answers with its list of
// members, if only an empty one.
func (m *Mesh) newSuspects() *suspects {
	return &suspects{
		links: m.linksTo, asked: map[peer.ID]bool{},
		ask: func(ctx context.Context, p peer.ID) error {
			_, err := m.Ask(ctx, p, peersProtocol, nil)
			return err
		},
		gone: func(p peer.ID) {
			m.cfg.Log.Debug("a member does not answer on its connection", "peer", p)
			if id, err := p2p.PeerID(p); err == nil {
				m.reconnect(id)
			}
			m.Wake()
		},
	}
}
