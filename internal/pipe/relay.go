package pipe

import (
	"encoding/binary"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/wire"
)

// The relay's side (DESIGN §8, §14.4): this peer forwards datagrams between
// two of its pipes. It opens and seals its hops; what it forwards is sealed
// between the two ends, whose keys it does not have.

const (
	relayLease      = int64(60 * time.Second) // of a binding that is not asked for again
	relayPerMember  = 64                      // bindings that one member takes part in
	relayPerAccount = 512                     // that all members of one invitation take part in
	relayTotal      = 4096
	relayRate       = 8 << 20 // bytes a second that a member may have forwarded
	relayBurst      = time.Second / 4
	relayAccount    = 4 // times a member's rate: all members of one invitation
)

// relays is all that an Endpoint relays. Its mu is taken without a Pipe's and
// without the Endpoint's; the data path takes none but the meters'.
type relays struct {
	mu       sync.Mutex // guards what follows
	bindings map[bindingKey]*binding
	sides    account.Holders[*leg] // of the bindings, that were asked for
	members  map[peerid.ID]*relayShare
	accounts map[account.Account]*relayShare // of one part each
	sweep    timed

	packets, bytes, overQuota atomic.Uint64
}

// bindingKey names what two members have relayed, the same from both sides.
type bindingKey struct {
	low, high peerid.ID
	session   [16]byte
}

// binding is one path between two members, through here.
type binding struct {
	key  bindingKey
	legs [2]leg // of the low and the high peer
}

// leg is one member's side of a binding.
type leg struct {
	binding *binding
	other   *leg
	peer    peerid.ID
	at      int64 // when it was last asked for; 0: never
	pipe    atomic.Pointer[Pipe]
	channel uint16
	open    atomic.Bool   // both have asked
	shares  []*relayShare // of the member and of its account's parts
}

// relayShare is what one member has, or all who are charged together.
type relayShare struct {
	bindings int // of most; guarded by relays.mu
	most     int
	meter    *meter
}

func newRelayShare(most int, rate, now int64) *relayShare {
	return &relayShare{most: most, meter: newMeter(rate, now)}
}

// meter is a token bucket of bytes. It may be used concurrently.
type meter struct {
	rate, burst int64

	mu   sync.Mutex // guards what follows
	left int64
	at   int64
}

func newMeter(rate int64, now int64) *meter {
	burst := max(rate*int64(relayBurst)/int64(time.Second), 1<<16)
	return &meter{rate: rate, burst: burst, left: burst, at: now}
}

// take takes n bytes if they are there.
func (m *meter) take(n int, now int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	// At more than a minute the bucket is full whatever the rate.
	m.left = min(m.burst, m.left+min(now-m.at, int64(time.Minute))*m.rate/int64(time.Second))
	m.at = now
	if m.left < int64(n) {
		return false
	}
	m.left -= int64(n)
	return true
}

// RelayStatus counts what this peer relays for others.
type RelayStatus struct {
	Bindings  int    `json:"bindings"` // pairs of members, now
	Packets   uint64 `json:"packets"`  // forwarded
	Bytes     uint64 `json:"bytes"`    // of these, without the hops' headers
	OverQuota uint64 `json:"over_quota"`
}

// RelayStatus returns the counters of what was relayed for others.
func (e *Endpoint) RelayStatus() RelayStatus {
	r := &e.relays
	r.mu.Lock()
	n := len(r.bindings)
	r.mu.Unlock()
	return RelayStatus{n, r.packets.Load(), r.bytes.Load(), r.overQuota.Load()}
}

// relayAsked handles a RELAY-BIND of p's peer. No lock is held.
func (e *Endpoint) relayAsked(p *Pipe, target peerid.ID, session [16]byte) {
	answer := wire.Frame{Type: wire.FrameRelayChannel, Session: session, Flag: wire.RelayRefused}
	l := e.relayLeg(p, target, session)
	if l == nil {
		p.tell(answer)
		return
	}
	if !l.open.Load() {
		answer.Flag = wire.RelayWaiting
		p.tell(answer)
		return
	}
	for _, side := range []*leg{l, l.other} {
		if q := side.pipe.Load(); q != nil {
			answer.Flag, answer.Size = wire.RelayBound, side.channel
			q.tell(answer)
		}
	}
}

