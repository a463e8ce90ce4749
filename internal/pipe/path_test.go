package pipe

import (
	"math"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/wire"
)

// The numbers of doc.go.
func TestConstants(t *testing.T) {
	const s, ms = int64(time.Second), int64(time.Millisecond)
	for _, c := range []struct {
		name      string
		got, want int64
	}{
		{"maxPaths", maxPaths, 8}, {"maxUnvalidated", maxUnvalidated, 3}, {"challengeTries", challengeTries, 5}, {"challengeLen", challengeLen, 33},
		{"amplification", amplification, 3}, {"initialRTT", int64(initialRTT), 200 * ms}, {"betterRTTAtLeast", int64(betterRTTAtLeast), 5 * ms},
		{"elsewhereAfter", elsewhereAfter, 150 * ms}, {"elsewhereRTTs", elsewhereRTTs, 2}, {"askAtLeast", askAtLeast, 20 * ms},
		{"rejectAfterPackets", rejectAfterPackets, 1 << 28}, {"rekeyAfter", rekeyAfter, 120 * s}, {"rekeyAfterResponder", rekeyAfterResponder, 135 * s},
		{"rejectAfter", rejectAfter, 180 * s}, {"retireAfter", retireAfter, 10 * s}, {"maxRetired", maxRetired, 8}, {"halfOpenFor", halfOpenFor, 45 * s},
		{"consentFor", consentFor, 30 * s}, {"keepaliveAfter", keepaliveAfter, 15 * s}, {"defaultIdle", int64(defaultIdle), 300 * s},
		{"kemEvery", kemEvery, 8}, {"rekeyPause", rekeyPause, 10 * s}, {"forceAfter", forceAfter, 150 * s}, {"maxRekeys", maxRekeys, 1<<32 - 1},
		{"deadAfter", deadAfter, 500 * ms}, {"deadRTTs", deadRTTs, 3}, {"probeFor", probeFor, 500 * ms}, {"probeRTTs", probeRTTs, 2},
		{"suspectFor", suspectFor, 150 * ms}, {"wantedFor", wantedFor, 10 * s}, {"flowStopped", flowStopped, 300 * ms}, {"flowPackets", flowPackets, 16},
		{"silentEvery", silentEvery, s}, {"pingEvery", pingEvery, 3 * s}, {"measureEvery", measureEvery, s},
		{"probeTries", probeTries, 3}, {"searchAgain", searchAgain, 600 * s}, {"checkEvery", checkEvery, 2500 * ms}, {"probeWait", probeWait, 250 * ms},
		{"ethernetSteps", ethernetSteps, 7}, {"defaultMTU", defaultMTU, 65507}, {"maxBatch", maxBatch, 65507}, {"maxSegments", maxSegments, 64},
		{"keepAgain", keepAgain, 8}, {"overdue", overdue, 100 * ms}, {"overdueRTTs", overdueRTTs, 2}, {"earlyDatagrams", earlyDatagrams, 64}, {"earlyBytes", earlyBytes, 262144},
		{"maxPending", maxPending, 4}, {"maxPieces", maxPieces, 128}, {"reassembleFor", reassembleFor, s}, {"maxReplies", maxReplies, 16}, {"maxPings", maxPings, 64},
		{"closeOther", int64(closeOther), 0}, {"closeIdle", int64(closeIdle), 1}, {"closeEnded", int64(closeEnded), 2}, {"closeExpelled", int64(closeExpelled), 3}, {"closeDelivered", int64(closeDelivered), 4},
		{"farewellFirst", farewellFirst, 50 * ms}, {"farewellFor", farewellFor, s}, {"farewellRTTs", farewellRTTs, 3}, {"farewellMost", farewellMost, 3 * s}, {"maxFarewells", maxFarewells, 4096}, {"maxStarts", maxStarts, 8192},
		{"maxHalfOpen", maxHalfOpen, 256}, {"maxHalfOpenPerPeer", maxHalfOpenPerPeer, 4}, {"maxCached", maxCached, 1024}, {"maxInitiators", maxInitiators, 4096},
		{"offersPerSecond", offersPerSecond, 20}, {"offersBurst", offersBurst, 5}, {"maxSeen", maxSeen, 16}, {"clockTolerance", int64(clockTolerance), 600_000_000},
		{"relayLease", relayLease, 60 * s}, {"relayPerMember", relayPerMember, 64}, {"relayPerAccount", relayPerAccount, 512}, {"relayTotal", relayTotal, 4096}, {"relayRate", relayRate, 8 << 20},
		{"relayBurst", int64(relayBurst), 250 * ms}, {"relayAccount", relayAccount, 4}, {"relayRefresh", relayRefresh, 20 * s}, {"relayIdle", relayIdle, 45 * s},
		{"relayGrace", relayGrace, 10 * s}, {"relayRetry", relayRetry, 100 * ms}, {"maxBinds", maxBinds, 256}, {"maxLent", maxLent, 16}, {"minTable", minTable, 16},
		{"nonceLen", nonceLen, 12}, {"recordRead", recordRead, 1}, {"recordConfirmed", recordConfirmed, 2}, {"recordHead", recordHead, 41}, {"compactAfter", compactAfter, 8192},
	} {
		if c.got != c.want {
			t.Errorf("%s is %d, not %d", c.name, c.got, c.want)
		}
	}
	if betterRTT != 0.7 || mtuSteps != [...]int{1200, 1280, 1352, 1392, 1420, 1452, 1472, 8848, 8972, 16332, 65472} {
		t.Error("betterRTT or mtuSteps changed")
	}
	for i, name := range []string{"unknown", "malformed", "unknown index", "authentication failed", "replay", "keys expired", "no path", "write failed",
		"fragment", "unknown source", "pipe closed", "unknown channel", "relay quota", "too many rekeys", "false acknowledgement", "unknown"} {
		if got := DropReason(i).String(); got != name && !(i == 0 && got == "") {
			t.Errorf("reason %d is %q", i, got)
		}
	}
}

