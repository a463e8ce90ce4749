package pipe

import (
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/idloc/idloc/internal/pipe/repair"
	"github.com/idloc/idloc/internal/wire"
)

// The way of a datagram in:
//
//  1. Receive gets what one read of a socket gave, cuts it into runs of one
//     type and receiver index and finds the keys: no lock, no allocation.
//  2. receiveData hands a DATA run from a known path to the Handler, which
//     opens each datagram with Open. A run under keys not yet confirmed, or
//     from an unknown address, must first show one datagram that opens:
//     garbage gets no further than that, and no path.
//  3. receiveCtrl opens CTRL and FRAG itself, receiveRelay (pathrelay.go) RELAY.
//  4. authenticated notes who was heard from where.
//
// Nothing is ever sent because of a datagram that did not open.

// traffic counts what a pipe has carried. All of it is atomic, and any goroutine
// counts.
type traffic struct {
	packetsIn  atomic.Uint64 // authenticated
	packetsOut atomic.Uint64
	bytesIn    atomic.Uint64 // of these, with header and tag
	bytesOut   atomic.Uint64

	runs, running atomic.Uint64 // of DATA, since ever and now: see receiveData
	opened        atomic.Uint64 // bytes of DATA datagrams authenticated
	copies        atomic.Uint64 // DATA datagrams that opened and had come before
	copied        atomic.Uint32 // counter of the last of these
}

// scratch is room to open a datagram into, with its nonce.
type scratch struct {
	nonce [nonceLen]byte
	buf   [1 << 16]byte
}

var scratchPool = sync.Pool{New: func() any { return new(scratch) }}

// nonces are pooled because a nonce that crosses an interface would be
// allocated anew for each packet.
var noncePool = sync.Pool{New: func() any { return new([nonceLen]byte) }}

// Receive takes what came in on from: datagrams of seg bytes back to back,
// the last perhaps shorter. b is borrowed for the call.
func (e *Endpoint) Receive(from Sender, remote netip.AddrPort, b []byte, seg int) {
	e.ReceiveMarked(from, remote, b, seg, 0)
}

// ReceiveMarked is Receive of datagrams whose IP headers had these bits of ECN (RFC
// 3168 §5).
func (e *Endpoint) ReceiveMarked(from Sender, remote netip.AddrPort, b []byte, seg int, ecn uint8) {
	if seg <= 0 || seg > len(b) {
		seg = len(b)
	}
	for len(b) > 0 {
		n := min(seg, len(b))
		h, _, ok := wire.ParseHeader(b[:n])
		if !ok {
			e.drops.count(DropMalformed)
			b = b[n:]
			continue
		}
		kp := e.table.get(h.Index)
		if kp == nil || kp.dead() {
			if !e.farewellHeard(h, b[:n]) {
				e.drops.count(DropIndex)
			}
			b = b[n:]
			continue
		}
		if h.Type != wire.TypeCtrl && h.Type != wire.TypeFrag {
			for n < len(b) && len(b)-n >= wire.MinLen && [4]byte(b[n:]) == [4]byte(b) {
				n += min(seg, len(b)-n)
			}
			if h.Type == wire.TypeRelay {
				e.receiveRelay(kp, Path{from, remote}, b[:n], seg)
			} else {
				e.receiveData(kp, Path{from, remote}, b[:n], seg, ecn == ecnCE)
			}
		} else {
			e.receiveCtrl(kp, Path{from, remote}, b[:n], h)
		}
		b = b[n:]
	}
}

// receiveData passes on a run of DATA datagrams.
//
// Which path to credit with a packet that the Handler opened is known only
// here, so the count of opened packets is compared before and after. That
// is exact only if no other goroutine passed on a run of this pipe meanwhile,
// so that nobody can lend life to a dead path by sending garbage from its
// address beside another path's packets; else this run credits no path.
func (e *Endpoint) receiveData(kp *keypair, at Path, run []byte, seg int, marked bool) {
	p := kp.pipe.Load()
	var t *path
	if p != nil {
		t = p.find(at.Local, at.Remote)
	}
	vouched := 0
	if t == nil || !kp.confirmed.Load() {
		if p, t, vouched = e.vouch(kp, at, run, seg); p == nil {
			return
		}
	}
	mine := p.traffic.runs.Add(1)
	alone := p.traffic.running.Add(1) == 1
	before, copies := p.traffic.opened.Load(), p.traffic.copies.Load()
	p.e.cfg.Handler.Data(p, run, seg)
	opened := int(p.traffic.opened.Load() - before)
	alone = p.traffic.running.Add(^uint64(0)) == 0 && alone && p.traffic.runs.Load() == mine
	if opened == 0 {
		if kp.failed.Load() >= e.limits.integrity {
			p.broken(kp)
		}
		if alone && p.traffic.copies.Load() != copies {
			p.lateCopy(kp, at, p.traffic.copied.Load())
		}
		return
	}
	if marked {
		kp.marked.Add(uint32((opened + seg - 1) / seg))
	}
	now := e.now()
	p.life.data.Store(now)
	p.life.heard.Store(now)
	p.life.awaiting.Store(0)
	if due := p.timed.due.Load(); due == 0 || due > now+flowStopped {
		p.e.timers.plan(&p.timed, now+flowStopped) // flowDue
	}
	if kp.acks.Load() {
		p.acknowledge(kp, now, true)
	}
	if t == nil || !alone {
		return
	}
	p.credit(kp, t, max(0, opened-vouched), now)
}