// relayLeg finds or makes p's leg; nil: refused.
func (e *Endpoint) relayLeg(p *Pipe, target peerid.ID, session [16]byte) *leg {
	if e.cfg.Relay == nil || target == p.peer || target == e.id.ID {
		return nil
	}
	payer, ok := e.cfg.Relay(p.peer, target)
	if !ok {
		return nil
	}
	now := e.now()
	key := bindingKey{p.peer, target, session}
	side := 0
	if target.Compare(p.peer) < 0 {
		key.low, key.high = target, p.peer
		side = 1
	}
	r := &e.relays
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.bindings[key]
	if b == nil {
		b = &binding{key: key}
		for i, id := range [...]peerid.ID{key.low, key.high} {
			l := &b.legs[i]
			l.binding, l.other, l.peer = b, &b.legs[1-i], id
		}
	}
	l := &b.legs[side]
	if l.at == 0 {
		// Each pays for its own side, so that nobody uses up another's.
		if !r.enter(l, payer, e.relayRate(), now) {
			return nil
		}
		r.bindings[key] = b
		e.timers.plan(&r.sweep, now+relayLease)
	}
	l.at = now
	if l.pipe.Load() != p {
		l.leave()
		if l.channel = p.addLeg(l); l.channel == 0 {
			r.remove(b)
			return nil
		}
		l.pipe.Store(p)
	}
	open := l.other.at != 0
	l.open.Store(open)
	l.other.open.Store(open)
	return l
}

func (e *Endpoint) relayRate() int64 {
	if e.cfg.RelayRate > 0 {
		return int64(e.cfg.RelayRate)
	}
	return relayRate
}

// enter charges a leg to its member, and who is charged besides. Where there are as many
// bindings as may be, one of those who have most ends. The caller holds mu.
func (r *relays) enter(l *leg, payer account.Account, rate, now int64) bool {
	if r.bindings == nil {
		r.bindings = map[bindingKey]*binding{}
		r.members = map[peerid.ID]*relayShare{}
		r.accounts = map[account.Account]*relayShare{}
	}
	m := r.members[l.peer]
	if m == nil {
		m = newRelayShare(relayPerMember, rate, now)
		r.members[l.peer] = m
	}
	shares := []*relayShare{m}
	for part, times := range payer.All() {
		a := r.accounts[part]
		if a == nil {
			a = newRelayShare(times*relayPerAccount, int64(times)*relayAccount*rate, now)
			r.accounts[part] = a
		}
		shares = append(shares, a)
	}
	if slices.ContainsFunc(shares, func(s *relayShare) bool { return s.bindings >= s.most }) {
		return false
	}
	if r.bindings[l.binding.key] == nil && len(r.bindings) >= relayTotal {
		other, ok := r.sides.Yields(payer)
		if !ok {
			return false
		}
		r.remove(other.binding)
	}
	for _, s := range shares {
		s.bindings++
	}
	r.sides.Add(l, payer)
	l.shares = shares
	return true
}

// leave takes a leg off its pipe. The caller holds the relays' mu.
func (l *leg) leave() {
	if p := l.pipe.Swap(nil); p != nil {
		p.removeLeg(l.channel)
	}
}

// remove ends a binding. Meters stay until the next sweep, so that binding anew
// does not fill them. The caller holds mu.
func (r *relays) remove(b *binding) {
	delete(r.bindings, b.key)
	for i := range b.legs {
		l := &b.legs[i]
		l.open.Store(false)
		l.leave()
		if l.at == 0 {
			continue
		}
		l.at = 0
		r.sides.Remove(l)
		for _, s := range l.shares {
			s.bindings--
		}
	}
}

