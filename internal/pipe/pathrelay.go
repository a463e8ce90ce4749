package pipe

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/wire"
)

// The ends' side of relaying (DESIGN §14.4): a path whose local half is a
// channel of the pipe to a relay. Challenges, RTT, sizes and consent are those
// of any path.

const (
	relayRefresh = int64(20 * time.Second) // between binds that keep a channel
	relayIdle    = int64(45 * time.Second) // a channel that no path uses ends
	relayEnds    = int64(4 * time.Second)  // a channel ends whose path's pipe is closed: its end has been said by then
	relayGrace   = int64(10 * time.Second) // a direct path must stand before relayed ones go
	relayRetry   = int64(100 * time.Millisecond)
	maxBinds     = 256
)

// Errors of Bind.
var (
	ErrRelayRefused = errors.New("pipe: the relay refuses")
	errRelayInRelay = errors.New("pipe: the way to the relay is relayed itself")
	errManyBinds    = errors.New("pipe: too many relayed paths")
)

// relayRemote is the remote half of relayed paths: the channel says where
// they lead.
var relayRemote = netip.AddrPortFrom(netip.IPv6Unspecified(), 1)

// relayState is what a pipe has to do with others' pipes.
type relayState struct {
	links atomic.Pointer[map[uint16]*relayLink] // what the peer relays for us, by channel; copied on write under the pipe's mu
	legs  atomic.Pointer[map[uint16]*leg]       // what we relay for the peer, by channel; copied on write under the relays' mu
	binds map[[16]byte]*bind                    // channels wanted of the peer, by session; the pipe's mu guards it
}

// relayLink is a channel of the pipe to a relay, as a Sender.
type relayLink struct {
	relay   *Pipe
	peer    peerid.ID     // who is at the other end
	channel atomic.Uint32 // a relay that has restarted gives another one
	used    atomic.Int64
	until   atomic.Int64 // when it ends; 0: as long as it is used
}

var _ ClassSender = (*relayLink)(nil)

// LocalAddr is the real address that the relay is sent to from.
func (l *relayLink) LocalAddr() netip.AddrPort {
	if t := l.relay.paths.best.Load(); t != nil {
		return t.Local.LocalAddr()
	}
	return netip.AddrPort{}
}

// MaxDatagram is what fits into a datagram of the hop.
func (l *relayLink) MaxDatagram() int { return l.relay.datagram() - wire.RelayOverhead }

// WriteBatch seals each datagram once more, for the hop.
func (l *relayLink) WriteBatch(b []byte, seg int, to netip.AddrPort) error {
	return l.WriteClass(b, seg, to, 0)
}

// WriteClass implements ClassSender: the hop to the relay has the class. The
// relay does not pass it on.
func (l *relayLink) WriteClass(b []byte, seg int, _ netip.AddrPort, class uint8) error {
	if l.relay.passedOn() {
		return errRelayInRelay
	}
	l.used.Store(l.relay.e.now())
	out := newBatch(l.relay, wire.TypeRelay)
	defer out.Free()
	out.SetClass(class)
	channel := uint16(l.channel.Load())
	for len(b) > 0 {
		d := b[:min(seg, len(b))]
		b = b[len(d):]
		out.relay(channel, d)
	}
	return out.Flush()
}

// relayed says whether a path leads through a relay.
func (at Path) relayed() bool {
	_, ok := at.Local.(*relayLink)
	return ok
}

// Via is the relay that the path leads through, zero if none.
func (at Path) Via() peerid.ID {
	if l, ok := at.Local.(*relayLink); ok {
		return l.relay.peer
	}
	return peerid.ID{}
}

// Addrs are the real addresses of the path on this side's first hop: those of
// the relay, if it leads through one.
func (at Path) Addrs() (local, remote netip.AddrPort) {
	if l, ok := at.Local.(*relayLink); ok {
		if t := l.relay.paths.best.Load(); t != nil && (!t.relayed.Load() || t.Carried()) {
			return t.Local.LocalAddr(), t.Remote
		}
		return netip.AddrPort{}, netip.AddrPort{}
	}
	return at.Local.LocalAddr(), at.Remote
}

// Relayed says whether data goes through a relay, a TURN server or a carrier now.
func (p *Pipe) Relayed() bool { return p.relayed() }

