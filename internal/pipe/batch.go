package pipe

import (
	"errors"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/idloc/idloc/internal/wire"
)

const (
	maxBatch    = 65507 // bytes: the largest UDP payload of IPv4
	maxSegments = 64    // the kernel's UDP_MAX_SEGMENTS at its least
)

// Batch is a buffer that is being filled with sealed datagrams for one pipe:
//
//	b := p.Batch(false)
//	defer b.Free()
//	for each packet {
//		room := b.Room(n)
//		if room == nil {
//			b.Flush()
//			room = b.Room(n)
//		}
//		write n bytes of plaintext to room, next header first
//		b.Seal()
//	}
//	b.Flush()
//
// All datagrams of a batch have the size of the first, but the last, which
// may be shorter, so that one system call sends them. A Batch belongs to one
// goroutine; several batches of a pipe may be filled at once.
type Batch struct {
	p     *Pipe
	typ   uint8
	kp    *keypair // taken with the first datagram
	to    *path    // nil: the best one when flushed
	class uint8    // of the datagrams' outer headers
	kept  bool     // what is in it is kept, and sent again if it is lost
	n     int      // bytes sealed
	seg   int      // size of the first datagram
	count int
	open  int  // size of the datagram that Room began
	short bool // the last datagram was shorter: no more fit
	nonce [nonceLen]byte
	buf   [maxBatch]byte
}

var batchPool = sync.Pool{New: func() any { return new(Batch) }}

// Batch returns an empty batch for DATA datagrams, of IPv6 LSIs if v6.
func (p *Pipe) Batch(v6 bool) *Batch {
	if v6 {
		return newBatch(p, wire.TypeData6)
	}
	return newBatch(p, wire.TypeData4)
}

func newBatch(p *Pipe, typ uint8) *Batch {
	b := batchPool.Get().(*Batch)
	b.p, b.typ = p, typ
	return b
}

// Free gives b back; it must not be used after. What was not flushed is lost.
func (b *Batch) Free() {
	b.reset()
	b.p, b.to, b.class, b.kept = nil, nil, 0, false
	batchPool.Put(b)
}

// SetClass gives all that b sends until Free a traffic class, of which the
// upper six bits count (RFC 2474). The class is in the outer IP headers where
// the path's Sender is a ClassSender, and is not told to the peer. What has to
// wait for a path, or is sent once more, goes without.
func (b *Batch) SetClass(class uint8) { b.class = class &^ 3 }

func (b *Batch) reset() {
	b.kp = nil
	b.n, b.seg, b.count, b.open, b.short = 0, 0, 0, 0, false
}

// Room returns n bytes for the next plaintext, n ≥ 1, the first for the next
// header. It returns nil if b cannot take it as one more datagram: then Flush
// and ask again. An empty batch takes whatever a UDP datagram can hold; that
// it fits the path is for the caller, by MaxSegment.
func (b *Batch) Room(n int) []byte {
	size := wire.HeaderLen + n + wire.TagLen
	if b.n+size > maxBatch || b.short || b.count == maxSegments {
		return nil
	}
	if b.count == 0 {
		b.seg = size
		if b.kp == nil {
			b.kp = b.p.keys.send.Load()
		}
	} else if size > b.seg {
		return nil
	}
	b.open = size
	from := b.n + wire.HeaderLen
	return b.buf[from : from+n : from+n]
}

// Seal seals what Room returned, in place. Room without Seal has no effect.
func (b *Batch) Seal() {
	d := b.buf[b.n : b.n+b.open]
	if b.open == 0 {
		return
	}
	if b.kp == nil || !b.kp.seal(b.typ, d, &b.nonce) {
		b.open = 0
		b.p.drops.count(DropExpired)
		return
	}
	b.n += b.open
	b.count++
	b.short = b.open < b.seg
	b.open = 0
}

// put is Room and Seal for a plaintext that lies elsewhere and stays there. It returns
// the counter; fits is false if b has no room, sealed if the keys do not seal.
func (b *Batch) put(plain []byte) (counter uint32, fits, sealed bool) {
	if b.Room(len(plain)) == nil {
		return 0, false, false
	}
	d := b.buf[b.n : b.n+b.open]
	if b.kp == nil {
		b.open = 0
		return 0, true, false
	}
	counter, sealed = b.kp.sealFrom(b.kp.keys.Load(), b.typ, d, plain, &b.nonce)
	if !sealed {
		b.open = 0
		b.p.drops.count(DropExpired)
		return 0, true, false
	}
	b.n += b.open
	b.count++
	b.short = b.open < b.seg
	b.open = 0
	return counter, true, true
}