// RFC 6298 §2: the first measurement, and then a quarter and an eighth of each.
func TestSample(t *testing.T) {
	var p path
	const ms = time.Millisecond
	for i, c := range []struct{ rtt, srtt, rttvar time.Duration }{
		{80 * ms, 80 * ms, 40 * ms},
		{160 * ms, 90 * ms, 50 * ms},
		{90 * ms, 90 * ms, 37500 * time.Microsecond},
		{10 * ms, 80 * ms, 48125 * time.Microsecond}, // below the mean counts as much as above
	} {
		p.sample(c.rtt)
		if p.srtt != c.srtt || p.rttvar != c.rttvar {
			t.Errorf("after %d: %v ± %v, want %v ± %v", i+1, p.srtt, p.rttvar, c.srtt, c.rttvar)
		}
	}
}

// testPath is a path that was heard at at.
func testPath(at int64, f func(*path)) *path {
	p := &path{}
	p.heard.Store(at)
	p.validated.Store(true)
	if f != nil {
		f(p)
	}
	return p
}

// Each criterion by itself, from both sides, and before all that come after it.
func TestBetter(t *testing.T) {
	const now = int64(100 * time.Second)
	const ms = time.Millisecond
	rtt := func(d time.Duration) func(*path) { return func(p *path) { p.srtt = d } }
	worst := func(p *path) { p.srtt = 500 * ms }
	for _, c := range []struct {
		what string
		bad  func(*path) // loses to a path that is all else but this
		good func(*path)
	}{
		{"failed", func(p *path) { p.doubt = now; p.srtt = ms }, func(p *path) { worst(p); p.validated.Store(false); p.stranger = true; p.relayed.Store(true) }},
		{"not validated", func(p *path) { p.validated.Store(false); p.srtt = ms }, func(p *path) { worst(p); p.stranger = true; p.relayed.Store(true) }},
		{"a stranger", func(p *path) { p.stranger = true; p.srtt = ms }, func(p *path) { worst(p); p.relayed.Store(true) }},
		{"relayed", func(p *path) { p.relayed.Store(true); p.srtt = ms }, worst},
		{"slower", rtt(100 * ms), rtt(69 * ms)},
		{"slower by 5 ms and 30 %", rtt(10 * ms), rtt(4 * ms)},
	} {
		bad, good := testPath(now-1, c.bad), testPath(now-1, c.good)
		if !good.better(bad, now) || bad.better(good, now) {
			t.Errorf("%s: good is better %v, bad is better %v", c.what, good.better(bad, now), bad.better(good, now))
		}
	}
	for what, c := range map[string]struct{ t, best time.Duration }{
		"alike": {50 * ms, 50 * ms}, "30 %, not more": {70 * ms, 100 * ms}, "5 ms, not more": {5 * ms, 10 * ms}, "30 %, but less than 5 ms": {8 * ms, 12 * ms},
		"not measured": {0, 100 * ms}, "neither measured": {0, 0}, "the present one not measured": {ms, 0},
	} {
		if testPath(now-1, rtt(c.t)).better(testPath(now-1, rtt(c.best)), now) {
			t.Errorf("%s: %v is better than %v", what, c.t, c.best)
		}
	}
	for heard, want := range map[int64]bool{now - int64(5*time.Second): false, now - int64(5*time.Second) + 1: true} {
		if testPath(heard, rtt(ms)).better(testPath(now-1, rtt(100*ms)), now) != want {
			t.Errorf("heard %v ago: %v", time.Duration(now-heard), !want)
		}
	}
	two := func(p *path) { p.stranger = true }
	if testPath(now-1, func(p *path) { two(p); p.srtt = ms }).better(testPath(now-1, func(p *path) { two(p); p.srtt = 100 * ms }), now) {
		t.Error("of two strangers the faster takes over")
	}
}