// credit notes that t alone has brought packets of this pipe that opened under
// kp; unpaid is how many bytes of them no budget has been given for yet.
func (p *Pipe) credit(kp *keypair, t *path, unpaid int, now int64) {
	t.heardUnder(kp, now)
	if t != p.paths.best.Load() {
		if due := p.timed.due.Load(); due == 0 || due > now+elsewhereAfter {
			p.e.timers.plan(&p.timed, now+elsewhereAfter) // suspect
		}
	}
	if !t.validated.Load() {
		t.budget.Add(int64(amplification * unpaid))
	}
	if p.life.alert.Load() || t.fresh.Load() {
		p.mu.Lock()
		p.heardFrom(t, now)
		p.unlock()
	}
}

// vouch looks in a run for one datagram that opens with a counter higher than
// any before, and treats it as authenticated without marking it: the Handler
// is still to open it. n is its length. Datagrams that open but may be
// replays let the run through to the Handler, and count for nothing. If none
// opens, the run is dropped whole and no pipe is returned.
func (e *Endpoint) vouch(kp *keypair, at Path, run []byte, seg int) (p *Pipe, t *path, n int) {
	s := scratchPool.Get().(*scratch)
	defer scratchPool.Put(s)
	for b := run; len(b) > 0; {
		d := b[:min(seg, len(b))]
		b = b[len(d):]
		h, _, ok := wire.ParseHeader(d)
		if !ok {
			continue
		}
		if _, ok := kp.open(s.buf[:0], d, h.Counter, &s.nonce); !ok {
			continue
		}
		if p = e.pipeOf(kp); p == nil {
			return nil, nil, 0
		}
		e.begins(p, kp)
		if !kp.newest(h.Counter) {
			continue
		}
		now := e.now()
		p.mu.Lock()
		t = p.authenticated(kp, at, true, len(d), now)
		p.unlock()
		return p, t, len(d)
	}
	if p != nil {
		return p, p.find(at.Local, at.Remote), 0
	}
	count := &e.drops
	if p := kp.pipe.Load(); p != nil {
		count = &p.drops
		if kp.failed.Load() >= e.limits.integrity {
			p.broken(kp)
		}
	}
	count.count(DropSource)
	return nil, nil, 0
}

// pipeOf returns kp's pipe. The first authenticated packet installs the
// session of a responder even before Up. It returns nil if there is no pipe
// to be had.
func (e *Endpoint) pipeOf(kp *keypair) *Pipe {
	if p := kp.pipe.Load(); p != nil {
		return p
	}
	if kp.initiator {
		return nil
	}
	p, err := e.install(kp.sess)
	if err != nil {
		return nil
	}
	return p
}

// receiveCtrl opens a CTRL or FRAG datagram and acts on it.
func (e *Endpoint) receiveCtrl(kp *keypair, at Path, d []byte, h wire.Header) {
	s := scratchPool.Get().(*scratch)
	defer scratchPool.Put(s)
	p := kp.pipe.Load()
	count := &e.drops
	if p != nil {
		count = &p.drops
	}
	plain, ok := kp.open(s.buf[:0], d, h.Counter, &s.nonce)
	if !ok {
		count.count(DropAuth)
		if p != nil && kp.failed.Load() >= e.limits.integrity {
			p.broken(kp)
		}
		return
	}
	newest := kp.newest(h.Counter)
	if !kp.accept(h.Counter, false) {
		count.count(DropReplay)
		if p != nil {
			p.lateCopy(kp, at, h.Counter)
		}
		return
	}
	if p = e.pipeOf(kp); p == nil {
		count.count(DropIndex)
		return
	}
	p.traffic.packetsIn.Add(1)
	p.traffic.bytesIn.Add(uint64(len(d)))
	e.begins(p, kp)
	now := e.now()
	if h.Type == wire.TypeCtrl && plain[0] == byte(wire.FrameAck) && p.acknowledged(kp, at, plain, len(d), now) {
		return
	}
	p.mu.Lock()
	t := p.authenticated(kp, at, newest, len(d), now)
	if h.Type == wire.TypeCtrl {
		p.control(kp, t, plain, len(d), newest, now)
		p.unlock()
		return
	}
	kind, whole := p.piece(kp, plain, now)
	if whole != nil && kind == wire.FragCtrl {
		p.control(kp, t, whole, 0, newest, now)
		whole = nil
	}
	p.unlock()
	if whole != nil {
		p.life.data.Store(now)
		e.cfg.Handler.Large(p, kind == wire.FragData6, whole)
	}
}

