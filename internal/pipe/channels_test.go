package pipe

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/pipe/handshake"
	"github.com/idloc/idloc/internal/wire"
)

// sealingTest gives p keys that it seals under.
func (p *Pipe) sealingTest() *keypair {
	k := &keypair{sess: &Session{e: p.e, peer: p.peer}}
	if err := k.setKeys(&handshake.Secrets{}, wire.AES256GCM, true); err != nil {
		panic(err)
	}
	p.keys.cur, p.keys.sess, p.keys.all = k, k.sess, append(p.keys.all, k)
	return k
}

// What a relay says of a channel, and what becomes of it: each answer, to who waits for
// one and to who has one.
func TestChannelGiven(t *testing.T) {
	session := [16]byte{1}
	for what, c := range map[string]struct {
		has    uint16 // the channel before; 0: none
		flag   uint8
		size   uint16
		links  []uint16 // the channels after
		bound  bool     // the bind is kept
		err    error    // what who waits is told
		after  time.Duration
		untold bool // it goes on waiting
	}{
		"bound":           {0, wire.RelayBound, 7, []uint16{7}, true, nil, time.Duration(relayRefresh), false},
		"waiting":         {0, wire.RelayWaiting, 0, nil, true, nil, 0, true},
		"refused":         {0, wire.RelayRefused, 0, nil, false, ErrRelayRefused, 0, false},
		"bound again":     {7, wire.RelayBound, 7, []uint16{7}, true, nil, 0, false},
		"bound anew":      {7, wire.RelayBound, 9, []uint16{9}, true, nil, 0, false},
		"forgotten":       {7, wire.RelayWaiting, 0, []uint16{7}, true, nil, time.Duration(relayRetry << 2), false},
		"refused at last": {7, wire.RelayRefused, 0, nil, false, nil, 0, false},
	} {
		withPaths(t, func(p *Pipe, add func(func(*path)) *path) {
			p.paths.best.Store(add(nil))
			now := p.e.now()
			b := &bind{session: session, done: make(chan struct{})}
			p.relay.binds = map[[16]byte]*bind{session: b}
			if c.has != 0 {
				b.link = &relayLink{relay: p}
				b.link.channel.Store(uint32(c.has))
				p.setLink(c.has, b.link)
				close(b.done)
			}
			p.channelGiven(wire.Frame{Type: wire.FrameRelayChannel, Session: session, Flag: c.flag, Size: c.size}, now)
			var links []uint16
			if all := p.relay.links.Load(); all != nil {
				for channel, l := range *all {
					links = append(links, channel)
					if l != b.link || uint16(l.channel.Load()) != channel {
						t.Errorf("%s: channel %d leads to one that is %d", what, channel, l.channel.Load())
					}
				}
			}
			if len(links) != len(c.links) || len(links) > 0 && links[0] != c.links[0] {
				t.Errorf("%s: channels %v, want %v", what, links, c.links)
			}
			if (p.relay.binds[session] == b) != c.bound || b.err != c.err {
				t.Errorf("%s: bound %v, %v", what, !c.bound, b.err)
			}
			select {
			case <-b.done:
				if c.untold {
					t.Errorf("%s: who waits is told", what)
				}
			default:
				if !c.untold {
					t.Errorf("%s: nobody is told", what)
				}
			}
			want := int64(0)
			if c.after != 0 {
				want = now + int64(c.after)
			}
			if b.try.at != want {
				t.Errorf("%s: asked again after %v, want %v", what, time.Duration(b.try.at-now), c.after)
			}
		})
	}
	// Of sessions that nobody here wants, those that the peer lets go are passed on, so
	// many at a time.
	withPaths(t, func(p *Pipe, _ func(func(*path)) *path) {
		for i := range maxReplies + 3 {
			for _, flag := range []uint8{wire.RelayWaiting, wire.RelayBound, wire.RelayRefused} {
				p.channelGiven(wire.Frame{Session: [16]byte{byte(i)}, Flag: flag, Size: 3}, p.e.now())
			}
		}
		if n := len(p.outbox.released); n != maxReplies || p.relay.links.Load() != nil {
			t.Errorf("%d are let go of", n)
		}
	})
}

