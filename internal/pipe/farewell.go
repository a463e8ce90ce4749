package pipe

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/idloc/idloc/internal/wire"
)

// The end of a pipe that the peer must learn of, because all that is open over
// it is over with it: one packet that is lost must not leave a reader waiting.
// The side that ends says CLOSE until the peer answers CLOSED, or for about a
// second; the other side answers each CLOSE for as long. Both do so after the
// pipe is closed for everything else, under the keys that sealed last. The path that
// took data may be what ends, as on a host that is switched off when it has just left
// its network: what is said again goes the pipe's other ways, too, and from all local ends
// that there are by then.

// The reasons in a CLOSE frame. From closeEnded on it is repeated until it is
// answered. One that is not known counts as closeEnded.
const (
	closeOther    uint8 = 0
	closeIdle     uint8 = 1
	closeEnded    uint8 = 2 // the sender's process ends
	closeExpelled uint8 = 3 // the sender takes the receiver for no member any more

	// The sender's process ends, and the receiver has all that was written to it:
	// what is open there ends as if the end of each stream had come.
	closeDelivered uint8 = 4
)

// ErrPeerEnded is why a pipe is closed whose peer's process has ended, or has
// been started anew, or has put this side out: nothing that was open over the
// pipe goes on.
var ErrPeerEnded = errors.New("pipe: the peer has ended it for good")

// ErrPeerDelivered is an ErrPeerEnded of a peer that has said that this side has
// all that was written to it: what was open over the pipe is whole.
var ErrPeerDelivered = fmt.Errorf("%w, with nothing left to deliver", ErrPeerEnded)

const (
	farewellFirst = int64(50 * time.Millisecond) // until CLOSE is repeated, at least
	farewellFor   = int64(time.Second)           // how long it is, at least
	farewellRTTs  = 3
	farewellMost  = 3 * int64(time.Second) // and at most: the round trip is the peer's to choose
	farewellWays  = 3                      // other paths on which it is repeated, and as many from other local ends
	// farewellSilent is how long a pipe may have been silent to be ended like one that is
	// up: the peer may still wait for what it cannot hear of otherwise.
	farewellSilent = 10 * int64(time.Second)
	maxEndKeys     = 4 // sessions under which it is said: a peer can begin many
	// maxFarewells bounds the pipes that are being ended at once. Close takes
	// them in turn; what ends otherwise beyond is told once.
	maxFarewells = 4096
)

// farewell is the end of one pipe. Its fields are guarded by farewells.mu.
type farewell struct {
	timed
	e     *Endpoint
	keys  []endKeys // of one session each
	at    Path
	more  []Path           // other ways to the peer, at most farewellWays
	to    []netip.AddrPort // where the peer has answered, through nobody
	frame wire.Frame       // ours: CLOSE; else the answer, CLOSED
	ours  bool
	pause int64 // until it is said again
	until int64
	over  bool
}

// endKeys are keys that only a farewell uses any more.
type endKeys struct {
	kp    *keypair // wiped
	aeads *aeads   // of kp, from before; nil if they were wiped earlier
}

// endKeys returns the newest keys of each session under which the peer opens what is
// sealed, those that seal first. The caller holds mu.
func (p *Pipe) endKeys() (all []endKeys) {
	have := func(s *Session) bool {
		return slices.ContainsFunc(all, func(k endKeys) bool { return k.kp.sess == s })
	}
	add := func(k *keypair) {
		if k != nil && k.usable() && !have(k.sess) && len(all) < maxEndKeys {
			all = append(all, endKeys{k, k.keys.Load()})
		}
	}
	add(p.keys.cur)
	for _, k := range slices.Backward(p.keys.all) {
		add(k)
	}
	return all
}

// farewells are those of an Endpoint, by our receiver index.
type farewells struct {
	n  atomic.Int32 // how many there are
	mu sync.Mutex   // guards what follows
	by map[uint32]*farewell

	ours int           // of them
	none chan struct{} // closed when none is ours; nil: nobody waits
}

