package establish

import (
	"bytes"
	"context"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/offers"
)

// TestLateCandidatesSealed: only the peer's message of this session opens,
// whole, and no other side's.
func TestLateCandidatesSealed(t *testing.T) {
	var list []wire.Candidate
	for i := range 2 * wire.MaxCandidates {
		list = append(list, wire.Candidate{Type: wire.ServerReflexive, Priority: uint32(i), Foundation: "f",
			Addr: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(2000+i))})
	}
	session := [16]byte{7}
	from, back := lateKeys("one password", "the other", session)
	msg := sealCandidates(from, session, list)
	if got, err := openCandidates(from, msg); err != nil || !slices.Equal(got, list[:wire.MaxCandidates]) {
		t.Errorf("opened %v, %v", got, err)
	}
	if bytes.Contains(msg, list[0].Append(nil)) {
		t.Error("a candidate can be read")
	}
	for i := range msg {
		bad := slices.Clone(msg)
		bad[i] ^= 0x10
		if _, err := openCandidates(from, bad); err == nil {
			t.Errorf("opens with byte %d changed", i)
		}
		if _, err := openCandidates(from, msg[:i]); err == nil {
			t.Errorf("opens cut to %d bytes", i)
		}
	}
	if _, err := openCandidates(back, msg); err == nil {
		t.Error("opens as the other side's")
	}
	for what, pair := range map[string][2]string{"swapped": {"the other", "one password"}, "another's": {"one password", "a third"}} {
		if k, _ := lateKeys(pair[0], pair[1], session); k != nil {
			if _, err := openCandidates(k, msg); err == nil {
				t.Errorf("opens with passwords %s", what)
			}
		}
	}
	if k, _ := lateKeys("one password", "the other", [16]byte{8}); k != nil {
		if _, err := openCandidates(k, msg); err == nil {
			t.Error("opens in another session")
		}
	}
}

// candidate is one of p's, beside its host candidate.
func candidate(p *peer, kind wire.CandidateType, port uint16) wire.Candidate {
	return wire.Candidate{Type: kind, Addr: netip.AddrPortFrom(netip.MustParseAddr("198.51.100.7"), port), Foundation: "x", Priority: uint32(port)}
}

// change gives p other candidates and tells it so.
func (p *peer) change(more ...wire.Candidate) {
	p.mu.Lock()
	p.candidates = append(slices.Clone(p.candidates), more...)
	p.mu.Unlock()
	p.CandidatesChanged()
}

// TestLateCandidatesOfStrangers: messages for no session here change nothing.
func TestLateCandidatesOfStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		small, large := l.add("small", AnyPath, script{never: true}), l.add("large", AnyPath, script{never: true})
		messages := [][]byte{{lateTag}, make([]byte, lateHead), append([]byte{lateTag}, make([]byte, 100)...)}
		for when := range 3 {
			for _, msg := range messages {
				if err := small.takeLate(large.cfg.Self, msg); err == nil {
					t.Errorf("%d bytes were taken", len(msg))
				}
				if a := small.Offered(offers.Request{From: large.cfg.Self, Offer: append([]byte{lateTag}, msg...)}, large.cfg.Self); a.Status != offers.NotHere {
					t.Errorf("answered with status %d", a.Status)
				}
			}
			switch when {
			case 0: // none is under way; then one is, first without a session
				go func() { _, _ = small.Connect(t.Context(), large.cfg.Self) }()
				synctest.Wait()
			case 1:
				l.sleep(200 * ms)
			}
		}
		if a := small.agent(0); len(a.added) > 0 {
			t.Errorf("candidates %v", a.added)
		}
	})
}