// Flush sends what was sealed with one WriteBatch on the best path and
// empties b for use anew, whatever it returns. Errors are DropReasons, or the
// socket's.
func (b *Batch) Flush() error {
	if b.count == 0 {
		refused := b.kp == nil
		b.reset()
		if refused && b.p.keys.send.Load() == nil {
			return ErrNotUp
		}
		return nil
	}
	p, kp := b.p, b.kp
	to := b.to
	if to == nil {
		to = p.paths.best.Load()
	}
	if to == nil || !to.spend(b.n) {
		waits := to != nil && b.to == nil && p.wait(b.buf[:b.n], b.seg)
		b.reset()
		if waits {
			return nil
		}
		return p.drops.count(DropNoPath)
	}
	n, seg, count := b.n, b.seg, b.count
	err := to.write(b.buf[:n], min(seg, n), b.outer(to))
	now := p.e.now()
	if count <= keepAgain && b.to == nil && !b.kept && b.typ <= wire.TypeData6 && p.doubtful(now) {
		p.keep(b.buf[:n], seg)
	}
	b.reset()
	if err != nil {
		p.drops.count(DropWrite)
		p.writeFailed(to, seg, err)
		if b.to == nil {
			p.awaitLife(now) // a path that takes nothing any more is found out as one that loses it
		}
		return err
	}
	to.sent.Store(now)
	p.traffic.packetsOut.Add(uint64(count))
	p.traffic.bytesOut.Add(uint64(n))
	if b.to == nil { // else it is CTRL
		p.sentData(now, seg)
	}
	if kp.next.Load() >= p.e.limits.rekeyAfterPackets && kp.number == p.currentNumber() {
		p.e.timers.plan(&p.timed, now)
	}
	return nil
}

// outer is the traffic class of what leaves on t, with the bits of ECN.
func (b *Batch) outer(t *path) uint8 {
	if !b.kept {
		return b.class
	}
	return b.class | b.p.repair.ecn(t)
}

// write sends datagrams of seg bytes on t.
func (t *path) write(b []byte, seg int, class uint8) error {
	if class != 0 {
		if s, ok := t.Local.(ClassSender); ok {
			return s.WriteClass(b, seg, t.Remote, class)
		}
	}
	return t.Local.WriteBatch(b, seg, t.Remote)
}

// sentData notes that data waits for a sign of life.
func (p *Pipe) sentData(now int64, seg int) {
	p.life.data.Store(now)
	if seg > wire.BaseMTU && !p.paths.large.Load() {
		p.paths.large.Store(true)
	}
	p.awaitLife(now)
}

// awaitLife notes that something was sent to which the peer owes a sign of
// life: data, or a question. The timers look whether it came.
func (p *Pipe) awaitLife(now int64) {
	if p.life.awaiting.Load() == 0 && p.life.awaiting.CompareAndSwap(0, now) {
		if due := p.timed.due.Load(); due == 0 || due > now+deadAfter {
			p.e.timers.plan(&p.timed, now+deadAfter)
		}
	}
}

// currentNumber is the rekey number of the keys that seal, so that a batch
// under older keys does not ask for a rekey.
func (p *Pipe) currentNumber() uint32 {
	if kp := p.keys.send.Load(); kp != nil {
		return kp.number
	}
	return 0
}

// writeFailed draws what there is to learn from a socket's error: a datagram
// too large shrinks the path. All else the missing answers will tell.
func (p *Pipe) writeFailed(t *path, seg int, err error) {
	if !errors.Is(err, syscall.EMSGSIZE) {
		return
	}
	p.mu.Lock()
	if seg <= int(t.mtu.Load()) {
		t.search.collapse(t, p.e.now())
	}
	p.unlock()
}

// Where says where data goes now: the remote address, invalid without a direct
// path; whether that is inside this host; and how many bytes the receive
// buffer of the local socket holds, 0 if that is not known.
func (p *Pipe) Where() (to netip.AddrPort, inside bool, room int) {
	t := p.paths.best.Load()
	if t == nil || t.relayed.Load() {
		return netip.AddrPort{}, false, 0
	}
	if s, ok := t.Local.(interface{ ReceiveBuffer() int }); ok {
		room = s.ReceiveBuffer()
	}
	a := t.Local.LocalAddr().Addr()
	return t.Remote, a.IsLoopback() || a == t.Remote.Addr(), room
}

// RTT returns the smoothed round trip of the present path, 0 if it is not known.
func (p *Pipe) RTT() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := p.paths.best.Load(); t != nil {
		return t.srtt
	}
	return 0
}

// MaxSegment is how many bytes of transport header and payload fit one DATA
// datagram on the present path: its UDP payload less 25 (DESIGN §6).
func (p *Pipe) MaxSegment() int { return p.datagram() - wire.Overhead }

// datagram is the largest UDP payload for the present path.
func (p *Pipe) datagram() int {
	if t := p.paths.best.Load(); t != nil {
		return int(t.mtu.Load())
	}
	return wire.BaseMTU
}