// sayFarewell goes on where the first CLOSE, or CLOSED, was sent under f's keys,
// which nothing else may use any more.
func (e *Endpoint) sayFarewell(f *farewell, rtt int64) {
	w := &e.farewells
	w.mu.Lock()
	defer w.mu.Unlock()
	if int(w.n.Load()) >= e.limits.farewells {
		return
	}
	if w.by == nil {
		w.by = make(map[uint32]*farewell)
	}
	now := e.now()
	f.e, f.fire = e, f.tick
	f.pause = max(farewellFirst, rtt+rtt/4)
	f.until = now + min(max(farewellFor, farewellRTTs*rtt), farewellMost)
	next := f.until
	if f.ours {
		next = min(now+f.pause, f.until)
	}
	if !e.timers.plan(&f.timed, next) {
		return // the Endpoint is closed
	}
	for _, k := range f.keys {
		w.by[k.kp.recvIndex] = f
	}
	w.n.Add(1)
	if f.ours {
		w.ours++
	}
}

// tick says CLOSE once more, or gives up.
func (f *farewell) tick(now int64) (next int64) {
	w := &f.e.farewells
	w.mu.Lock()
	var all [][]byte
	if now < f.until && !f.over {
		for _, k := range f.keys {
			if d := k.seal(f.frame); d != nil {
				all = append(all, d)
			}
		}
	}
	if len(all) == 0 {
		w.removeLocked(f)
		w.mu.Unlock()
		return 0
	}
	f.pause += f.pause / 2
	next = min(now+f.pause, f.until)
	w.mu.Unlock()
	for _, d := range all {
		f.send(d)
	}
	return next
}

// otherWays returns paths besides the best one on which the peer is told of the end:
// where it has answered, those first on which it was heard last. The caller holds mu.
func (p *Pipe) otherWays(best *path) (out []Path) {
	var ways []*path
	proven := map[netip.AddrPort]bool{}
	all := *p.paths.list.Load()
	for _, t := range all {
		if t.validated.Load() {
			proven[t.Remote] = true
		}
	}
	for _, t := range all {
		if t != best && proven[t.Remote] {
			ways = append(ways, t)
		}
	}
	slices.SortFunc(ways, func(a, b *path) int { return cmp.Compare(b.heard.Load(), a.heard.Load()) })
	for _, t := range ways[:min(len(ways), farewellWays)] {
		out = append(out, t.Path)
	}
	return out
}

// seal returns frame as a datagram, nil if the keys are used up. The caller holds
// farewells.mu.
func (k endKeys) seal(frame wire.Frame) []byte {
	plain := frame.Append(nil)
	d := make([]byte, wire.HeaderLen+len(plain)+wire.TagLen)
	copy(d[wire.HeaderLen:], plain)
	var nonce [nonceLen]byte
	if !k.kp.sealWith(k.aeads, wire.TypeCtrl, d, &nonce) {
		return nil
	}
	return d
}

// send sends what seal returned, on all ways. A loss is made up for by the next.
func (f *farewell) send(d []byte) {
	_ = f.at.Local.WriteBatch(d, len(d), f.at.Remote)
	for _, at := range f.more {
		_ = at.Local.WriteBatch(d, len(d), at.Remote)
	}
	for _, at := range f.anew() {
		_ = at.Local.WriteBatch(d, len(d), at.Remote)
	}
}

// anew returns ways from local ends that the pipe had no path from.
func (f *farewell) anew() (out []Path) {
	if f.e.cfg.Locals == nil || len(f.to) == 0 {
		return nil
	}
	known := map[Sender]bool{f.at.Local: true}
	for _, at := range f.more {
		known[at.Local] = true
	}
	for _, s := range f.e.cfg.Locals() {
		for _, to := range f.to {
			if !known[s] && len(out) < farewellWays && s.LocalAddr().Addr().Is4() == to.Addr().Is4() {
				out = append(out, Path{s, to})
			}
		}
	}
	return out
}

