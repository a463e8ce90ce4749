package mesh

import "time"

// Every time that this package waits for, in the order of a connection's life;
// doc.go has them in a table. None is one of the wire: peers with other values get
// along.
const (
	// DialTimeout bounds one dial: a dead address must not eat the time that a Dial
	// has for a dead peer, and four seconds are three losses of QUIC's first packet.
	DialTimeout = 4 * time.Second
	// helloTimeout is how long a connection may live without a valid chain
	// (DESIGN §8): a loss or two, and a verifier that is busy. Whom this
	// peer dials has longer on a machine that is busy itself (package lag).
	helloTimeout = 5 * time.Second
	// lateHello is how long a hello may have been on its way: one of a process that has
	// ended is no sign that it runs. twinFor is how long it is said of a peer that two
	// of it were met.
	lateHello = 2 * helloTimeout
	twinFor   = time.Hour
	// negotiateTimeout is how long a peer may take to say what a stream is for: as
	// libp2p has it.
	negotiateTimeout = 10 * time.Second
	// strangerEvery is after how long one address may have one more stranger, once it
	// has had a burst of them: no more than a machine verifies in its sleep. What is
	// counted is looked through each sweepEvery.
	strangerEvery = time.Second / 8
	sweepEvery    = time.Second
	// refusalGrace is how long a refused peer has to read why: a long round trip.
	refusalGrace = 500 * time.Millisecond
	// probeAge is how much older a second connection must be to be doubted: two that
	// were dialled at once are both good.
	probeAge = 500 * time.Millisecond
	// connGrace is how long a new connection is not trimmed: what it was made for
	// may just begin.
	connGrace = 30 * time.Second
	// helloAddrTTL is how long addresses of a hello are known: longer than until the
	// next hello on a connection that lasts.
	helloAddrTTL = 2 * time.Hour

	// seekPace is how long those dialled may be silent until the next is dialled as
	// well: a round trip on one continent. seekPatience is how long they are waited for
	// if they are not silent: whoever answers may be busy.
	seekPace     = 100 * time.Millisecond
	seekPatience = 2 * time.Second
	// heardFor is how recent a packet must be for its sender not to be silent: less
	// than a dial's second repetition is apart from the first.
	heardFor = time.Second
	// roundTimeout bounds one round of dials to members, whoever they are.
	roundTimeout = 10 * time.Second
	// serverPatience is how long a server is waited for once a member is reached:
	// what is put or asked next would find no database.
	serverPatience = 500 * time.Millisecond
	// seekPause is the time between two rounds at first. It doubles to
	// seekPauseSoon, and to seekPauseMax once a peer has been alone for seekSoon: a
	// laptop that wakes up is back at once, and one that is away costs little.
	seekPause     = 250 * time.Millisecond
	seekPauseSoon = time.Second
	seekPauseMax  = 15 * time.Second
	seekSoon      = 10 * time.Minute
	// AloneAfter is how long a peer that runs is without a connection before it
	// says so: two rounds in vain are no news.
	AloneAfter = 10 * time.Second
	// waitingSaid is when a call that waits says so in the log, and
	// waitingSaidAgain how often then.
	waitingSaid      = time.Second
	waitingSaidAgain = time.Minute
	// recallPause is the time after the first round of a founder's calls; each is
	// twice the one before. While all come back at once many have no time to answer.
	recallPause = time.Second

	// UpkeepEvery is the pulse: connections kept, memberships checked, what is
	// known saved. A peer that is gone unnoticed is found out within it.
	UpkeepEvery = 20 * time.Second
	// fewRetry is how soon a peer that knows few servers asks again, doubled up to
	// UpkeepEvery, and tries those again that it remembers.
	fewRetry = 2 * time.Second
	// roleRetry is how soon the role is decided again while that waits for another
	// peer to take it.
	roleRetry = time.Second
	// askPeersPause is the least time between questions for members that an arrival
	// causes, rememberPause between notes of who is connected: a crowd that comes in
	// causes few of each.
	askPeersPause = 5 * time.Second
	rememberPause = 5 * time.Second
	// greetPause is the least time between two hellos to everybody that a change of
	// this peer's addresses causes.
	greetPause = 5 * time.Second
	// saveEvery is the least time between two writes of who is known; doubled up to
	// UpkeepEvery while a crowd comes in.
	saveEvery = time.Second
	// peersTimeout bounds a question for members, and a dial to one heard of.
	peersTimeout = 3 * time.Second
	// noteEvery is how often it is noted that a member was seen of which nothing else
	// is new: for a list of a month's members an hour is exact enough.
	noteEvery = time.Hour
	// forgetAfter is how long a member is known that nobody has seen: a month away.
	forgetAfter = 30 * 24 * time.Hour

	// dialBackEvery is the time between two dial-backs that this peer asks for.
	dialBackEvery = 2 * time.Minute
	// seenTimeout is a question at which address a member sees a peer: a long round trip
	// and a lost packet.
	seenTimeout = 2 * time.Second
	// dialBackTimeout is the asker's; each of the others has dialBackLess less than
	// who asks it, so that an answer comes before nobody waits for it.
	dialBackTimeout = 5 * time.Second
	dialBackLess    = time.Second

	// carrierAfter is the head start of a member's UDP addresses before its carriers:
	// RFC 8305 §5 has 250 ms for the better address family, and a carrier costs both ends more.
	carrierAfter = 300 * time.Millisecond
	// carriedSilence is what suspectMin is where a pipe to the same peer has just had to
	// leave UDP for a carrier: two times what a round trip within a continent takes.
	carriedSilence = 300 * time.Millisecond
	// blockedFor is how long it is remembered that a network lets no UDP through: a day's
	// work there.
	blockedFor = 24 * time.Hour
	// uncarryEvery is how often UDP is tried to whom a carrier leads.
	uncarryEvery = 10 * time.Second

	// suspectMin is the least silence, after a question, by which a connection is
	// taken for dead, and suspectTick what silence is counted in: a tick that comes
	// late, on a machine that is busy, counts once. The time is more where round
	// trips are long (suspectProbes). It is less than the time of an offer.
	suspectMin  = 2 * time.Second
	suspectTick = 100 * time.Millisecond
	// suspectMax is when a question is given up whose connection is not silent:
	// QUIC's own idle timeout is as long.
	suspectMax = 30 * time.Second
	// maxAckDelay is how long a peer may wait with an acknowledgement (RFC 9000 §18.2).
	maxAckDelay = 25 * time.Millisecond
	// suspectPause is the least time between two questions to everybody.
	suspectPause = time.Second
)
