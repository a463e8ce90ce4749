package pipe

import (
	"crypto/rand"
	"errors"
	"fmt"
	"sync"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe/handshake"
	"github.com/idloc/idloc/internal/wire"
)

// Offer is the initiator's side of a handshake under way. It may be used
// concurrently.
type Offer struct {
	e       *Endpoint
	peer    peerid.ID
	session [16]byte
	stamp   uint64
	created int64
	bytes   []byte

	mu sync.Mutex          // guards what follows
	x  *handshake.Exchange // nil when finished or cancelled
	kp *keypair            // nil when the session has it
}

// NewOffer makes an offer to remote and reserves a receiver index, until
// Finish succeeds or Cancel is called.
func (e *Endpoint) NewOffer(remote peerid.ID, local Local) (*Offer, error) {
	if remote == e.id.ID {
		return nil, errors.New("pipe: offer to self")
	}
	x, err := e.id.Initiate(e.cfg.Overlay, remote, nil, e.ent)
	if err != nil {
		return nil, err
	}
	o := &Offer{e: e, peer: remote, created: e.now(), x: x, kp: &keypair{}}
	rand.Read(o.session[:])
	e.mu.Lock()
	closed := e.closed
	if !closed {
		o.stamp = e.nextTimestamp()
		e.offers[o] = struct{}{}
	}
	e.mu.Unlock()
	if closed {
		return nil, ErrClosed
	}
	if err := o.write(local); err != nil {
		o.Cancel()
		return nil, err
	}
	return o, nil
}

func (o *Offer) write(local Local) error {
	e := o.e
	if err := e.table.reserve(o.kp); err != nil {
		return err
	}
	ek, err := o.x.KEMKey()
	if err != nil {
		return err
	}
	p := local.payload(wire.Offer)
	p.Session = o.session
	p.Timestamp = o.stamp
	p.Start = e.start
	p.Index = o.kp.recvIndex
	p.AEADs = e.aeads
	p.KEM = ek
	if err := p.Check(); err != nil {
		return err
	}
	o.bytes, err = o.x.WriteFirst(handshake.AppendOfferHeader(nil, e.id.ID), p.Append(nil))
	if err != nil {
		return err
	}
	if len(o.bytes) > handshake.MaxMessage {
		return fmt.Errorf("pipe: offer of %d bytes, more than %d", len(o.bytes), handshake.MaxMessage)
	}
	return nil
}

// Bytes is the offer, at most 4096 bytes; it must not be changed. Sending it
// again is harmless: the responder gives the same answer.
func (o *Offer) Bytes() []byte { return o.bytes }

// Finish reads the answer. After an error the offer still stands: another
// answer may be the real one. After a *RefusedError it does not: the peer
// itself has said so.
func (o *Offer) Finish(answer []byte) (*Session, error) {
	msg, err := handshake.ParseAnswer(answer)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.x == nil {
		return nil, ErrSession
	}
	e := o.e
	var p *wire.Payload
	keys, err := o.x.ReadSecond(msg, func(b []byte) ([]byte, wire.AEADs, error) {
		if r, ok := wire.ParseRefusal(b); ok {
			return nil, 0, &RefusedError{r}
		}
		p, err = wire.ParsePayload(b)
		switch {
		case err != nil:
			return nil, 0, err
		case p.Kind != wire.Answer || p.Session != o.session || p.Timestamp != o.stamp:
			return nil, 0, errors.New("answers another offer")
		case p.AEADs&e.aeads == 0:
			return nil, 0, ErrNoAEAD
		}
		return p.KEM, p.AEADs, nil
	})
	if err != nil {
		return nil, err
	}
	o.x = nil
	s := &Session{
		e: e, peer: o.peer, initiator: true, id: o.session, aead: p.AEADs,
		remote: remoteOf(p), created: o.created, kp: o.kp,
	}
	o.kp.sess = s
	o.kp.created = o.created
	o.kp.sendIndex = p.Index
	if err := o.kp.setKeys(&keys, p.AEADs, true); err != nil {
		return nil, err
	}
	o.kp = nil
	e.mu.Lock()
	delete(e.offers, o)
	closed := e.closed
	if !closed {
		e.addSession(s)
	}
	e.mu.Unlock()
	if closed {
		s.release()
		return nil, ErrClosed
	}
	return s, nil
}

// Cancel gives the offer up: the index is freed, the keys are wiped. It is
// idempotent and does nothing after Finish succeeded.
func (o *Offer) Cancel() {
	o.e.mu.Lock()
	delete(o.e.offers, o)
	o.e.mu.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.x == nil {
		return
	}
	o.x.Wipe()
	o.x = nil
	o.kp.wipe()
	o.e.table.remove(o.kp)
}
