package establish

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"slices"

	"github.com/idloc/idloc/internal/pause"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/ice"
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
	lateTag   = 0xC0
	lateHead  = 1 + 16
	lateNonce = 12
)

// late is an establishment's part in late candidates.
type late struct {
	via    peerid.ID // carried offer and answer; the peer itself if nobody did
	told   []wire.Candidate
	taken  int              // of the peer
	learnt []wire.Candidate // of them, those of the peer itself
	mine   cipher.AEAD
	theirs cipher.AEAD
}

// lateKeys are the keys of the two directions: what the initiator sends and what
// the responder sends.
func lateKeys(initiator, responder string, session [16]byte) (from, back cipher.AEAD) {
	aead := func(info string) cipher.AEAD {
		key, err := hkdf.Key(sha256.New, []byte(initiator+"\x00"+responder), session[:], "idloc late candidates, "+info, 32)
		if err != nil {
			panic("establish: " + err.Error()) // 32 bytes are always to be had
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			panic("establish: " + err.Error()) // a key of 32 bytes
		}
		g, err := cipher.NewGCM(block)
		if err != nil {
			panic("establish: " + err.Error()) // a block of 16 bytes
		}
		return g
	}
	return aead("initiator"), aead("responder")
}

// sealCandidates makes the message.
func sealCandidates(key cipher.AEAD, session [16]byte, list []wire.Candidate) []byte {
	msg := append([]byte{lateTag}, session[:]...)
	nonce := make([]byte, lateNonce)
	rand.Read(nonce) // never fails, crypto/rand
	var plain []byte
	for _, c := range list {
		plain = c.Append(plain)
	}
	return key.Seal(append(msg, nonce...), nonce, plain, msg)
}

// openCandidates reads the message, whose session was looked up.
func openCandidates(key cipher.AEAD, msg []byte) (list []wire.Candidate, err error) {
	if len(msg) < lateHead+lateNonce {
		return nil, errNotMine
	}
	head, nonce, sealed := msg[:lateHead], msg[lateHead:lateHead+lateNonce], msg[lateHead+lateNonce:]
	plain, err := key.Open(nil, nonce, sealed, head)
	if err != nil {
		return nil, errNotMine
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

// beginLate begins with late candidates: those that have become known since the
// offer or answer are told.
func (e *establishment) beginLate() {
	l, s := &e.late, &e.search
	if l.via = e.via; l.via.IsZero() {
		l.via = e.peer
	}
	l.told = e.agent.Candidates()
	if _, pwd := e.agent.Credentials(); e.initiator {
		l.mine, l.theirs = lateKeys(pwd, s.remote.Pwd, s.session.ID())
	} else {
		l.theirs, l.mine = lateKeys(s.remote.Pwd, pwd, s.session.ID())
	}
	e.tellLate()
}

// looking says whether a path is looked for, be it beside a pipe that is up.
func (e *establishment) looking() bool {
	return e.state == checking || e.state == confirming || e.state == searching
}

// tellLate tells the peer what it was not told yet.
func (e *establishment) tellLate() {
	l, s := &e.late, &e.search
	if !e.looking() {
		return
	}
	fresh := e.shown(slices.DeleteFunc(e.c.cfg.Candidates(), func(n wire.Candidate) bool {
		return slices.ContainsFunc(l.told, func(o wire.Candidate) bool { return o.Addr == n.Addr })
	}))
	if len(fresh) == 0 {
		return
	}
	l.told = append(slices.Clone(l.told), fresh...)
	if e.turn && e.turns != nil {
		e.turns.AddLocal(e.c.cfg.Usable(s.remote.Candidates))
	}
	session := s.session.ID()
	e.children.Go(func() {
		for range tellTries {
			if e.c.cfg.Offers.Tell(e.c.ctx, e.peer, l.via, sealCandidates(l.mine, session, fresh)) == nil {
				e.c.log.Debug("late candidates told", "peer", e.peer, "candidates", ice.Describe(fresh))
				return
			}
			// The peer may not know the session yet.
			if !pause.For(e.c.ctx, table[tellAgain].after) {
				return
			}
			select {
			case <-e.done:
				return
			default:
			}
		}
	})
}

// shown leaves of candidates what an establishment names.
func (e *establishment) shown(cs []wire.Candidate) []wire.Candidate {
	direct, lent := ice.SplitRelayed(cs)
	var out []wire.Candidate
	if e.turn {
		out = append(out, lent...)
	}
	if !e.hides() {
		out = append(out, direct...)
	}
	return out[:min(len(out), wire.MaxCandidates)]
}

// takeLate takes late candidates from the network.
func (c *Establisher) takeLate(from peerid.ID, msg []byte) error {
	if len(msg) < lateHead {
		return errNotMine
	}
	c.mu.Lock()
	of := []*establishment{c.byPeer[from], c.searching[from]}
	c.mu.Unlock()
	for _, e := range of {
		in := lateCandidates{msg, make(chan error, 1)}
		if e == nil || !e.post(in) {
			continue
		}
		if err := <-in.taken; !errors.Is(err, errNotMine) {
			return err
		}
	}
	return errNotMine
}

// lateCandidates is a message with them.
type lateCandidates struct {
	msg   []byte
	taken chan error // capacity 1
}

func (in lateCandidates) apply(e *establishment) { in.taken <- e.openLate(in.msg) }

func (e *establishment) openLate(msg []byte) error {
	l, s := &e.late, &e.search
	if !e.looking() || s.session.ID() != [16]byte(msg[1:]) {
		return errNotMine
	}
	list, err := openCandidates(l.theirs, msg)
	if err != nil {
		return err
	}
	list = e.c.cfg.Usable(list)
	list = list[:min(len(list), wire.MaxCandidates-l.taken)]
	l.taken += len(list)
	direct, lent := ice.SplitRelayed(list)
	for _, c := range lent {
		s.session.Lends(c.Addr)
	}
	if e.turn && e.turns != nil {
		e.turns.AddRemote(list)
	}
	l.learnt = append(l.learnt, direct...)
	if e.agent != nil && !e.hides() {
		e.agent.AddRemote(direct)
	}
	e.c.log.Debug("late candidates", "peer", e.peer, "candidates", ice.Describe(list))
	return nil
}
