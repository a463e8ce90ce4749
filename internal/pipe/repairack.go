package pipe

import (
	"encoding/binary"
	"time"

	"github.com/idloc/idloc/internal/pipe/repair"
	"github.com/idloc/idloc/internal/wire"
)

// ackHeld is when an acknowledgement is looked for again that a run was in the way of.
const ackHeld = int64(time.Millisecond)

// acknowledged takes an ACK frame that came under kp from at, in a datagram of n bytes.
// It is false if there is more to be done with that than this.
func (p *Pipe) acknowledged(kp *keypair, at Path, plain []byte, n int, now int64) bool {
	t, x := p.find(at.Local, at.Remote), p.repair.sender.Load()
	if t == nil || x == nil || !kp.confirmed.Load() {
		return false
	}
	f, rest, err := wire.ParseFrame(plain)
	if err != nil || len(rest) > 0 {
		return false
	}
	p.life.heard.Store(now)
	p.life.awaiting.Store(0)
	p.credit(kp, t, n, now)
	ack := ackPool.Get().(*repair.Ack)
	defer ackPool.Put(ack)
	x.mu.Lock()
	ok := ack.Parse(f.Message)
	var key *keypair
	switch {
	case !ok || x.closed:
	case x.key != nil && x.key.sendIndex == ack.Index:
		key = x.key
	case x.old != nil && x.old.sendIndex == ack.Index:
		key = x.old
	}
	if key != nil {
		if more := int32(ack.Marked - key.said); ack.Marks && more > 0 {
			key.said = ack.Marked
			x.s.Marked(int(more))
		}
		err = x.s.Acked(ack, key.next.Load(), time.Duration(now))
	}
	x.mu.Unlock()
	switch {
	case !ok:
		p.drops.count(DropMalformed)
	case err != nil:
		p.drops.count(DropAck)
		p.distrust(x)
	default:
		p.sendKept(x)
	}
	return true
}

// distrust ends it with a peer that lies.
func (p *Pipe) distrust(x *sending) {
	p.e.log.Warn("a peer acknowledges what was not sent", "peer", p.peer)
	p.mu.Lock()
	p.repair.refused = true // before anything else: repairDue must not begin anew
	p.repair.mode.Store(uint32(repairOff))
	p.unlock()
	x.mu.Lock()
	x.closed = true
	if !x.sending {
		x.s.Close()
	}
	x.mu.Unlock()
}

// ackLater has the pacer come for what came under kp.
func (p *Pipe) ackLater(kp *keypair, at int64) {
	a := p.repair.acking.Load()
	if a == nil {
		p.repair.acking.CompareAndSwap(nil, &acking{timed: timed{fire: p.acksDue}})
		a = p.repair.acking.Load()
	}
	if was := a.keys[0].Load(); was != kp {
		a.keys[1].Store(was)
		a.keys[0].Store(kp)
	}
	p.e.pacer.pace(p.e, &a.timed, at)
}

// acksDue is the pacer's.
func (p *Pipe) acksDue(now int64) int64 {
	a := p.repair.acking.Load()
	if a == nil {
		return 0
	}
	for i := range a.keys {
		if kp := a.keys[i].Load(); kp != nil && kp.acks.Load() {
			p.acknowledge(kp, now, false)
		}
	}
	return 0
}

// acknowledge says what has come under kp if it is time, or has the pacer come for it.
// came says that something has just come. Not while a run is being opened, which is
// noted back to front: whoever opens the last one comes here when it is done.
func (p *Pipe) acknowledge(kp *keypair, now int64, came bool) {
	rtt := time.Duration(p.paths.rtt.Load())
	kp.rmu.Lock()
	if p.traffic.running.Load() > 0 {
		kp.rmu.Unlock()
		p.ackLater(kp, now+ackHeld)
		return
	}
	send, at := kp.came.Due(time.Duration(now), rtt, came)
	if !send {
		kp.rmu.Unlock()
		if at > 0 {
			p.ackLater(kp, int64(at))
		}
		return
	}
	key, to := p.keys.send.Load(), p.paths.best.Load()
	if key == nil || to == nil {
		kp.rmu.Unlock()
		return
	}
	b := newBatch(p, wire.TypeCtrl)
	b.kp, b.to = key, to
	n, marks := kp.came.Len(), p.repair.marks.Load()
	if marks {
		n += repair.MarkedLen
	}
	r := b.Room(3 + n)
	r = kp.came.Append(append(r[:0], byte(wire.FrameAck), byte(n>>8), byte(n)), kp.recvIndex, time.Duration(now))
	if marks {
		binary.BigEndian.AppendUint32(r, kp.marked.Load())
	}
	kp.acks.Store(false)
	kp.rmu.Unlock()
	b.Seal()
	_ = b.Flush()
	b.Free()
}