// TestLateCandidates: what becomes known while the checks run is told, once, and
// checked; what a TURN server lends by those that lead through servers.
func TestLateCandidates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		small := l.add("small", AnyPath, script{never: true, turnIdle: true})
		large := l.add("large", AnyPath, script{never: true, turnIdle: true})
		go func() { _, _ = small.Connect(t.Context(), large.cfg.Self) }()
		// Before the answer: told as soon as there is a session.
		l.sleep(60 * ms)
		mapped, lent, back := candidate(small, wire.ServerReflexive, 1), candidate(small, wire.Relayed, 2), candidate(large, wire.ServerReflexive, 3)
		small.change(mapped)
		l.sleep(140 * ms)
		small.change(lent)
		small.CandidatesChanged()
		large.change(back)
		l.sleep(time.Second)
		one, other := small.agent(0), large.agent(0)
		if !slices.Equal(other.added, []wire.Candidate{mapped}) || !slices.Equal(one.added, []wire.Candidate{back}) {
			t.Errorf("added %v and %v", other.added, one.added)
		}
		// Each side's pairs: of what came late here, and of what the peer told.
		if one.turnAdded != 1+1+1 || other.turnAdded != 1+1+1 {
			t.Errorf("%d and %d candidates for pairs through servers", one.turnAdded, other.turnAdded)
		}
		if len(small.told) != 2 || len(large.told) != 1 {
			t.Errorf("told %v and %v", small.told, large.told)
		}
		l.lasting()
		small.change(candidate(small, wire.Host, 4))
		l.sleep(time.Second)
		if len(small.told) != 2 {
			t.Error("told when there was nobody to tell")
		}
	})
}

// TestLateCandidatesRepeated: they are sent again while the peer does not know the
// session, five times at most.
func TestLateCandidatesRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		small, large := l.add("small", AnyPath, script{never: true}), l.add("large", AnyPath, script{never: true})
		// The responder tells before its answer has arrived.
		large.mu.Lock()
		large.candidates = append(large.candidates, candidate(large, wire.ServerReflexive, 1))
		large.mu.Unlock()
		agents := large.newAgent
		large.cfg.NewAgent = func(turn, silent bool) (Agent, error) {
			a, err := agents(turn, silent)
			a.(*agent).candidates = a.(*agent).candidates[:1]
			return a, err
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _, _ = small.Connect(ctx, large.cfg.Self) }()
		l.sleep(time.Second)
		if len(large.told) == 0 || large.told[len(large.told)-1] != nil || len(small.agent(0).added) != 1 {
			t.Errorf("told %v, added %v", large.told, small.agent(0).added)
		}
		cancel()
		small.cancelAll()
		large.change(candidate(large, wire.ServerReflexive, 2))
		synctest.Wait()
		large.mu.Lock()
		before := len(large.told)
		large.mu.Unlock()
		l.sleep(3 * time.Second)
		if n := len(large.told) - before; n != tellTries {
			t.Errorf("%d messages to somebody who has no session", n)
		}
	})
}

// cancelAll ends p's establishments.
func (p *peer) cancelAll() {
	p.Establisher.mu.Lock()
	defer p.Establisher.mu.Unlock()
	for _, e := range p.byPeer {
		e.cancel(errSuperseded)
	}
}

// TestLateCandidatesHidden: who names no addresses tells none but those that a
// server lends, and checks none.
func TestLateCandidatesHidden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		small := l.add("small", RelayOnly, script{turn: time.Hour})
		large := l.add("large", AnyPath, script{never: true, turn: time.Hour})
		small.candidates = append(small.candidates, candidate(small, wire.Relayed, 9))
		go func() { _, _ = small.Connect(t.Context(), large.cfg.Self) }()
		l.sleep(200 * ms)
		lent := candidate(small, wire.Relayed, 2)
		small.change(candidate(small, wire.ServerReflexive, 1), lent)
		large.change(candidate(large, wire.ServerReflexive, 3))
		l.sleep(200 * ms)
		one, other := small.agent(0), large.agent(0)
		if len(one.added) > 0 || len(other.added) > 0 || other.turnAdded == 0 || !one.silent {
			t.Errorf("added %v and %v", one.added, other.added)
		}
		for _, c := range other.remote.Candidates {
			if c.Type != wire.Relayed {
				t.Errorf("the offer names %v", c)
			}
		}
	})
}
