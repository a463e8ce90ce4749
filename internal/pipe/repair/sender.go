package repair

import (
	"errors"
	"sync"
	"time"

	"github.com/idloc/idloc/internal/pipe/congestion"
)

// ErrLie is why a peer's acknowledgements are not believed any more.
var ErrLie = errors.New("repair: the peer acknowledges what was not sent")

const (
	maxKept = 32 << 20 // bytes that one Sender keeps

	// creditLeast is how much later than planned a packet may leave without those after
	// it being later too, or a part of the round trip, slack how much sooner: timers are
	// not exact.
	creditLeast = 4 * time.Millisecond
	creditMost  = 16 * time.Millisecond
	creditPart  = 8
	slack       = 300 * time.Microsecond

	probeSlack  = 6 * time.Millisecond // for the peer's delay, and both hosts' scheduling
	probePacket = 2                    // that a probe sends
	maxProbes   = 12                   // without an answer, then what is in flight is given up,
	giveUpAfter = 30 * time.Second     // but not before: TCP above has as much patience
	maxBackoff  = 5                    // doublings

	// onceShare is the part of the path's rate that datagrams have before all else, and
	// onceBurst what of it may leave at once. So much more than the window may be in
	// flight for them. What is longer than onceLeast and onceWait at the path's rate is shed.
	onceShare  = 0.5
	onceBurst  = 10 * time.Millisecond
	onceWindow = 1.5
	onceLeast  = 256 << 10
	onceWait   = 50 * time.Millisecond

	maxLosses = 256 // that are remembered

	skipEvery = 1024 // packets, on average, between two counters that are left out
	maxSkips  = 16   // of these that are remembered
)

// Stats counts packets.
type Stats struct {
	Sent     uint64 // copies included
	Repaired uint64 // copies
	Late     uint64 // taken for lost that had only been late
	Probes   uint64
	Refused  uint64 // for want of room
	GivenUp  uint64
	Once     uint64 // datagrams, of those that were sent
	Marked   uint64 // that routers have marked
	Shed     uint64 // datagrams that waited behind too many
	Ignored  uint64 // acknowledgements that had nothing new for too long
}

// Config says how a Sender works.
type Config struct {
	Path   congestion.Config
	Budget *Budget
}

// Sender keeps what was sent over a pipe. It belongs to whoever holds its owner's
// lock.
type Sender struct {
	Stats Stats

	cfg    Config
	path   *congestion.Path
	epoch  uint32
	queue  queue
	once   queue         // datagrams
	onceAt time.Duration // when their share has room again
	again  list
	way    list // taken and not sent yet
	in     list // in flight, in order of sending
	kept   int

	seq      uint64 // of the last that was sent
	arrived  uint64 // the highest that was acknowledged
	nextAt   time.Duration
	paced    bool // something waits for nextAt
	lastSent time.Duration
	lastAck  time.Duration
	probes   int           // without an answer
	asking   time.Duration // since when
	probing  int           // packets that leave whatever the window says

	skips    []uint64 // index and counter, a ring of maxSkips
	nskips   int
	untilGap int

	marked bool // what the next acknowledgement is for
	heard  bool // the peer has acknowledged something on this path

	work int // that acknowledgements may still make

	reorder  time.Duration
	sinceOne int              // losses since one was late
	lost     *[maxLosses]loss // a ring, nil while nothing is kept or was lost
	nlost    int
}

// loss is a packet that was taken for lost, under the counter that it had then.
type loss struct {
	k              *Packet
	index, counter uint32
	sent           time.Duration
	epoch          uint32
	size           int  // that counted as lost; 0: it was only asked after
	open           bool // it may still arrive
}

// NewSender returns one with nothing to send.
func NewSender(c Config) *Sender {
	s := &Sender{cfg: c, path: congestion.New(c.Path), work: workMost}
	s.untilGap = s.gapAfter()
	return s
}

func (s *Sender) gapAfter() int { return skipEvery/2 + int(skipEvery*s.cfg.Path.Random()) }

// Moved is told that the path is another one; rtt is what is known of it, stream whether
// a stream carries it. What is in flight may still arrive.
func (s *Sender) Moved(rtt time.Duration, stream bool) {
	s.cfg.Path.RTT, s.cfg.Path.Stream = rtt, stream
	s.path = congestion.New(s.cfg.Path)
	s.epoch++
	s.reorder, s.probes, s.nextAt, s.heard = 0, 0, 0, false
}

// Marked is told that routers have marked n more datagrams, before Acked is.
func (s *Sender) Marked(n int) {
	s.marked = true
	s.Stats.Marked += uint64(n)
}

// Unanswered says whether nothing that was sent on this path was acknowledged, and
// was asked after more than once.
func (s *Sender) Unanswered() bool { return !s.heard && s.probes > 1 }