// directly returns where the peer has answered through nobody, at most farewellWays. The
// caller holds mu.
func (p *Pipe) directly() (out []netip.AddrPort) {
	for _, t := range *p.paths.list.Load() {
		if t.validated.Load() && !t.relayed.Load() && !slices.Contains(out, t.Remote) && len(out) < farewellWays {
			out = append(out, t.Remote)
		}
	}
	return out
}

func (w *farewells) removeLocked(f *farewell) {
	if f.over {
		return
	}
	f.over = true
	for _, k := range f.keys {
		if w.by[k.kp.recvIndex] == f {
			delete(w.by, k.kp.recvIndex)
		}
	}
	w.n.Add(-1)
	if f.ours {
		if w.ours--; w.ours == 0 && w.none != nil {
			close(w.none)
			w.none = nil
		}
	}
}

// farewellHeard takes a CTRL datagram under keys that only a farewell knows. It
// says whether it was one.
func (e *Endpoint) farewellHeard(h wire.Header, d []byte) bool {
	if e.farewells.n.Load() == 0 || h.Type != wire.TypeCtrl {
		return false
	}
	f, answer := e.farewells.heard(h, d)
	if answer != nil {
		f.send(answer)
	}
	return f != nil
}

// heard is farewellHeard: it returns which one it was, and what to answer.
func (w *farewells) heard(h wire.Header, d []byte) (f *farewell, answer []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if f = w.by[h.Index]; f == nil {
		return nil, nil
	}
	k := f.keys[slices.IndexFunc(f.keys, func(k endKeys) bool { return k.kp.recvIndex == h.Index })]
	var nonce [nonceLen]byte
	plain, ok := k.kp.openWith(k.aeads, nil, d, h.Counter, &nonce)
	if !ok || !k.kp.accept(h.Counter, false) {
		return nil, nil
	}
	frame, _, err := wire.ParseFrame(plain)
	if err != nil {
		return nil, nil
	}
	if frame.Type == wire.FrameClose { // both have ended it, or the answer was lost
		answer = k.seal(wire.Frame{Type: wire.FrameClosed})
	}
	if f.ours && (frame.Type == wire.FrameClosed || frame.Type == wire.FrameClose) {
		f.e.timers.forget(&f.timed)
		w.removeLocked(f)
	}
	return f, answer
}

// awaitFarewells returns when every peer has answered, or was told for long
// enough.
func (e *Endpoint) awaitFarewells() {
	w := &e.farewells
	w.mu.Lock()
	if w.ours == 0 {
		w.mu.Unlock()
		return
	}
	if w.none == nil {
		w.none = make(chan struct{})
	}
	none := w.none
	w.mu.Unlock()
	<-none
}

// Delivered says that this process is about to end, and that the peer has all
// that was written to it. The peer is told so when the Endpoint is closed.
func (p *Pipe) Delivered() { p.delivered.Store(true) }

// finish closes the pipe because this process ends.
func (p *Pipe) finish() {
	reason := closeEnded
	if p.delivered.Load() {
		reason = closeDelivered
	}
	p.mu.Lock()
	p.end(ErrClosed, reason)
	p.unlock()
}

// End closes the pipe for good, because the peer is no member any more: what
// was open over it is over on both sides, and the peer is told until it answers,
// for about a second, after End has returned. err is what Err and Handler.Down
// say. It is idempotent.
func (p *Pipe) End(err error) {
	p.mu.Lock()
	if p.state != stateClosed {
		p.gone(err)
	}
	p.end(err, closeExpelled)
	p.unlock()
}

// finish ends those of the pipes that which names, a bounded number at once, and
// waits until the peers have answered, or were told for long enough.
func (e *Endpoint) finish(pipes []*Pipe, which func(*Pipe) bool) {
	n := 0
	for _, p := range pipes {
		if !which(p) {
			continue
		}
		p.finish()
		if n++; n%(e.limits.farewells/2) == 0 { // the other half is for peers that end too
			e.awaitFarewells()
		}
	}
	e.awaitFarewells()
}
