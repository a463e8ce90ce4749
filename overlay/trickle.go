package overlay

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/wire"
)

// Late candidates (DESIGN §14.9, RFC 8838): an offer waits for nothing, so a
// mapped address, a port of the router or an address of a TURN server may
// become known while the checks run. It is sent after the offer or answer, the
// way that they went, in place of an offer:
//
//	tag 1 (0xC0) | session ID 16 | nonce 12 | AES-256-GCM: { candidate }
//
// The key comes from both ICE passwords, which only the two ends know: they
// were sealed in offer and answer. Tag and session ID are authenticated too. A
// message that is repeated names what is known already.
const (
	trickleTag   = 0xC0
	trickleHead  = 1 + 16
	trickleNonce = 12
	trickleTries = 5
	trickleAgain = 100 * time.Millisecond // the answer may not be there yet
)

// checking is what an establishment's late candidates need, from the moment
// that both sides are known. The connects' mu guards its maps.
type checking struct {
	agent   *iceAgent
	turn    *turnSession
	session *pipe.Session
	remote  pipe.Remote
	via     peer.ID // carried offer and answer; the peer itself if it is connected
	told    []wire.Candidate
	taken   int // late ones of the peer
	mine    cipher.AEAD
	theirs  cipher.AEAD
}

// trickleKeys are the keys of the two directions: what the initiator sends and
// what the responder sends.
func trickleKeys(initiator, responder string, session [16]byte) (from, back cipher.AEAD) {
	aead := func(info string) cipher.AEAD {
		key, err := hkdf.Key(sha256.New, []byte(initiator+"\x00"+responder), session[:], "idloc late candidates, "+info, 32)
		if err != nil {
			panic("overlay: " + err.Error()) // 32 bytes are always to be had
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			panic("overlay: " + err.Error()) // a key of 32 bytes
		}
		g, err := cipher.NewGCM(block)
		if err != nil {
			panic("overlay: " + err.Error()) // a block of 16 bytes
		}
		return g
	}
	return aead("initiator"), aead("responder")
}

// sealCandidates makes the message.
func sealCandidates(key cipher.AEAD, session [16]byte, list []wire.Candidate) []byte {
	msg := append([]byte{trickleTag}, session[:]...)
	nonce := make([]byte, trickleNonce)
	rand.Read(nonce)
	var plain []byte
	for _, c := range list {
		plain = c.Append(plain)
	}
	return key.Seal(append(msg, nonce...), nonce, plain, msg)
}

// openCandidates reads the message, whose session was looked up.
func openCandidates(key cipher.AEAD, msg []byte) (list []wire.Candidate, err error) {
	if len(msg) < trickleHead+trickleNonce {
		return nil, errNotOurs
	}
	head, nonce, sealed := msg[:trickleHead], msg[trickleHead:trickleHead+trickleNonce], msg[trickleHead+trickleNonce:]
	plain, err := key.Open(nil, nonce, sealed, head)
	if err != nil {
		return nil, errNotOurs
	}
	for len(plain) > 0 && len(list) < wire.MaxCandidates {
		var c wire.Candidate
		if c, plain, err = wire.ParseCandidate(plain); err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	return list, nil
}

// attach begins trickling for an establishment, with what has become known
// since its offer or answer.
func (c *connects) attach(e *establishment, a *iceAgent, s *pipe.Session, via peerid.ID) {
	remote := s.Remote()
	k := &checking{agent: a, turn: a.turn, session: s, remote: remote, via: toLibp2p(e.peer), told: a.candidates}
	if !via.IsZero() {
		k.via = toLibp2p(via)
	}
	id := s.ID()
	if e.initiator {
		k.mine, k.theirs = trickleKeys(a.pwd, remote.Pwd, id)
	} else {
		k.theirs, k.mine = trickleKeys(remote.Pwd, a.pwd, id)
	}
	c.mu.Lock()
	e.session, e.checking = id, k
	c.mu.Unlock()
	c.trickle()
}

// trickle sends what each establishment's peer was not told yet.
func (c *connects) trickle() {
	lent := c.o.turn.links()
	all := localCandidates(c.o.cfg.Socket.Conns(), c.o.outer, lent)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	for _, e := range c.byPeer {
		k := e.checking
		if k == nil {
			continue
		}
		fresh := e.shown(c.hides(e), slices.DeleteFunc(slices.Clone(all), func(n wire.Candidate) bool {
			return slices.ContainsFunc(k.told, func(o wire.Candidate) bool { return o.Addr == n.Addr })
		}))
		if len(fresh) == 0 {
			continue
		}
		k.told = append(slices.Clone(k.told), fresh...)
		if e.turn && k.turn != nil {
			k.turn.add(pairsThrough(lent, nil, c.o.filter.keep(k.remote.Candidates)))
		}
		c.wg.Go(func() { c.sendCandidates(e, k, fresh) })
	}
}

// shown leaves of candidates what an establishment names.
func (e *establishment) shown(hides bool, cs []wire.Candidate) []wire.Candidate {
	direct, lent := splitRelayed(cs)
	var out []wire.Candidate
	if e.turn {
		out = append(out, lent...)
	}
	if !hides {
		out = append(out, direct...)
	}
	return out[:min(len(out), wire.MaxCandidates)]
}

// sendCandidates tells the peer, again while it does not know the session.
func (c *connects) sendCandidates(e *establishment, k *checking, fresh []wire.Candidate) {
	for range trickleTries {
		q := offerRequest{ttl: offerTTL, target: e.peer, from: c.o.self, offer: sealCandidates(k.mine, k.session.ID(), fresh)}
		rand.Read(q.transaction[:])
		ctx, cancel := context.WithTimeout(c.ctx, offerTimeout)
		a, err := c.o.router.ask(ctx, k.via, q)
		cancel()
		if err == nil && a.status == offerAnswered {
			c.o.log.Debug("late candidates told", "peer", e.peer, "candidates", describe(fresh))
			return
		}
		if !pause(c.ctx, trickleAgain) {
			return
		}
		select {
		case <-e.done:
			return
		default:
		}
	}
}

var errNotOurs = errors.New("late candidates of no session here")

// trickled takes late candidates.
func (c *connects) trickled(from peerid.ID, msg []byte) error {
	if len(msg) < trickleHead {
		return errNotOurs
	}
	c.mu.Lock()
	e := c.byPeer[from]
	if e == nil || e.checking == nil || e.session != [16]byte(msg[1:]) {
		c.mu.Unlock()
		return errNotOurs
	}
	k := e.checking
	c.mu.Unlock()
	list, err := openCandidates(k.theirs, msg)
	if err != nil {
		return err
	}
	list = c.o.filter.keep(list)
	c.mu.Lock()
	list = list[:min(len(list), wire.MaxCandidates-k.taken)]
	k.taken += len(list)
	c.mu.Unlock()
	direct, lent := splitRelayed(list)
	for _, l := range lent {
		k.session.Lends(l.Addr)
	}
	if e.turn && k.turn != nil {
		k.turn.add(pairsThrough(c.o.turn.links(), c.o.cfg.Socket.Conns(), list))
	}
	if !c.hides(e) {
		k.agent.addLate(direct)
	}
	c.o.log.Debug("late candidates", "peer", from, "candidates", describe(list))
	return nil
}

// addLate gives the agent more candidates of the peer.
func (a *iceAgent) addLate(candidates []wire.Candidate) {
	for _, c := range candidates {
		if rc, err := remoteCandidate(c); err == nil {
			_ = a.agent.AddRemoteCandidate(rc) // closed: too late
		}
	}
}
