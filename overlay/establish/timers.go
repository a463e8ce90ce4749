package establish

import (
	"time"

	"github.com/idloc/idloc/overlay/offers"
)

// timer names one of the times of an establishment.
type timer uint8

const (
	settleOffer timer = iota
	settleAnswer
	answerBy
	yieldFor
	turnStart
	relayStart
	relayStartRevived
	relayStartTURN
	checkFor
	guessStart
	stallFor
	openFor
	confirmFor
	confirmAnswered
	standbyFirst
	standbyLast
	turnGrace
	tellAgain
	improveFirst
	improveMax
	improveCarried
	timers // how many there are
)

// A row of the table says how long a timer runs, in which states it does (it waits
// in others), what happens when it ends, and why it is as long as it is. A row
// without states bounds, or is, a wait of a goroutine beside the owner; answerBy
// does so in offering, openFor in searching.
type row struct {
	after time.Duration
	in    states
	then  string
	why   string
}

// table holds all times of this package.
var table = [timers]row{
	settleOffer: {time.Second, in(settling), "the offer is made",
		"after a change of the network nobody may be connected to hand an offer to, and the addresses seen from outside are not known: one that goes out too early fails, or names addresses that are gone"},
	settleAnswer: {300 * time.Millisecond, in(settling), "the answer is made",
		"the same for an answer, for which somebody waits"},
	answerBy: {8 * time.Second, in(yielding), "the offer is given up, and the establishment fails",
		"a Dial to a dead peer fails within ten seconds; settleOffer and offers.Patience fit into it"},
	yieldFor: {2 * time.Second, in(yielding), "our next offer may go",
		"the peer's offer that stands instead of ours is on its way, and may be lost (DESIGN §14.7)"},
	turnStart: {100 * time.Millisecond, in(checking), "pairs through TURN servers are checked",
		"direct checks come first; shorter than relayStart because the user has named the servers, and they spare members"},
	relayStart: {200 * time.Millisecond, in(checking), "members are asked to relay",
		"checks have a head start, as RFC 8305 §5 gives the better address family one: it is more than most pairs need"},
	relayStartRevived: {100 * time.Millisecond, in(checking), "members are asked to relay",
		"the same where there is a pipe that carries nothing: somebody's data stands still"},
	relayStartTURN: {300 * time.Millisecond, in(checking), "members are asked to relay",
		"the same from when pairs through TURN servers are checked: they go before members"},
	checkFor: {5 * time.Second, 0, "the connectivity checks fail",
		"retransmissions of RFC 8445 §14.3 have come to an end by then"},
	guessStart: {time.Second, in(checking, confirming, searching), "ports are guessed, if a pipe carries data meanwhile",
		"five checks of each pair have gone by; ten seconds of 100 guesses a second are left then"},
	stallFor: {3 * time.Second, in(checking), "whoever dials makes an offer beside the peer's that is answered",
		"a peer that lives has got the answer by then, and a relay stands; one that was started anew since its offer will never use it"},
	openFor: {12 * time.Second, in(checking, confirming), "the establishment fails",
		"a peer that has answered is worth waiting for while relays are connected to; also the bound of those that go on beside the pipe"},
	confirmFor: {3 * time.Second, in(confirming), "the path counts as failed",
		"the initiator repeats CONFIRM from 200 ms on, doubling: five have gone by then"},
	confirmAnswered: {offers.Patience, in(confirming), "the path counts as failed",
		"a responder's answer may be lost on the way and be asked for once more, for as long as an offer is repeated"},
	standbyFirst: {200 * time.Millisecond, in(checking, confirming, searching, lingering), "pairs that the checks have found become standby paths",
		"most that work have been answered by then"},
	standbyLast: {800 * time.Millisecond, in(checking, confirming, searching, lingering), "the last of them do, and the agent ends",
		"a peer whose last response was lost gets another"},
	turnGrace: {time.Second, in(lingering), "checks through TURN servers are answered no more",
		"the same for them, from when the search is over"},
	tellAgain: {100 * time.Millisecond, 0, "late candidates are sent again",
		"the peer may not have our answer yet, which they belong to"},
	improveFirst: {10 * time.Second, 0, "a direct path is looked for",
		"what kept the relayed pipe's checks from working may be over"},
	improveMax: {5 * time.Minute, 0, "a direct path is looked for",
		"improveFirst doubles up to this: some pairs never have one"},
	improveCarried: {10 * time.Second, 0, "a direct path is looked for instead of a carrier",
		"networks that let no UDP out are left: a host moves, a guest logs in; and TCP in TCP is worth leaving"},
}

// Bounds that are no times.
const (
	respondMax = 256 // establishments that others have begun here
	// respondPerAccount is how many of them members of one account have begun: one token
	// makes any number of keys, and must not keep all others from coming in.
	respondPerAccount = respondMax / 4
	recentMax         = 512 // offers remembered that may come once more, and the answers to them
	standbyMax        = 3   // paths beside the first
	tellTries         = 5
	renewWidth        = 16    // peers at a time for which paths are looked for anew
	maxMTU            = 65507 // the largest UDP payload that a socket takes
)

// alarms are the timers of one establishment that run, and one clock for the next
// of them. Its owner uses it.
type alarms struct {
	clock *time.Timer
	due   [timers]time.Time // zero: it does not run
	after func(timer) time.Duration
}

func newAlarms(after func(timer) time.Duration) alarms {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return alarms{clock: t, after: after}
}

// set starts a timer, anew if it runs.
func (a *alarms) set(t timer) { a.due[t] = time.Now().Add(a.after(t)) }

func (a *alarms) stop(ts ...timer) {
	for _, t := range ts {
		a.due[t] = time.Time{}
	}
}

// next sets the clock for the timer that ends first in a state. One that ended
// while it had to wait ends now.
func (a *alarms) next(s state) {
	var first time.Time
	for t, at := range a.due {
		if !at.IsZero() && table[t].in.has(s) && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	if first.IsZero() {
		a.clock.Stop()
	} else {
		a.clock.Reset(time.Until(first))
	}
}

// expired returns a timer that has ended in a state, and stops it.
func (a *alarms) expired(s state) (timer, bool) {
	now := time.Now()
	for t, at := range a.due {
		if !at.IsZero() && table[t].in.has(s) && !at.After(now) {
			a.due[t] = time.Time{}
			return timer(t), true
		}
	}
	return 0, false
}