// Consent and doubt, both sides of each.
func TestLive(t *testing.T) {
	const now = int64(100 * time.Second)
	for heard, want := range map[int64]bool{0: false, 1: false, now: true, now - consentFor: false, now - consentFor + 1: true} {
		if testPath(heard, nil).live(now) != want {
			t.Errorf("heard at %d: live %v", heard, !want)
		}
	}
	if testPath(0, nil).live(1) {
		t.Error("a path that was never heard is live in the first seconds")
	}
	for doubt, want := range map[int64]bool{0: false, 99: false, 100: true, 101: true} {
		p := testPath(100, func(p *path) { p.doubt = doubt })
		if p.doubted() != want {
			t.Errorf("doubt at %d, heard at 100: %v", doubt, !want)
		}
	}
}

func TestEarlier(t *testing.T) {
	for _, c := range [][3]int64{{0, 0, 0}, {0, 5, 5}, {5, 0, 5}, {4, 5, 4}, {5, 4, 4}, {5, 5, 5}} {
		if got := earlier(c[0], c[1]); got != c[2] {
			t.Errorf("earlier(%d, %d) = %d", c[0], c[1], got)
		}
	}
}

// withPaths is a pipe with paths of our own making, and its endpoint's clock.
func withPaths(t *testing.T, f func(p *Pipe, add func(f func(*path)) *path)) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(10 * time.Millisecond)
		h := newHost(t, n, 1, "192.0.2.1:1000")
		time.Sleep(100 * time.Second)
		p := newPipe(h.Endpoint, [32]byte{9})
		p.mu.Lock()
		defer p.mu.Unlock()
		defer func() { p.outbox = outbox{} }() // the timers may be waiting for p
		port := uint16(0)
		f(p, func(f func(*path)) *path {
			port++
			made := p.newPath(Path{h.s, netip.AddrPortFrom(netip.MustParseAddr("192.0.2.2"), port)}, h.now())
			if made != nil {
				made.heard.Store(h.now())
				made.validated.Store(true)
				if f != nil {
					f(made)
				}
			}
			return made
		})
	})
}