// passedOn says whether data goes through a relay or a TURN server now: then p is no
// way to a relay.
func (p *Pipe) passedOn() bool {
	t := p.paths.best.Load()
	return t != nil && t.relayed.Load() && !t.Carried()
}

func (p *Pipe) relayed() bool {
	t := p.paths.best.Load()
	return t != nil && t.relayed.Load()
}

// bind is one channel that is wanted of a relay, or held.
type bind struct {
	target  peerid.ID
	session [16]byte
	link    *relayLink // nil until both sides have asked
	err     error
	done    chan struct{} // closed when link or err is set
	try     retry
}

// Bind asks the peer of p to relay between this side and target, for one
// session, and returns the path when target has asked for the same. The
// channel lasts while a path uses it, and is asked for again as long as ctx
// does not end before there is one.
func (p *Pipe) Bind(ctx context.Context, target peerid.ID, session [16]byte) (Path, error) {
	if p.passedOn() {
		return Path{}, errRelayInRelay
	}
	now := p.e.now()
	p.mu.Lock()
	b := p.relay.binds[session]
	if b == nil {
		err := p.err
		if len(p.relay.binds) >= maxBinds {
			err = errManyBinds
		}
		if p.state == stateClosed || err == errManyBinds {
			p.unlock()
			return Path{}, err
		}
		b = &bind{target: target, session: session, done: make(chan struct{}), try: retry{at: now}}
		if p.relay.binds == nil {
			p.relay.binds = map[[16]byte]*bind{}
		}
		p.relay.binds[session] = b
		p.e.timers.plan(&p.timed, now)
	}
	p.unlock()
	select {
	case <-b.done:
		if b.err != nil {
			return Path{}, b.err
		}
		return Path{Local: b.link, Remote: relayRemote}, nil
	case <-p.closed:
		return Path{}, p.Err()
	case <-ctx.Done():
		p.mu.Lock()
		if p.relay.binds[session] == b && b.link == nil {
			p.letGo(b)
		}
		p.unlock()
		return Path{}, context.Cause(ctx)
	}
}

// relayDue asks for channels, keeps those in use and lets go of the others.
// The caller holds mu.
func (p *Pipe) relayDue(now int64) (next int64) {
	for _, b := range p.relay.binds {
		if b.link != nil {
			until := b.link.until.Load()
			if now >= b.link.used.Load()+relayIdle || until != 0 && now >= until {
				p.letGo(b)
				continue
			}
			if until != 0 {
				next = earlier(next, until)
				continue
			}
		}
		if b.try.at <= now {
			p.queue(p.sealing(), p.paths.best.Load(), wire.Frame{Type: wire.FrameRelayBind, Peer: b.target, Session: b.session})
			b.try.at = now + relayRefresh
			if b.link == nil {
				b.try.at = now + relayRetry<<min(b.try.tries, 2)
			}
			b.try.tries++
		}
		next = earlier(next, b.try.at)
	}
	return next
}

// letGo ends a bind, and tells the relay, for whom it counts until its lease ends. A
// relay that does not know of this does not hear it. The caller holds mu.
func (p *Pipe) letGo(b *bind) {
	delete(p.relay.binds, b.session)
	if b.link != nil {
		p.setLink(uint16(b.link.channel.Load()), nil)
	}
	if p.state != stateClosed {
		p.queue(p.sealing(), p.paths.best.Load(), wire.Frame{Type: wire.FrameRelayChannel, Session: b.session, Flag: wire.RelayRefused})
	}
}

// endRelayed has the channels end that a closed pipe had paths through.
func (p *Pipe) endRelayed() {
	for _, t := range *p.paths.list.Load() {
		if l, ok := t.Local.(*relayLink); ok {
			until := p.e.now() + relayEnds
			l.until.Store(until)
			p.e.timers.plan(&l.relay.timed, until)
		}
	}
}

