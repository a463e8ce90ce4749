package pipe

import (
	"time"

	"github.com/idloc/idloc/internal/wire"
)

// Path MTU discovery by probes (RFC 8899): from the base size upward in
// steps, each a padded CTRL datagram that the peer acknowledges. Probes alone
// risk nothing; data uses a size only after it was acknowledged. While large
// data flows the size is checked again and again, so that a path that begins
// to swallow it is found out (RFC 8899 §4.3).
const (
	probeTries  = 3
	searchAgain = int64(10 * time.Minute) // RFC 8899 §5.1.1, PMTU_RAISE_TIMER
	checkEvery  = int64(2500 * time.Millisecond)
	probeWait   = int64(250 * time.Millisecond)
)

// mtuSteps are the UDP payloads that are tried: base, common tunnel and
// access links, Ethernet over IPv6 and IPv4; jumbo frames of clouds that have 8896
// bytes and of 9000; then what only a loopback interface takes, the last of them a
// whole super packet of TCP. What lies beyond Ethernet is tried where the interface
// takes it, and after these what exactly fills its own frames.
var mtuSteps = [...]int{1200, 1280, 1352, 1392, 1420, 1452, 1472, 8848, 8972, 16332, 65472}

const ethernetSteps = 7

// defaultMTU is what this side takes unless it says otherwise: a socket reads
// with buffers for the largest datagram there is.
const defaultMTU = 65507

// search is the state of one path. It is guarded by the pipe's mu.
type search struct {
	size     int    // under test; 0: none
	checking bool   // size is the present MTU, not a new one
	id       uint64 // of the probes of this size
	try      retry  // of the probe, or when to search again
	checked  int64  // when the present size was last acknowledged
}

func (s *search) begin(now int64) { *s = search{try: retry{at: now}, checked: now} }

// baseMTU is what a path is assumed to take. A Sender that adds bytes of its
// own, a relay, says how many remain by a method MaxDatagram.
func baseMTU(s Sender) int {
	if m, ok := s.(interface{ MaxDatagram() int }); ok {
		return min(wire.BaseMTU-wire.RelayOverhead, m.MaxDatagram())
	}
	return wire.BaseMTU
}

// UDP over IP without options.
const (
	headers4 = 20 + 8
	headers6 = 40 + 8
)

// mtuLimit is the largest size worth trying on t: what an Ethernet frame takes, or
// what the interface does that a Sender sends from, if its method LinkMTU knows more.
func (p *Pipe) mtuLimit(t *path) int {
	limit := mtuSteps[ethernetSteps-1]
	if l, ok := t.Local.(interface{ LinkMTU() int }); ok {
		headers := headers4
		if t.Remote.Addr().Unmap().Is6() {
			headers = headers6
		}
		limit = max(limit, min(l.LinkMTU()-headers, mtuSteps[len(mtuSteps)-1]))
	}
	if t.Local.LocalAddr().Addr().IsLoopback() {
		limit = mtuSteps[len(mtuSteps)-1]
	}
	if m, ok := t.Local.(interface{ MaxDatagram() int }); ok {
		limit = min(limit, m.MaxDatagram())
	}
	return min(limit, int(p.keys.sess.remote.MTU))
}

// searchMTU sends the probe that is due on the best path. The caller holds
// mu.
func (p *Pipe) searchMTU(now int64) (next int64) {
	t := p.paths.best.Load()
	if t == nil || p.state != stateUp || !t.validated.Load() || p.keys.sess == nil {
		return 0
	}
	s := &t.search
	if s.size == 0 {
		switch {
		case p.paths.large.Load() && now >= s.checked+checkEvery:
			*s = search{size: int(t.mtu.Load()), checking: true, id: randomUint64(), try: retry{at: now}, checked: s.checked}
		case now < s.try.at:
			if p.paths.large.Load() {
				return earlier(s.try.at, s.checked+checkEvery)
			}
			return s.try.at
		default:
			size := nextSize(int(t.mtu.Load()), p.mtuLimit(t))
			if size == 0 {
				s.try = retry{at: now + searchAgain}
				return s.try.at
			}
			*s = search{size: size, id: randomUint64(), try: retry{at: now}, checked: s.checked}
		}
	}
	if now < s.try.at {
		return s.try.at
	}
	if s.try.tries >= probeTries {
		if s.checking {
			s.collapse(t, now)
		} else {
			*s = search{try: retry{at: now + searchAgain}, checked: s.checked}
		}
		return s.try.at
	}
	p.queue(p.sealing(), t, wire.Frame{Type: wire.FrameMTUProbe, ID: s.id, Size: uint16(s.size)})
	s.try.at = now + max(probeWait, 2*p.rtt())
	s.try.tries++
	return s.try.at
}

// nextSize is what is tried after size, 0 if nothing is.
func nextSize(size, limit int) int {
	for _, step := range mtuSteps {
		if step > size && step <= limit {
			return step
		}
	}
	if limit > size && limit > mtuSteps[ethernetSteps-1] {
		return limit
	}
	return 0
}

// probeAcked takes the size of an acknowledged probe into use. The caller
// holds mu.
func (p *Pipe) probeAcked(id uint64, now int64) {
	for _, t := range *p.paths.list.Load() {
		s := &t.search
		if s.size == 0 || s.id != id {
			continue
		}
		if s.checking {
			p.paths.large.Store(false)
		} else {
			t.mtu.Store(int32(s.size))
		}
		at := now
		if s.checking {
			at = now + searchAgain
		}
		*s = search{try: retry{at: at}, checked: now}
		p.e.timers.plan(&p.timed, now)
		return
	}
}

// doubtSize has the size checked at once: the peer is alive, and yet nothing
// came for what was sent. The caller holds mu.
func (p *Pipe) doubtSize(now int64) {
	t := p.paths.best.Load()
	if t == nil || !p.paths.large.Load() || int(t.mtu.Load()) <= baseMTU(t.Local) || t.search.checking {
		return
	}
	t.search = search{checked: now - checkEvery}
	p.e.timers.plan(&p.timed, now)
}

// refused ends the test of a size that the local stack does not send.
func (s *search) refused(size int, now int64) {
	if s.size == size {
		s.try = retry{at: now, tries: probeTries}
	}
}

// collapse goes back to the base size and searches anew.
func (s *search) collapse(t *path, now int64) {
	t.mtu.Store(int32(baseMTU(t.Local)))
	*s = search{try: retry{at: now}, checked: now}
}