// Eight paths, and then the one goes that was heard longest ago, strangers first,
// and never the one in use.
func TestEvict(t *testing.T) {
	withPaths(t, func(p *Pipe, add func(func(*path)) *path) {
		var all []*path
		for i := range 8 {
			all = append(all, add(func(t *path) { t.heard.Store(int64(1000 + i)) }))
		}
		p.paths.best.Store(all[0]) // heard longest ago, but in use
		all[6].stranger, all[5].stranger = true, true
		for i, want := range []*path{all[5], all[6], all[1], all[2]} {
			if fresh := add(func(t *path) { t.heard.Store(int64(5000 + i)) }); fresh == nil || len(*p.paths.list.Load()) != maxPaths {
				t.Fatalf("no room for path %d", i)
			}
			for _, have := range *p.paths.list.Load() {
				if have == want {
					t.Errorf("the wrong one went in round %d", i)
				}
			}
		}
		if p.paths.best.Load() != all[0] || p.find(all[0].Local, all[0].Remote) != all[0] {
			t.Error("the path in use went")
		}
	})
	withPaths(t, func(p *Pipe, _ func(func(*path)) *path) {
		if p.evict() {
			t.Error("a path went where there is none")
		}
	})
}

// A path that is removed takes its pings along, and is not in use any more.
func TestRemovePath(t *testing.T) {
	withPaths(t, func(p *Pipe, add func(func(*path)) *path) {
		a, b := add(nil), add(nil)
		p.paths.best.Store(a)
		p.paths.pings = map[uint64]*ping{1: {path: a}, 2: {path: b}}
		p.removePath(a)
		if p.paths.best.Load() != nil || len(p.paths.pings) != 1 || p.paths.pings[2] == nil || len(*p.paths.list.Load()) != 1 {
			t.Error("something of it is left")
		}
		p.paths.best.Store(b)
		p.removePath(a)
		if p.paths.best.Load() != b {
			t.Error("another went")
		}
	})
}

// Without a path in use the first that lives is taken, and one that has lost
// consent is left, whatever else there is.
func TestChoose(t *testing.T) {
	withPaths(t, func(p *Pipe, add func(func(*path)) *path) {
		now := p.e.now()
		p.choose(now)
		if p.paths.best.Load() != nil {
			t.Error("a path out of nothing")
		}
		dead := add(func(t *path) { t.heard.Store(now - consentFor) })
		p.choose(now)
		if p.paths.best.Load() != nil {
			t.Error("a path without consent takes data")
		}
		a := add(func(t *path) { t.srtt = 100 * time.Millisecond })
		if p.choose(now); p.paths.best.Load() != a || p.moved() != now {
			t.Errorf("not the one that lives, moved at %d", p.moved())
		}
		b := add(func(t *path) { t.srtt = 10 * time.Millisecond })
		if p.choose(now); p.paths.best.Load() != b || len(p.outbox.calls) != 1 {
			t.Errorf("not the faster one, %d calls", len(p.outbox.calls))
		}
		if p.choose(now); p.paths.best.Load() != b || len(p.outbox.calls) != 1 {
			t.Error("moved for nothing")
		}
		b.heard.Store(now - consentFor)
		if p.choose(now); p.paths.best.Load() != a {
			t.Error("stayed without consent")
		}
		a.heard.Store(now - consentFor)
		if p.choose(now); p.paths.best.Load() != nil {
			t.Error("stayed on nothing")
		}
		_ = dead
	})
}

