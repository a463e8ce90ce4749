package netstack

import (
	"encoding/binary"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/idloc/idloc/internal/inner"
)

// A connection that begins doubles what it has under way each round trip until
// something is lost. On a long path that is what the path and its queue hold, and
// as much again: so much is lost at once that recovery, with the hundred selective
// acknowledgements that gVisor keeps, takes seconds, and what follows grows by two
// datagrams a round trip. The kernel's cubic leaves slow start before (HyStart);
// gVisor's reno does not.
//
// So until its first loss a connection over a long path is shown a smaller window
// than its peer's:
//
//	rate   = the most that was acknowledged in half a round trip, per time
//	window = rate × round trip × startupGain
//
// While the path carries more, the window lets TCP double: what is acknowledged
// in that time doubles too. When the rate stops growing the window holds what the
// path does, a round trip later a little more for its queue, and then it grows by
// a datagram a round trip. Not at once, because slow start sends in bursts at twice
// the path's rate, of which the queue has to hold half. The congestion window goes
// on growing behind that, which is why the smaller window stays until TCP has met a
// loss, and has set the threshold that ends slow start (RFC 5681 §3.1). BBR bounds
// what is under way alike.
//
// From then on the window is TCP's own but for some round trips after each gap that
// took a round trip to be filled. Until it is, gVisor sends little, and then, with
// nothing under way, all of its window in one burst, which overruns the queue again.
// So what is under way begins at a quarter and doubles, as acknowledgements come.
// What fills a gap sooner was late and not lost.

const (
	startupGain  = 1.1
	startupRing  = 32       // acknowledgements kept, of a round trip
	startupFlat  = 2        // round trips without a higher rate after which the path is full
	startupRamp  = 4        // round trips of a ramp, and what part of a window it begins with
	startupFloor = 64 << 10 // bytes that are always let through
	// startupRTT is how long a path must be. The queues of shorter ones are
	// overrun and recovered within some ten milliseconds.
	startupRTT = 20 * time.Millisecond
)

// startup watches one connection. Its methods may be used concurrently.
type startup struct {
	scale uint8 // of the windows that the peer announces

	mu    sync.Mutex // guards what follows
	rtt   time.Duration
	prev  acked              // the last acknowledgement
	ring  [startupRing]acked // some before that
	n     int                // how many were put there
	rate  float64
	round time.Duration // when this round trip began
	was   float64       // the rate when it did
	flat  int           // round trips without a higher one
	more  int           // bytes that were allowed since

	gap   bool          // the peer lacks something
	since time.Duration // when it first said so
	ramp  time.Duration // after a gap: until when what is under way grows step by step
	lossy bool          // TCP has met a loss
}

// acked is an acknowledgement and when it came, since start.
type acked struct {
	at  time.Duration
	seq uint32
}

// retime is told the path's round trip. If it has become another path, what is
// known of the old one is void.
func (s *startup) retime(rtt time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if rtt > 0 && (s.rtt == 0 || rtt > 3*s.rtt/2 || rtt < 2*s.rtt/3) {
		s.rtt, s.n, s.rate, s.was, s.flat, s.more = rtt, 0, 0, 0, 0, 0
	}
}

// lost is told that TCP has met a loss.
func (s *startup) lost() {
	s.mu.Lock()
	s.lossy = true
	s.mu.Unlock()
}

// ack takes an acknowledgement, with selective ones or not, and returns how many
// bytes may be under way; 0: as many as the peer's window has room for.
func (s *startup) ack(seq uint32, gaps bool, now time.Duration) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case gaps && !s.gap:
		s.gap, s.since = true, now
	case gaps:
	case s.gap: // what fills a gap acknowledges much at once
		if s.gap = false; now-s.since > s.rtt/2 {
			s.ramp = now + startupRamp*s.rtt
			s.rate /= startupRamp
			s.was, s.flat, s.more = 0, 0, 0
		}
		s.n = 0
		fallthrough
	case s.prev.at == 0:
		s.prev = acked{now, seq}
	default:
		s.measure(seq, now)
	}
	if s.rate == 0 || s.lossy && (s.gap || now > s.ramp) {
		return 0
	}
	gain := startupGain
	if s.flat == 0 {
		gain = 0.9
	}
	return max(int(gain*s.rate*s.rtt.Seconds()), startupFloor) + s.more
}