// channelGiven handles a RELAY-CHANNEL. The caller holds mu.
func (p *Pipe) channelGiven(f wire.Frame, now int64) {
	b := p.relay.binds[f.Session]
	if b == nil {
		if f.Flag == wire.RelayRefused && len(p.outbox.released) < maxReplies {
			p.outbox.released = append(p.outbox.released, f.Session)
		}
		return
	}
	switch f.Flag {
	case wire.RelayBound:
		if b.link == nil {
			b.link = &relayLink{relay: p, peer: b.target}
			b.link.used.Store(now)
			close(b.done)
			b.try = retry{at: now + relayRefresh}
		} else if uint16(b.link.channel.Load()) != f.Size {
			p.setLink(uint16(b.link.channel.Load()), nil)
		}
		b.link.channel.Store(uint32(f.Size))
		p.setLink(f.Size, b.link)
	case wire.RelayWaiting:
		if b.link != nil { // the relay has forgotten us, and the other side has not asked again
			b.try = retry{at: now + relayRetry<<2}
		}
	case wire.RelayRefused:
		delete(p.relay.binds, f.Session)
		if b.link == nil {
			b.err = ErrRelayRefused
			close(b.done)
		} else {
			p.setLink(uint16(b.link.channel.Load()), nil)
		}
	}
	p.e.timers.plan(&p.timed, now)
}

// setLink puts a link into the table that receiving looks into, nil takes it
// out. The caller holds mu.
func (p *Pipe) setLink(channel uint16, l *relayLink) {
	links := map[uint16]*relayLink{}
	if old := p.relay.links.Load(); old != nil {
		for c, l := range *old {
			links[c] = l
		}
	}
	if l == nil {
		delete(links, channel)
	} else {
		links[channel] = l
	}
	p.relay.links.Store(&links)
}

// tell sends one control frame on the best path.
func (p *Pipe) tell(f wire.Frame) {
	p.mu.Lock()
	if p.state != stateClosed {
		p.queue(p.sealing(), p.paths.best.Load(), f)
	}
	p.unlock()
}

// receiveRelay opens a run of RELAY datagrams: those from a relay are
// datagrams of other pipes and go the way of all, the others are to be
// forwarded.
func (e *Endpoint) receiveRelay(kp *keypair, at Path, run []byte, seg int) {
	s := scratchPool.Get().(*scratch)
	defer scratchPool.Put(s)
	f := forwarder{e: e}
	defer f.flush()
	for b := run; len(b) > 0; {
		d := b[:min(seg, len(b))]
		b = b[len(d):]
		count := &e.drops
		if p := kp.pipe.Load(); p != nil {
			count = &p.drops
		}
		h, _, ok := wire.ParseHeader(d)
		if !ok {
			count.count(DropMalformed)
			continue
		}
		plain, ok := kp.open(s.buf[:0], d, h.Counter, &s.nonce)
		if !ok {
			count.count(DropAuth)
			if p := kp.pipe.Load(); p != nil && kp.failed.Load() >= e.limits.integrity {
				p.broken(kp)
			}
			continue
		}
		newest := kp.newest(h.Counter)
		if !kp.accept(h.Counter, false) {
			count.count(DropReplay)
			if p := kp.pipe.Load(); p != nil {
				p.lateCopy(kp, at, h.Counter)
			}
			continue
		}
		p := e.pipeOf(kp)
		if p == nil {
			count.count(DropIndex)
			continue
		}
		now := e.now()
		p.heardRelay(kp, at, newest, len(d), now)
		if len(plain) < wire.RelayHeaderLen+wire.MinLen || plain[wire.RelayHeaderLen] == wire.TypeRelay {
			p.drops.count(DropMalformed)
			continue
		}
		channel, inner := binary.BigEndian.Uint16(plain), plain[wire.RelayHeaderLen:]
		if channel&wire.FromRelay == 0 {
			f.forward(p, channel, inner, now)
			continue
		}
		var l *relayLink
		if links := p.relay.links.Load(); links != nil {
			l = (*links)[channel&wire.MaxChannel]
		}
		if l == nil {
			p.drops.count(DropChannel)
			continue
		}
		l.used.Store(now)
		e.Receive(l, relayRemote, inner, len(inner))
	}
}

// heardRelay notes an authenticated RELAY datagram of n bytes, without the
// pipe's lock where nothing is to be decided.
func (p *Pipe) heardRelay(kp *keypair, at Path, newest bool, n int, now int64) {
	p.traffic.packetsIn.Add(1)
	p.traffic.bytesIn.Add(uint64(n))
	p.life.data.Store(now)
	t := p.find(at.Local, at.Remote)
	if t == nil || !t.validated.Load() || !kp.confirmed.Load() || p.life.alert.Load() || t.fresh.Load() {
		p.mu.Lock()
		p.authenticated(kp, at, newest, n, now)
		p.unlock()
		return
	}
	p.life.heard.Store(now)
	p.life.awaiting.Store(0)
	t.heardUnder(kp, now)
}