// Data moves to a path that checks have found when the peer is first heard there, if
// the present one was silent since; from none it moves by choose alone.
func TestFollowPeer(t *testing.T) {
	withPaths(t, func(p *Pipe, add func(func(*path)) *path) {
		now := p.e.now()
		found := add(func(t *path) { t.fresh.Store(true) })
		if p.followPeer(found, now); found.fresh.Load() || p.paths.best.Load() != nil {
			t.Error("moved from no path")
		}
		old := add(nil)
		p.switchTo(old)
		for heard, want := range map[int64]*path{found.created - 1: found, found.created: found, found.created + 1: old} {
			p.switchTo(old)
			old.heard.Store(heard)
			old.doubt = 0
			if p.followPeer(found, now); p.paths.best.Load() != want || (old.doubt == now) != (want == found) {
				t.Errorf("heard %d ns after it was found: moved: %v, doubt %d", heard-found.created, want == old, old.doubt)
			}
		}
		relayed := add(func(t *path) { t.relayed.Store(true) })
		p.switchTo(old)
		old.heard.Store(relayed.created)
		if p.followPeer(relayed, now); p.paths.best.Load() != old {
			t.Error("moved to a relay")
		}
		old.doubt = 0
		if p.followPeer(old, now); p.paths.best.Load() != old || old.doubt == now {
			t.Error("moved to where it was")
		}
	})
}

// A key of ours that the peer has not used is asked about again, with doubling pauses,
// until it has, or the key is too old.
func TestRepeatConfirms(t *testing.T) {
	withPaths(t, func(p *Pipe, add func(func(*path)) *path) {
		now := p.e.now()
		p.switchTo(add(nil))
		if next := p.repeatConfirms(now); next != 0 {
			t.Errorf("without a wish: %d", next)
		}
		k := &keypair{initiator: true, created: now}
		k.keys.Store(&aeads{})
		p.keys.all = append(p.keys.all, k)
		p.keys.confirm.at = now + 1
		if next := p.repeatConfirms(now); next != now+1 || len(p.outbox.datagrams) != 0 {
			t.Errorf("before its time: %d, %d datagrams", next-now, len(p.outbox.datagrams))
		}
		at := now + 1
		for i := range 7 {
			pause := int64(initialRTT) << min(i, 4)
			if next := p.repeatConfirms(at); next != at+pause || len(p.outbox.datagrams) != i+1 || p.life.awaiting.Load() != now+1 {
				t.Fatalf("time %d: again after %v, %d datagrams", i, time.Duration(next-at), len(p.outbox.datagrams))
			}
			at += pause
		}
		for what, end := range map[string]func(){
			"confirmed":    func() { k.confirmed.Store(true) },
			"the peer's":   func() { k.initiator = false },
			"as old as it": func() { k.created = at - rejectAfter },
		} {
			k.confirmed.Store(false)
			k.initiator, k.created, p.keys.confirm.at = true, at-rejectAfter+1, at
			if next := p.repeatConfirms(at); next <= at {
				t.Fatalf("%s: not asked before", what)
			}
			p.keys.confirm.at = at
			if end(); p.repeatConfirms(at) != 0 || p.keys.confirm != (retry{}) {
				t.Errorf("%s: it goes on", what)
			}
		}
	})
}

// What is no datagram with data is counted as such, and not looked for.
func TestOpenOfNoData(t *testing.T) {
	withPaths(t, func(p *Pipe, _ func(func(*path)) *path) {
		ctrl := make([]byte, wire.MinDataLen)
		ctrl[0] = wire.TypeCtrl
		for n, d := range [][]byte{nil, {wire.TypeData4}, ctrl} {
			if plain, err := p.Open(nil, d); plain != nil || err != error(DropMalformed) || p.drops[DropMalformed].Load() != uint64(n+1) {
				t.Errorf("%x: %v", d, err)
			}
		}
	})
}

func (p *Pipe) moved() int64 { return p.paths.moved }