// Room returns a packet for a plaintext of n bytes, which Queue takes; nil: there is
// no room for it. A Sender keeps no more than it leaves for all others of its Budget,
// so that none who does not acknowledge takes all of it.
func (s *Sender) Room(flow uint64, v6 bool, class uint8, n int) (*Packet, []byte) {
	if n < 1 || n > MaxPlain || s.kept+cost > maxKept || int64(s.kept) > s.cfg.Budget.Left() || !s.cfg.Budget.take() {
		s.Stats.Refused++
		return nil, nil
	}
	s.kept += cost
	k := packetPool.Get().(*Packet)
	k.flow, k.V6, k.Class, k.n = flow, v6, class, n
	return k, k.buf[:n]
}

// Once is Room for a datagram, which is sent once, before all else within its share.
func (s *Sender) Once(flow uint64, v6 bool, class uint8, n int) (*Packet, []byte) {
	k, b := s.Room(flow, v6, class, n)
	if k != nil {
		k.once = true
	}
	return k, b
}

// Queue takes a packet of Room's whose plaintext was written; it wants to be
// acknowledged from here on. overhead is what a datagram has beside the plaintext.
func (s *Sender) Queue(k *Packet, overhead int) {
	k.buf[0] |= Wanted
	k.Size = k.n + overhead
	if !k.once {
		s.queue.push(k)
		return
	}
	s.once.push(k)
	for s.once.bytes > max(onceLeast, int(onceWait.Seconds()*s.path.Rate())) {
		k := s.once.shed()
		if k == nil {
			return
		}
		s.Stats.Shed++
		s.free(k)
	}
}

func (s *Sender) free(k *Packet) {
	s.unlink(k)
	s.kept -= cost
	s.cfg.Budget.give()
	k.free()
	if s.kept == 0 && s.lost != nil {
		clear(s.lost[:min(s.nlost, maxLosses)])
		lossPool.Put(s.lost)
		s.lost, s.nlost = nil, 0
	}
}

// unlink forgets k where it is remembered as lost: it is another's soon.
func (s *Sender) unlink(k *Packet) {
	if s.lost == nil || k.loss == 0 {
		return
	}
	if l := &s.lost[(k.loss-1)%maxLosses]; l.k == k {
		l.k = nil
	}
	k.loss = 0
}

var lossPool = sync.Pool{New: func() any { return new([maxLosses]loss) }}

// Take returns the next packet that may leave now, nil if none may. It counts as under
// way from here on. Sent or Return must follow. size is the largest datagram that the path takes, of which overhead
// bytes are not plaintext: a TCP segment that is longer is cut.
func (s *Sender) Take(now time.Duration, size, overhead int) *Packet {
	k, before := s.next(now)
	if k == nil {
		if s.path.InFlight() < s.path.Window() {
			s.path.Limited()
		}
		return nil
	}
	if s.probing == 0 && !before {
		if s.path.InFlight() >= s.path.Window() {
			s.path.Full()
			return nil
		}
		if s.nextAt > now+slack {
			s.paced = true
			return nil
		}
		if s.paced && now > s.nextAt+s.credit() {
			s.path.Limited() // not by the path: this host came late
		}
		s.paced = false
	}
	switch {
	case k.list == &s.again:
		s.again.remove(k)
	case k.once:
		s.once.pop(k)
		s.path.Gentle(now)
		s.onceAt = max(s.onceAt, now-onceBurst) + s.lasts(k.Size)*time.Duration(1/onceShare)
	default:
		s.queue.pop(k)
	}
	if k.Size > size {
		s.split(k, size, overhead)
	}
	s.nextAt = max(s.nextAt, now-s.credit())
	if s.path.InFlight() == 0 {
		s.nextAt = max(s.nextAt, now-slack)
	}
	if s.probing > 0 {
		s.probing--
	}
	s.nextAt += s.lasts(k.Size)
	s.path.Sent(&k.Packet, now)
	k.epoch = s.epoch
	s.way.push(k)
	return k
}

// next is the packet whose turn it is, nil if none waits; before says that it leaves
// whatever the window and the pace say: a datagram within its share. Beyond that,
// datagrams leave where nothing else waits.
func (s *Sender) next(now time.Duration) (k *Packet, before bool) {
	once := s.once.head()
	if once != nil && s.onceAt <= now && s.onceRoom() {
		return once, true
	}
	if k = s.again.first; k == nil {
		k = s.queue.head()
	}
	if k == nil {
		k = once
	}
	return k, false
}

// onceRoom says whether datagrams may leave beside what is in flight.
func (s *Sender) onceRoom() bool {
	return float64(s.path.InFlight()) < onceWindow*float64(s.path.Window())
}

// credit is what may be made up for of what leaves late.
func (s *Sender) credit() time.Duration {
	shortest, _, _ := s.path.RTT()
	return min(max(shortest/creditPart, creditLeast), creditMost)
}

// lasts is how long the path takes for n bytes.
func (s *Sender) lasts(n int) time.Duration {
	return time.Duration(float64(n) / s.path.Rate() * float64(time.Second))
}

