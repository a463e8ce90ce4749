package pipe

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"time"

	"github.com/idloc/idloc/internal/wire"
)

// maxReplies bounds what one CTRL plaintext draws. Peers put one frame into
// each; the bound is for those that would have hundreds answered.
const maxReplies = 16

// outgoing is a CTRL plaintext that waits for mu to be released.
type outgoing struct {
	kp    *keypair
	to    *path
	plain []byte
	pad   int // size of the datagram if it is an MTU probe, else 0

	sealed []byte // instead of all but to: a datagram to send as it is
}

// queue has frame sent to one path when mu is released. The caller holds mu.
func (p *Pipe) queue(kp *keypair, to *path, frame wire.Frame) {
	if kp == nil || to == nil || kp.dead() {
		return
	}
	o := outgoing{kp: kp, to: to, plain: frame.Append(nil)}
	if frame.Type == wire.FrameMTUProbe {
		o.pad = int(frame.Size)
	}
	p.outbox.datagrams = append(p.outbox.datagrams, o)
}

// write sends o. The caller does not hold mu.
func (p *Pipe) write(o *outgoing) {
	const around = wire.HeaderLen + wire.TagLen
	if o.sealed != nil {
		if o.to.Local.WriteBatch(o.sealed, len(o.sealed), o.to.Remote) == nil {
			p.traffic.packetsOut.Add(1)
			p.traffic.bytesOut.Add(uint64(len(o.sealed)))
		}
		return
	}
	if o.pad == 0 && len(o.plain)+around > int(o.to.mtu.Load()) {
		// Losses are made good by what waits for the answer.
		_ = p.sendPieces(o.kp, o.to, wire.FragCtrl, o.plain, 0)
		return
	}
	b := newBatch(p, wire.TypeCtrl)
	defer b.Free()
	b.kp, b.to = o.kp, o.to
	room := b.Room(max(len(o.plain), o.pad-around))
	if room == nil {
		return
	}
	clear(room[copy(room, o.plain):])
	b.Seal()
	err := b.Flush()
	if o.pad > 0 && errors.Is(err, syscall.EMSGSIZE) {
		p.mu.Lock()
		o.to.search.refused(o.pad, p.e.now())
		p.mu.Unlock()
		p.e.timers.plan(&p.timed, p.e.now())
	}
}

// sealing returns keys for CTRL: those that seal data, or else the newest
// that may be used. The caller holds mu.
func (p *Pipe) sealing() *keypair {
	if p.keys.cur != nil && p.keys.cur.usable() {
		return p.keys.cur
	}
	for i := len(p.keys.all) - 1; i >= 0; i-- {
		if p.keys.all[i].usable() {
			return p.keys.all[i]
		}
	}
	return nil
}

// control acts on an authenticated CTRL plaintext that came under kp from t;
// t is nil if the address is not worth a path. size is the datagram's, zero
// if it came in pieces; newest says that no packet with a higher counter came
// before. The caller holds mu.
func (p *Pipe) control(kp *keypair, t *path, plain []byte, size int, newest bool, now int64) {
	before := len(p.outbox.datagrams)
	for len(plain) > 0 && p.state != stateClosed && len(p.outbox.datagrams)-before < maxReplies {
		f, rest, err := wire.ParseFrame(plain)
		if err != nil {
			p.drops.count(DropMalformed)
			return
		}
		plain = rest
		reply := f
		switch f.Type {
		case wire.FramePing:
			reply.Type = wire.FramePong
			p.queue(kp, t, reply)
			if best := p.paths.best.Load(); t != nil && t.stranger && best != t {
				// Whoever has brought the question here must not be the only one
				// to carry the answer.
				p.queue(kp, best, reply)
			}
		case wire.FramePong:
			p.pong(t, f.ID, now)
		case wire.FramePathChallenge:
			reply.Type = wire.FramePathResponse
			p.queue(kp, t, reply)
		case wire.FramePathResponse:
			p.answeredChallenge(t, f.ID, now)
		case wire.FrameMTUProbe:
			if size >= int(f.Size) {
				reply.Type = wire.FrameMTUAck
				p.queue(kp, t, reply)
			}
		case wire.FrameMTUAck:
			p.probeAcked(f.ID, now)
		case wire.FrameConfirm:
			if f.Flag == 0 {
				reply.Flag = 1
				p.queue(kp, t, reply)
			}
		case wire.FrameRepair:
			p.repairTold(kp, t, f, now)
		case wire.FrameRekeyOffer:
			p.rekeyOffered(kp, t, f, newest, now)
		case wire.FrameRekeyAnswer:
			p.rekeyAnswered(kp, f, now)
		case wire.FrameRelayBind:
			if len(p.outbox.asked) < maxReplies {
				p.outbox.asked = append(p.outbox.asked, f)
			}
		case wire.FrameRelayChannel:
			p.channelGiven(f, now)
		case wire.FrameClose:
			if f.Flag >= closeEnded {
				p.queue(kp, t, wire.Frame{Type: wire.FrameClosed})
			}
			p.closedByPeer(kp, t, f.Flag)
		}
	}
}