// When the present path is doubted because the peer is heard on another only: each
// condition, both sides.
func TestSuspect(t *testing.T) {
	const ms = int64(time.Millisecond)
	for what, c := range map[string]struct {
		f    func(best, other *path, now int64)
		want bool
	}{
		"heard on the other only":       {func(*path, *path, int64) {}, true},
		"nothing was sent":              {func(best, _ *path, _ int64) { best.sent.Store(best.heard.Load()) }, false},
		"heard 150 ms ago":              {func(best, other *path, now int64) { best.heard.Store(now - 150*ms); other.heard.Store(now) }, false},
		"not for long enough":           {func(best, _ *path, now int64) { best.heard.Store(now - 150*ms + 1) }, false},
		"the other was heard too early": {func(best, other *path, _ int64) { other.heard.Store(best.heard.Load() + 150*ms) }, false},
		"the other just late enough":    {func(best, other *path, _ int64) { other.heard.Store(best.heard.Load() + 150*ms + 1) }, true},
		"the other is silent too":       {func(best, other *path, now int64) { best.heard.Store(now - 2000*ms); other.heard.Store(now - 500*ms) }, false},
		"the other not silent yet": {func(best, other *path, now int64) {
			best.heard.Store(now - 2000*ms)
			other.heard.Store(now - 500*ms + 1)
		}, true},
		"the other not validated":   {func(_, other *path, _ int64) { other.validated.Store(false) }, false},
		"the other has failed":      {func(_, other *path, now int64) { other.doubt = now }, false},
		"a longer round trip":       {func(best, _ *path, _ int64) { best.srtt = 200 * time.Millisecond }, false},
		"a stranger, not asked yet": {func(_, other *path, _ int64) { other.stranger = true }, false},
	} {
		withPaths(t, func(p *Pipe, add func(func(*path)) *path) {
			now := p.e.now()
			best := add(func(t *path) {
				t.heard.Store(now - 400*ms)
				t.sent.Store(now)
				t.srtt = 10 * time.Millisecond
			})
			other := add(func(t *path) { t.heard.Store(now - 10*ms) })
			p.paths.best.Store(best)
			c.f(best, other, now)
			p.suspect(best, now)
			if (best.doubt == now) != c.want {
				t.Errorf("%s: doubted %v", what, !c.want)
			}
		})
	}
	// A stranger counts once the present path was asked, and had its time.
	withPaths(t, func(p *Pipe, add func(func(*path)) *path) {
		now := p.e.now()
		best := add(func(t *path) { t.heard.Store(now - 400*ms); t.sent.Store(now); t.srtt = 100 * time.Millisecond })
		add(func(t *path) { t.heard.Store(now); t.stranger = true })
		p.paths.best.Store(best)
		p.suspect(best, now)
		if best.asked != now || best.doubt != 0 {
			t.Errorf("asked at %d, doubted at %d", best.asked, best.doubt)
		}
		if p.suspect(best, now+125*ms-1); best.doubt != 0 || best.asked != now {
			t.Error("doubted before the answer could come")
		}
		if p.suspect(best, now+125*ms); best.doubt != now+125*ms {
			t.Error("not doubted when no answer came")
		}
	})
}

// How long a path has to show that it lives.
func TestAskFor(t *testing.T) {
	withPaths(t, func(p *Pipe, add func(func(*path)) *path) {
		if got := p.askFor(); got != int64(125*time.Millisecond) {
			t.Errorf("without a path %v", time.Duration(got))
		}
		best := add(nil)
		p.paths.best.Store(best)
		for rtt, want := range map[time.Duration]time.Duration{
			time.Millisecond: 20 * time.Millisecond, 16 * time.Millisecond: 20 * time.Millisecond, 40 * time.Millisecond: 50 * time.Millisecond,
		} {
			best.srtt = rtt
			if got := p.askFor(); got != int64(want) {
				t.Errorf("RTT %v: %v", rtt, time.Duration(got))
			}
		}
	})
}