// authenticated notes that the peer was heard under kp from at, and returns
// the path, nil if it is not worth one. newest says that the packet's counter
// is higher than any before; n are the bytes that count against
// amplification. The caller holds mu.
func (p *Pipe) authenticated(kp *keypair, at Path, newest bool, n int, now int64) *path {
	if p.state == stateClosed {
		return nil
	}
	p.life.heard.Store(now)
	p.life.awaiting.Store(0)
	t := p.find(at.Local, at.Remote)
	if t == nil && newest {
		t = p.sawUnknown(at, now)
	}
	if !kp.confirmed.Load() {
		p.setConfirmed(kp, now)
		p.e.timers.plan(&p.timed, now+int64(initialRTT))
	}
	if t != nil {
		if !t.validated.Load() {
			t.budget.Add(int64(amplification * n))
		}
		t.heardUnder(kp, now)
		p.heardFrom(t, now)
	}
	return t
}

// heardFrom ends the search for a peer that was silent, on the path that
// proved alive first (DESIGN §14.8). The caller holds mu.
func (p *Pipe) heardFrom(t *path, now int64) {
	if t.fresh.Load() {
		p.followPeer(t, now)
	}
	if t.validated.Load() && !t.stranger && p.life.probeAt != 0 {
		if best := p.paths.best.Load(); best != t && (best == nil || best.heard.Load() < p.life.probeAt) {
			if best != nil {
				best.doubt = now
				p.outbox.calls = append(p.outbox.calls, call{failed: true})
			}
			p.switchTo(t)
		}
	}
	if p.life.probeAt != 0 {
		p.doubtSize(now)
	}
	if p.life.probeAt != 0 && p.state == stateUp {
		p.sendAgain() // else it is too old to matter
	}
	p.life.probeAt, p.life.probe, p.life.suspected = 0, retry{}, false
	p.life.alert.Store(false)
	if p.state != stateUp {
		p.update(now)
	}
}

// broken closes the pipe at the AEAD's integrity limit.
func (p *Pipe) broken(kp *keypair) {
	p.e.log.Warn("pipe closed: too many packets did not open", "peer", p.peer, "failed", kp.failed.Load())
	p.mu.Lock()
	p.end(ErrIntegrity, closeOther)
	p.unlock()
}

// Open opens one DATA datagram to dst[:0] and returns the plaintext, whose
// first byte is the next header. dst must not overlap the datagram; if it has
// the room nothing is allocated. The replay window is asked after the AEAD
// opened. An error is a DropReason and has been counted. It is to be called
// within Handler.Data.
func (p *Pipe) Open(dst, datagram []byte) (plain []byte, err error) {
	h, _, ok := wire.ParseHeader(datagram)
	if !ok || h.Type > wire.TypeData6 {
		return nil, p.drops.count(DropMalformed)
	}
	kp := p.e.table.get(h.Index)
	if kp == nil || kp.pipe.Load() != p || kp.dead() {
		return nil, p.drops.count(DropIndex)
	}
	nonce := noncePool.Get().(*[nonceLen]byte)
	plain, ok = kp.open(dst, datagram, h.Counter, nonce)
	noncePool.Put(nonce)
	if !ok {
		return nil, p.drops.count(DropAuth)
	}
	wanted := len(plain) > 0 && plain[0]&repair.Wanted != 0
	if !kp.accept(h.Counter, wanted) {
		p.traffic.copied.Store(h.Counter)
		p.traffic.copies.Add(1)
		return nil, p.drops.count(DropReplay)
	}
	if wanted && !kp.sess.repairs.Load() {
		p.repairSeen(kp)
	}
	p.traffic.opened.Add(uint64(len(datagram)))
	p.traffic.packetsIn.Add(1)
	p.traffic.bytesIn.Add(uint64(len(datagram)))
	return plain, nil
}
