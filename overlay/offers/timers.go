package offers

import "time"

// All times of this room, and why they are what they are. Each is stretched on a machine
// that is busy (Config.Stretch).
const (
	// wayTimeout is how long a connection has to bring an answer, and to be made: a
	// forwarder that waits for a target, whose connection may be dead, gives up in time
	// for the initiator to hear of it.
	wayTimeout = 2500 * time.Millisecond
	// roundTimeout bounds one try of all ways, so that two fit into a Dial's
	// ten seconds; a request that comes in is served for as long.
	roundTimeout = 5 * time.Second
	// Patience bounds all rounds of one offer, where there was nothing but
	// silence. A responder waits as long for its answer to arrive: it may be
	// lost on the way and be asked for once more.
	Patience = 7 * time.Second
	// stagger is when the next way is tried while one is quiet, and
	// staggerFirst when the second one is: the first member may have died
	// without a word.
	stagger      = 500 * time.Millisecond
	staggerFirst = 300 * time.Millisecond
	// directHead is how long members that are not connected have to wait, where the
	// target is: a handshake for each is much to do if its connection has only just
	// died, and half of suspectMin, package mesh, has gone by then.
	directHead = 1500 * time.Millisecond
	// staggerDead takes the place of both where the pipe to the target is
	// dead: its connection may be, too, and somebody's data stands still.
	staggerDead = 50 * time.Millisecond
	// resendPause is before a way is tried again whose connection has ended
	// under the offer: whoever comes in anew needs a moment.
	resendPause = 50 * time.Millisecond
)

// What bounds the effort for one offer, and for one member.
const (
	waysMax      = 8 // of one round
	othersMax    = 2 // members of other invitations, where the ways were all of one
	resends      = 4 // times that one way is tried whose connection ends
	requestRate  = 30
	requestBurst = 100  // a member may have requests delivered or forwarded, a second
	accountTimes = 4    // times as many may all who came by one invitation (package account)
	membersKept  = 2048 // members and accounts whose rates are remembered
	requestsKept = 4096 // transactions that are known again
)