// closedByPeer ends the pipe, unless a newer session has taken over or is
// about to: then only the session that was closed ends. The end of the peer's process is
// that of all its sessions: this side may have the keys of a newer one alone.
func (p *Pipe) closedByPeer(kp *keypair, t *path, reason uint8) {
	over := func(s *Session) bool {
		return reason >= closeEnded && reason != closeExpelled && s.remote.Start == kp.sess.remote.Start
	}
	if s := p.keys.sess; s != nil && kp.sess != s && !p.crossed(kp.sess, s) && !over(s) {
		p.removeKeys(kp)
		return
	}
	err := reasonError(reason)
	later := func(k *keypair) bool {
		return k.sess.created > kp.sess.created && !p.crossed(k.sess, kp.sess) && !over(k.sess)
	}
	if !slices.ContainsFunc(p.keys.all, later) {
		if reason >= closeEnded {
			p.gone(err)
			if t != nil {
				p.outbox.farewell = &farewell{keys: []endKeys{{kp, kp.keys.Load()}}, at: t.Path, frame: wire.Frame{Type: wire.FrameClosed}}
			}
		}
		p.setState(stateClosed, err)
		return
	}
	for _, k := range slices.Clone(p.keys.all) {
		if !later(k) {
			p.removeKeys(k)
		}
	}
	if p.state == stateUp {
		p.setState(stateSilent, err)
	}
	if k := p.sealing(); k != nil {
		p.promote(k)
	}
}

// reasonError is why a pipe is closed that the peer has closed for reason.
func reasonError(reason uint8) error {
	switch reason {
	case closeOther:
		return ErrPeerClosed
	case closeIdle:
		return ErrIdle
	case closeDelivered:
		return ErrPeerDelivered
	}
	return ErrPeerEnded
}

// repeatConfirms asks the peer for a sign of life under each key of ours that
// it has not used yet, with doubling intervals. The caller holds mu.
func (p *Pipe) repeatConfirms(now int64) (next int64) {
	if p.keys.confirm.at == 0 {
		return 0
	}
	if p.keys.confirm.at > now {
		return p.keys.confirm.at
	}
	waiting := false
	for _, k := range p.keys.all {
		if k.initiator && !k.confirmed.Load() && now-k.created < rejectAfter {
			waiting = true
			p.queue(k, p.paths.best.Load(), wire.Frame{Type: wire.FrameConfirm})
			p.life.awaiting.CompareAndSwap(0, now) // probeDue comes next
		}
	}
	if !waiting {
		p.keys.confirm = retry{}
		return 0
	}
	p.keys.confirm.at = now + max(int64(initialRTT), 2*p.rtt())<<min(p.keys.confirm.tries, 4)
	p.keys.confirm.tries++
	return p.keys.confirm.at
}

// ping is one that is not answered yet.
type ping struct {
	path *path
	at   int64
	done chan<- time.Duration // nil: nobody waits
}

const maxPings = 64

// sendPing measures t. The caller holds mu.
func (p *Pipe) sendPing(t *path, now int64, done chan<- time.Duration) {
	kp := p.sealing()
	if kp == nil || t == nil {
		return
	}
	if len(p.paths.pings) >= maxPings {
		clear(p.paths.pings)
	}
	if p.paths.pings == nil {
		p.paths.pings = make(map[uint64]*ping)
	}
	id := randomUint64()
	p.paths.pings[id] = &ping{t, now, done}
	t.pinged = now
	p.queue(kp, t, wire.Frame{Type: wire.FramePing, ID: id})
}

// pong takes the answer to a ping. Only one that came where the ping went says
// how long that path takes. The caller holds mu.
func (p *Pipe) pong(from *path, id uint64, now int64) {
	g := p.paths.pings[id]
	if g == nil {
		return
	}
	if delete(p.paths.pings, id); len(p.paths.pings) == 0 {
		p.paths.pings = nil
	}
	rtt := time.Duration(now - g.at)
	if g.path == from {
		g.path.sample(rtt)
		p.repairSoon(now)
	}
	if g.done != nil {
		select {
		case g.done <- rtt:
		default:
		}
	}
}

// Ping measures the round trip on the present path. It asks again every half
// second until an answer comes, ctx ends, or the pipe is no longer up: a peer
// that is gone is ErrDead after about a second.
func (p *Pipe) Ping(ctx context.Context) (rtt time.Duration, at Path, err error) {
	done := make(chan time.Duration, 1)
	again := time.NewTicker(500 * time.Millisecond)
	defer again.Stop()
	for {
		p.mu.Lock()
		t := p.paths.best.Load()
		if p.state != stateUp || t == nil {
			err := p.err
			if err == nil {
				err = ErrNotUp
			}
			p.unlock()
			return 0, Path{}, err
		}
		now := p.e.now()
		p.sendPing(t, now, done)
		p.unlock()
		p.awaitLife(now)
		select {
		case rtt := <-done:
			return rtt, t.Path, nil
		case <-ctx.Done():
			return 0, t.Path, ctx.Err()
		case <-p.closed:
			return 0, t.Path, p.Err()
		case <-again.C:
		}
	}
}
