package pipe

import (
	"bytes"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/wire"
)

// Session is what a handshake gave: keys with an authenticated peer, and what
// that peer said. Endpoint.Up puts it to use. It may be used concurrently.
type Session struct {
	e         *Endpoint
	peer      peerid.ID
	initiator bool
	id        [16]byte
	aead      wire.AEADs
	remote    Remote
	created   int64    // when its offer was made or read
	kp        *keypair // of the handshake, until installed: then the pipe has it; guarded by e.mu

	repairs atomic.Bool // the peer has said that it acknowledges what wants it
	told    bool        // and what else it can; the pipe's mu
	can     uint8

	lent atomic.Pointer[[]netip.AddrPort] // addresses of TURN servers that the peer told late

	pipe      *Pipe // nil until installed; guarded by e.mu
	confirmed int64 // when the peer was first heard under it; the pipe's mu
}

// Peer is the authenticated other side.
func (s *Session) Peer() peerid.ID { return s.peer }

// Initiator says whether this side made the offer.
func (s *Session) Initiator() bool { return s.initiator }

// Remote is what the peer said of itself.
func (s *Session) Remote() Remote { return s.remote }

// ID is the session ID, chosen by the initiator.
func (s *Session) ID() [16]byte { return s.id }

// In says whether p is the pipe that s was installed in.
func (s *Session) In(p *Pipe) bool {
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	return s.pipe == p
}

// Cancel lets go of a session that is not Up. After Up it does nothing.
func (s *Session) Cancel() {
	s.e.mu.Lock()
	_, pending := s.e.sessions[s]
	delete(s.e.sessions, s)
	s.e.mu.Unlock()
	if pending {
		s.release()
		s.e.giveUp(s)
	}
}

// release ends the keys of a session that was taken off Endpoint.sessions and
// is not installed.
func (s *Session) release() {
	s.kp.wipe()
	s.e.table.remove(s.kp)
}

// payload is l as wire says it, without what the handshake adds.
func (l *Local) payload(kind wire.Kind) *wire.Payload {
	mtu := l.MTU
	if mtu == 0 {
		mtu = defaultMTU
	}
	return &wire.Payload{
		Kind:          kind,
		MTU:           mtu,
		Encapsulation: l.Encapsulation,
		Flow:          l.Flow,
		Ufrag:         l.Ufrag,
		Pwd:           l.Pwd,
		Relays:        l.Relays,
		Candidates:    l.Candidates,
		Chain:         l.Chain,
	}
}

// remoteOf copies out of p what the user of a session may see.
func remoteOf(p *wire.Payload) Remote {
	return Remote{
		Chain:         bytes.Clone(p.Chain),
		Ufrag:         p.Ufrag,
		Pwd:           p.Pwd,
		Candidates:    slices.Clone(p.Candidates),
		MTU:           max(p.MTU, wire.BaseMTU),
		Relays:        slices.Clone(p.Relays),
		Encapsulation: p.Encapsulation,
		Flow:          p.Flow,
		Start:         p.Start,
	}
}