// split cuts k, and what is left of it comes next.
func (s *Sender) split(k *Packet, size, overhead int) {
	if s.kept+cost > maxKept || !s.cfg.Budget.take() {
		return // it is sent as it is, and lost
	}
	rest := packetPool.Get().(*Packet)
	if !k.cut(rest, size-overhead) {
		s.cfg.Budget.give()
		packetPool.Put(rest)
		return
	}
	s.kept += cost
	k.Size, rest.Size = k.n+overhead, rest.n+overhead
	s.again.pushAfter(nil, rest)
}

// Sent is told that k, which Take returned, leaves in a datagram. skip says that the
// counter after it is to be left out.
func (s *Sender) Sent(k *Packet, index, counter uint32, now time.Duration) (skip bool) {
	s.way.remove(k)
	if k.tries > 0 {
		s.Stats.Repaired++
	}
	if k.once {
		s.Stats.Once++
	}
	s.work = min(s.work+workEach, workMost)
	s.Stats.Sent++
	s.seq++
	k.seq, k.index, k.counter = s.seq, index, counter
	k.tries++
	s.in.push(k)
	s.lastSent = now
	if s.untilGap--; s.untilGap <= 0 {
		s.untilGap = s.gapAfter()
		return true
	}
	return false
}

// Skipped is told of a counter that was left out.
func (s *Sender) Skipped(index, counter uint32) {
	if s.skips == nil {
		s.skips = make([]uint64, maxSkips)
	}
	s.skips[s.nskips%maxSkips] = uint64(index)<<32 | uint64(counter)
	s.nskips++
}

// Return takes back a packet of Take's that could not be sent.
func (s *Sender) Return(k *Packet) {
	s.way.remove(k)
	if k.epoch == s.epoch {
		s.path.Forget(&k.Packet)
	}
	s.again.pushAfter(nil, k)
}

// Due says when Take or Timeout has something to do if nothing happens before; 0:
// never.
func (s *Sender) Due() time.Duration {
	at := s.probeAt()
	if k := s.in.first; k != nil && k.seq < s.arrived {
		at = earlier(at, k.Sent()+s.lossAfter())
	}
	if s.once.bytes > 0 && s.onceRoom() {
		at = earlier(at, max(s.onceAt, 1))
	}
	if s.Waiting() {
		if s.path.InFlight() < s.path.Window() {
			at = earlier(at, max(s.nextAt, 1))
		}
	}
	return at
}

func earlier(a, b time.Duration) time.Duration {
	if a == 0 {
		return b
	}
	return min(a, b)
}

// probeAt is when nothing has been acknowledged for too long.
func (s *Sender) probeAt() time.Duration {
	if s.in.n == 0 {
		return 0
	}
	_, smoothed, varies := s.path.RTT()
	if smoothed == 0 {
		smoothed, varies = 200*time.Millisecond, 25*time.Millisecond
	}
	after := smoothed + max(4*varies, time.Millisecond) + probeSlack
	return max(s.lastAck, s.lastSent) + after<<min(s.probes, maxBackoff)
}

// lossAfter is how long after it was sent a packet is lost that others have overtaken.
func (s *Sender) lossAfter() time.Duration {
	_, smoothed, _ := s.path.RTT()
	return max(smoothed, s.path.Latest())*9/8 + s.reorder + time.Millisecond
}

// Timeout does what is due: losses that time shows, and probes.
func (s *Sender) Timeout(now time.Duration) {
	s.detect(now)
	if at := s.probeAt(); at == 0 || now < at {
		return
	}
	s.Stats.Probes++
	if s.probes++; s.probes == 1 {
		s.asking = now
	}
	if s.probes > maxProbes && now-s.asking >= giveUpAfter {
		s.giveUp()
		return
	}
	s.lastSent = now
	for range probePacket {
		if k := s.in.first; k != nil {
			s.lose(k, now, false)
			s.probing++
		}
	}
	if s.probing == 0 {
		s.probing = 1
	}
}

// giveUp lets go of what is in flight: nobody answers.
func (s *Sender) giveUp() {
	for k := s.in.first; k != nil; k = s.in.first {
		s.Stats.GivenUp++
		s.in.remove(k)
		if k.epoch == s.epoch {
			s.path.Forget(&k.Packet)
		}
		s.free(k)
	}
	s.probes = 0
}

// Close lets go of all that is kept.
func (s *Sender) Close() {
	s.giveUp()
	for k := s.again.first; k != nil; k = s.again.first {
		s.again.remove(k)
		s.free(k)
	}
	for _, q := range [...]*queue{&s.queue, &s.once} {
		for k := q.head(); k != nil; k = q.head() {
			q.pop(k)
			s.free(k)
		}
	}
}

// Idle says whether nothing is kept.
func (s *Sender) Idle() bool { return s.kept == 0 }

// Waiting says whether something waits to be sent.
func (s *Sender) Waiting() bool {
	return s.again.n > 0 || s.queue.bytes > 0 || s.once.bytes > 0 || s.way.n > 0
}

// Path is the state of the path, to be read.
func (s *Sender) Path() *congestion.Path { return s.path }

// Flows is how many flows have something waiting.
func (s *Sender) Flows() int { return len(s.queue.flows) }

// Kept is how many bytes are kept, by what they cost.
func (s *Sender) Kept() int { return s.kept }