// When a channel is asked for, kept and let go of.
func TestRelayDue(t *testing.T) {
	const ms = int64(time.Millisecond)
	session := [16]byte{1}
	withPaths(t, func(p *Pipe, add func(func(*path)) *path) {
		p.paths.best.Store(add(nil))
		p.sealingTest()
		now := p.e.now()
		b := &bind{session: session, done: make(chan struct{}), try: retry{at: now}}
		p.relay.binds = map[[16]byte]*bind{session: b}
		asked := func() int { return len(p.outbox.datagrams) }
		at := now
		for i, pause := range []int64{100 * ms, 200 * ms, 400 * ms, 400 * ms} {
			if next := p.relayDue(at - 1); i > 0 && (next != at || asked() != i) {
				t.Errorf("asked %d times before time %d", asked(), i)
			}
			if next := p.relayDue(at); next != at+pause || asked() != i+1 {
				t.Errorf("time %d: next after %v, asked %d times", i, time.Duration(next-at), asked())
			}
			at += pause
		}
		b.link = &relayLink{relay: p}
		b.link.channel.Store(5)
		p.setLink(5, b.link)
		b.try = retry{at: at}
		b.link.used.Store(at)
		n := asked()
		if next := p.relayDue(at); next != at+relayRefresh || asked() != n+1 {
			t.Errorf("kept for %v", time.Duration(next-at))
		}
		if p.relayDue(at + relayIdle - 1); len(p.relay.binds) != 1 {
			t.Error("let go of before it was idle for long enough")
		}
		n = asked()
		if next := p.relayDue(at + relayIdle); next != 0 || len(p.relay.binds) != 0 || len(*p.relay.links.Load()) != 0 || asked() != n+1 {
			t.Errorf("not let go of, or nobody was told: %d, %d datagrams", len(p.relay.binds), asked()-n)
		}
		// One whose pipe has closed ends at its time, however much it is used, and is
		// asked for no more.
		p.relay.binds = map[[16]byte]*bind{session: b}
		b.try, n = retry{}, asked()
		b.link.used.Store(at)
		b.link.until.Store(at + 10)
		if next := p.relayDue(at + 9); next != at+10 || asked() != n || len(p.relay.binds) != 1 {
			t.Errorf("next after %d, %d asked", next-at, asked()-n)
		}
		if p.relayDue(at + 10); len(p.relay.binds) != 0 {
			t.Error("it goes on")
		}
	})
}

// A bucket of bytes: as much at once as a quarter of a second brings, and the rate
// from then on, whatever pauses there are.
func TestMeter(t *testing.T) {
	const s = int64(time.Second)
	m := newMeter(1<<20, 5*s)
	if m.burst != 1<<18 || newMeter(1<<10, 0).burst != 1<<16 {
		t.Errorf("bursts of %d and %d", m.burst, newMeter(1<<10, 0).burst)
	}
	now := 5 * s
	if !m.take(1<<18, now) || m.take(1, now) {
		t.Error("not a burst at first")
	}
	now += s / 8
	if m.take(1<<17+1, now) || !m.take(1<<17, now) || m.take(1, now) {
		t.Error("not what an eighth of a second brings")
	}
	now += 3600 * s
	if m.take(1<<18+1, now) || !m.take(1<<18, now) {
		t.Error("not one burst after an hour")
	}
}

// When a peer is asked whether it is able: three times soon, the first of them twice,
// and then ever more rarely; and what it is asked names the question.
func TestAskRepair(t *testing.T) {
	withPaths(t, func(p *Pipe, add func(func(*path)) *path) {
		best := add(nil)
		p.paths.best.Store(best)
		p.sealingTest()
		for _, rtt := range []time.Duration{10 * time.Millisecond, 300 * time.Millisecond} {
			best.srtt = rtt
			p.repair.question, p.outbox.datagrams = nil, nil
			at := p.e.now()
			slow := max(initialRTT, 2*rtt)
			for i, pause := range []time.Duration{20 * time.Millisecond, 20 * time.Millisecond, slow, 2 * slow, 4 * slow} {
				if next := p.askRepair(at); next != at+int64(pause) {
					t.Errorf("question %d: the next after %v, want %v", i, time.Duration(next-at), pause)
				}
				if next := p.askRepair(at + int64(pause) - 1); next != at+int64(pause) {
					t.Errorf("question %d: asked again too early", i)
				}
				if n := len(p.outbox.datagrams); n != i+2 {
					t.Errorf("%d datagrams for %d questions", n, i+1)
				}
				if last := p.outbox.datagrams[i+1].plain; last[len(last)-2] != byte(i) || p.repair.question.asked[i] != at {
					t.Errorf("question %d: % x", i, last)
				}
				at += int64(pause)
			}
		}
	})
}

// A pipe that is not up sends nothing in pieces, and says so; a message that no number
// of pieces carries is an error as well, and so is none.
func TestSendLargeRefused(t *testing.T) {
	withPaths(t, func(p *Pipe, add func(func(*path)) *path) {
		p.paths.best.Store(add(nil))
		plain := bytes.Repeat([]byte{17}, 5000)
		if err := p.SendLarge(false, plain, 0); !errors.Is(err, ErrNotUp) {
			t.Errorf("not up: %v", err)
		}
		k := p.sealingTest()
		for _, n := range []int{0, wire.MaxMessage + 1} {
			if err := p.sendPieces(k, nil, wire.FragData4, make([]byte, n), 0); !errors.Is(err, ErrTooLarge) {
				t.Errorf("%d bytes: %v", n, err)
			}
		}
	})
}