// measure learns from an acknowledgement. s.mu is held.
func (s *startup) measure(seq uint32, now time.Duration) {
	span := s.rtt / 2
	if s.n == 0 || s.prev.at-s.ring[(s.n-1)%startupRing].at >= s.rtt/startupRing {
		s.ring[s.n%startupRing] = s.prev
		s.n++
	}
	s.prev = acked{now, seq}
	for i := s.n - 1; i >= 0 && i >= s.n-startupRing; i-- { // the newest before the span
		e := s.ring[i%startupRing]
		if e.at > now-span {
			continue
		}
		elapsed := now - e.at
		if elapsed > span+span/4 {
			elapsed = span // a burst after a silence counts as if it took all of the span
		}
		if d := int32(seq - e.seq); d > 0 {
			s.rate = max(s.rate, float64(d)/max(elapsed, time.Microsecond).Seconds())
		}
		break
	}
	if now-s.round >= s.rtt {
		s.round = now
		if s.flat++; s.rate > 1.05*s.was {
			s.flat = 0
		}
		if s.was = s.rate; s.flat > startupFlat {
			s.more += segment
		}
	}
}

// watchStart is called now and then while c writes much, with writeMu held. It
// begins to watch c if the path is long and nothing was lost yet, and sees whether
// something was, and where the path leads.
func (l *link) watchStart(c *tcpConn, near bool) {
	s := c.startup.Load()
	if s == nil && (c.watched || near) {
		return
	}
	rtt := l.shim.RTT(c.key().Peer)
	switch {
	case rtt == 0:
	case s != nil && slowStarts(c):
		s.retime(rtt)
	case s != nil:
		s.lost()
		s.retime(rtt)
	case rtt < startupRTT || !slowStarts(c):
		c.watched = true
	default:
		c.watched = true
		if c.window.scaled {
			c.startup.Store(&startup{scale: c.window.scale, rtt: rtt})
		}
	}
}

// slowStarts says whether TCP has set no threshold for slow start, as it does
// with the first loss.
func slowStarts(c *tcpConn) bool {
	var info tcpip.TCPInfoOption
	return c.ep.GetSockOpt(&info) == nil && info.SndSsthresh >= 1<<30
}

// show has TCP see what may be under way in an acknowledgement's window if the
// connection is being watched. The segment is changed where it is.
func (c *tcpConn) show(h *inner.Header, th header.TCP) {
	s := c.startup.Load()
	if s == nil {
		return
	}
	limit := s.ack(h.Ack, selective(th[header.TCPMinimumSize:]), time.Since(start)) >> s.scale
	if limit > 0 && limit < int(th.WindowSize()) {
		binary.BigEndian.PutUint16(th[14:], uint16(limit))
	}
}

// selective says whether there are selective acknowledgements among TCP options.
func selective(o []byte) bool {
	for len(o) > 0 && o[0] != header.TCPOptionEOL {
		switch {
		case o[0] == header.TCPOptionNOP:
			o = o[1:]
		case o[0] == header.TCPOptionSACK:
			return true
		case len(o) < 2 || o[1] < 2 || int(o[1]) > len(o):
			return false
		default:
			o = o[o[1]:]
		}
	}
	return false
}

// scales remembers the window scales of SYNs until their connections are there:
// each in the slot of its hash, where a newer one takes the place of an older.
type scales [1024]atomic.Uint64

var scaleSeed = maphash.MakeSeed()

func (s *scales) slot(k inner.Flow) (slot *atomic.Uint64, tag uint64) {
	h := maphash.Comparable(scaleSeed, k)
	return &s[h%uint64(len(s))], h &^ 0xff
}

const scaleKnown = 0x80

// note takes the scale of a SYN, of which th is the whole header.
func (s *scales) note(k inner.Flow, th header.TCP) {
	slot, tag := s.slot(k)
	o := header.ParseSynOptions(th[header.TCPMinimumSize:], th.Flags()&header.TCPFlagAck != 0)
	slot.Store(tag | scaleKnown | uint64(max(o.WS, 0))) // -1: no such option
}

// of returns the scale that the peer of a connection has announced.
func (s *scales) of(k inner.Flow) (scale uint8, ok bool) {
	slot, tag := s.slot(k)
	v := slot.Load()
	return uint8(v &^ scaleKnown & 0xff), v&^0xff == tag && v&scaleKnown != 0
}