// expireRelays ends bindings that one side no longer asks for, and says when
// to look again.
func (e *Endpoint) expireRelays(now int64) (next int64) {
	r := &e.relays
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.bindings {
		for i := range b.legs {
			if at := b.legs[i].at; at != 0 && now >= at+relayLease {
				r.remove(b)
				break
			}
		}
	}
	maps.DeleteFunc(r.members, func(_ peerid.ID, s *relayShare) bool { return s.bindings == 0 })
	maps.DeleteFunc(r.accounts, func(_ account.Account, s *relayShare) bool { return s.bindings == 0 })
	if len(r.bindings) == 0 {
		return 0
	}
	return now + relayLease/4
}

// release ends a binding that p's peer lets go.
func (r *relays) release(p *Pipe, session [16]byte) {
	legs := p.relay.legs.Load()
	if legs == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range *p.relay.legs.Load() {
		if l.binding.key.session == session {
			r.remove(l.binding)
			return
		}
	}
}

// dropPipe ends what goes through a pipe that is closed.
func (r *relays) dropPipe(p *Pipe) {
	if p.relay.legs.Load() == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range *p.relay.legs.Load() {
		r.remove(l.binding)
	}
}

// addLeg gives l a channel of p's, zero if there is none left. Legs change
// under the relays' mu.
func (p *Pipe) addLeg(l *leg) uint16 {
	legs := map[uint16]*leg{}
	if old := p.relay.legs.Load(); old != nil {
		for c, l := range *old {
			legs[c] = l
		}
	}
	if len(legs) >= relayPerMember {
		return 0
	}
	c := uint16(1)
	for legs[c] != nil {
		c++
	}
	legs[c] = l
	p.relay.legs.Store(&legs)
	return c
}

func (p *Pipe) removeLeg(c uint16) {
	legs := map[uint16]*leg{}
	for k, l := range *p.relay.legs.Load() {
		if k != c {
			legs[k] = l
		}
	}
	p.relay.legs.Store(&legs)
}

// forwarder sends what one read brought on, a batch for each run to one leg.
type forwarder struct {
	e     *Endpoint
	to    *leg
	batch *Batch
}

// forward takes one datagram that came on channel c of p; inner is borrowed.
func (f *forwarder) forward(p *Pipe, c uint16, inner []byte, now int64) {
	var l *leg
	if legs := p.relay.legs.Load(); legs != nil {
		l = (*legs)[c]
	}
	if l == nil || !l.open.Load() {
		p.drops.count(DropChannel)
		return
	}
	for _, s := range l.shares {
		if !s.meter.take(len(inner), now) {
			f.e.relays.overQuota.Add(1)
			p.drops.count(DropQuota)
			return
		}
	}
	q := l.other.pipe.Load()
	if q == nil || q.passedOn() {
		p.drops.count(DropChannel) // no relay in a relay
		return
	}
	if f.to != l.other {
		f.flush()
		f.to, f.batch = l.other, newBatch(q, wire.TypeRelay)
	}
	if !f.batch.relay(l.other.channel|wire.FromRelay, inner) {
		return
	}
	f.e.relays.packets.Add(1)
	f.e.relays.bytes.Add(uint64(len(inner)))
}

// flush sends what is left; f may be used on.
func (f *forwarder) flush() {
	if f.batch == nil {
		return
	}
	_ = f.batch.Flush() // counted as dropped where it failed
	f.batch.Free()
	f.to, f.batch = nil, nil
}

// relay adds a datagram for a channel, flushing first if there is no room.
func (b *Batch) relay(channel uint16, inner []byte) bool {
	n := wire.RelayHeaderLen + len(inner)
	room := b.Room(n)
	if room == nil {
		_ = b.Flush()
		if room = b.Room(n); room == nil {
			return false
		}
	}
	binary.BigEndian.PutUint16(room, channel)
	copy(room[wire.RelayHeaderLen:], inner)
	b.Seal()
	return true
}