// What may be sent on a path that is validated has no bound.
func TestValidate(t *testing.T) {
	withPaths(t, func(p *Pipe, add func(func(*path)) *path) {
		a := add(func(t *path) { t.validated.Store(false); t.try = retry{at: 5, tries: 2}; t.budget.Store(10) })
		p.validate(a, 77)
		if !a.validated.Load() || a.budget.Load() != math.MaxInt64 || a.try != (retry{}) || a.search.checked != 77 || a.search.try.at != 77 {
			t.Errorf("%+v", a.search)
		}
		a.search.checked = 5
		a.budget.Store(1)
		if p.validate(a, 99); a.search.checked != 5 || a.budget.Load() != 1 {
			t.Error("validated twice")
		}
	})
}

// What waits for a path is bounded by number and by bytes, the oldest goes first,
// and each that goes is counted.
func TestEarlyBounds(t *testing.T) {
	withPaths(t, func(p *Pipe, _ func(func(*path)) *path) {
		p.state = stateUp
		p.mu.Unlock()
		defer p.mu.Lock()
		wait := func(n, size int) {
			t.Helper()
			if !p.wait(make([]byte, n*size), size) {
				t.Error("nothing waits")
			}
			sum := 0
			for _, d := range p.paths.early.queue {
				sum += len(d)
			}
			if sum != p.paths.early.bytes {
				t.Errorf("%d bytes are counted as %d", sum, p.paths.early.bytes)
			}
		}
		wait(64, 10)
		if n := len(p.paths.early.queue); n != 64 || p.drops[DropNoPath].Load() != 0 {
			t.Errorf("%d wait", n)
		}
		wait(1, 7)
		if q := p.paths.early.queue; len(q) != 64 || len(q[63]) != 7 || p.drops[DropNoPath].Load() != 1 {
			t.Errorf("%d wait, %d went", len(q), p.drops[DropNoPath].Load())
		}
		wait(4, 65536)
		if q := p.paths.early.queue; len(q) != 4 || p.paths.early.bytes != 256<<10 {
			t.Errorf("%d wait, %d bytes", len(q), p.paths.early.bytes)
		}
		wait(1, 1)
		if q := p.paths.early.queue; len(q) != 4 || p.paths.early.bytes != 3*65536+1 {
			t.Errorf("%d wait, %d bytes", len(q), p.paths.early.bytes)
		}
		p.mu.Lock()
		p.state = stateSilent
		p.dropEarly()
		p.mu.Unlock()
		if len(p.paths.early.queue) != 0 || p.paths.early.bytes != 0 || p.drops[DropNoPath].Load() != 1+64+1+4 {
			t.Errorf("%d went", p.drops[DropNoPath].Load())
		}
		if p.wait([]byte{1}, 1) {
			t.Error("something waits for a silent peer")
		}
	})
}

// Pieces that are none are counted as such, and pieces that contradict as another
// kind.
func TestPieceDrops(t *testing.T) {
	withPaths(t, func(p *Pipe, _ func(func(*path)) *path) {
		k := &keypair{}
		if _, whole := p.piece(k, []byte{1, 2, 3}, 1); whole != nil || p.drops[DropMalformed].Load() != 1 || p.drops[DropFragment].Load() != 0 {
			t.Error("what is no piece")
		}
		more := append([]byte{0, 1, 0, 1}, make([]byte, 8)...)
		if _, whole := p.piece(k, more, 1); whole != nil || len(p.pieces.waiting) != 1 {
			t.Error("a first piece")
		}
		if _, whole := p.piece(k, more, 1); whole != nil || p.drops[DropFragment].Load() != 1 || len(p.pieces.waiting) != 0 {
			t.Error("the same piece again")
		}
		p.piece(k, more, 1)
		if next := p.expirePieces(1 + reassembleFor - 1); next != 1+reassembleFor || len(p.pieces.waiting) != 1 {
			t.Errorf("ends at %d", next)
		}
		if next := p.expirePieces(1 + reassembleFor); next != 0 || p.pieces.waiting != nil || p.drops[DropFragment].Load() != 2 {
			t.Errorf("after its time: %d", next)
		}
	})
}
