// Package mesh holds a peer's connections to the other members of its overlay: it
// finds them, dials them, lets members in and nobody else, and carries their
// questions. Ask puts a request to a connected member, Serve has requests answered,
// Seek looks for a first member, Run keeps the connections up.
//
//	New ── the host listens ── Start ── hellos ── Run, Seek ── Leave ── Stop ── Close
//
// # Who is let in
//
// Each connection begins with hellos (hello.go): membership chains, the number of
// the newest revocation list, name records and addresses. Until a chain was verified
// nothing of ours is served; after five seconds the connection is closed. Who is
// refused is told why, in words, and whether for good. Who has shown a chain that has
// ended may be answered with a new one (package admission), and says hello again with
// that: it is a stranger until then. Strangers have their own
// limits, by address, from the first packet on (limits.go). What members ask for is
// bounded for each, and for all of one invitation: what is above that waits (pace.go).
//
// # Which connections are kept
//
// A member is connected to whom it has asked something, up to some hundred others:
// above that the connections least useful to the database are closed. Spared are
// those through which somebody is found, to the servers nearest its ID and to the
// members its contact record names; a flag in its hello tells them so, and they
// spare them as well. That a connection was trimmed says nothing about the member at
// its other end.
//
// A connection whose other end may be dead is asked a question (suspect.go). It is
// closed when nothing at all has come back on it, for as long as its own round trips
// need, by the ticks that this process has lived through: neither a late answer nor
// a busy machine costs a connection that lives.
//
// # How others are found
//
// What is known of members, from connections and from what other members tell, is
// kept across restarts (known.go). Hearsay never displaces what this peer has found
// itself. A peer without a member tries those it knows again and again, the most
// useful first and the others in turn, eight at a time: the next when one has failed
// or is silent, and not while one answers (seek.go). A member that knows fewer than
// three servers, or servers of fewer than three accounts where there are members of
// so many (servers.go), asks others whom they know, and tries those that served before,
// in the same way. Without that, two servers whose only common contact is a client would
// each keep a database of their own. A founder that starts again calls whom it was
// connected to, several times.
//
// # The way back
//
// A peer that is connected to nobody tries as well those to which it has pipes that
// live: what a pipe has proven are addresses of the peer's one port, where QUIC
// listens as well, and it is dialled from the pipe's own socket, because a NAT may
// let that 5-tuple through and no other. When a pipe moves, the connection to its
// peer is suspected, and made anew if it is gone.
//
// # Timers
//
// In the order of a connection's life; timers.go says more. None is of the wire.
//
//	DialTimeout      4 s     one dial: three losses of QUIC's first packet
//	helloTimeout     5 s     a connection without a valid chain: a loss or two, a verifier that is busy
//	lateHello        10 s    a hello on its way: of a process that has ended it proves nothing
//	twinFor          1 h     two nodes of one key, met, are told so
//	negotiateTimeout 10 s    a stream says what it is for: as libp2p has it
//	strangerEvery    125 ms  one more stranger of an address, after a burst
//	sweepEvery       1 s     between two looks through what is counted of strangers
//	refusalGrace     500 ms  a refused peer reads why: a long round trip
//	probeAge         500 ms  an older connection is doubted: two dialled at once are both good
//	connGrace        30 s    a new connection is not trimmed: what it is for may just begin
//	helloAddrTTL     2 h     a hello's addresses: longer than to the next hello
//	seekPace         100 ms  silence until the next is dialled: a round trip on one continent
//	seekPatience     2 s     the same for those that answer: they may be busy
//	heardFor         1 s     a packet so recent is no silence
//	roundTimeout     10 s    one round of dials, whoever they are to
//	serverPatience   500 ms  for a server, once a member is reached: nothing is found without
//	seekPause        250 ms  between two rounds at first, doubling
//	seekPauseSoon    1 s     the most of it at first: who wakes up is back at once
//	seekPauseMax     15 s    the most of it later: who is away costs little
//	seekSoon         10 min  when later is
//	AloneAfter       10 s    until it is said that nobody is reached: two rounds are no news
//	waitingSaid      1 s     until a call that waits says so in the log
//	waitingSaidAgain 1 min   and again
//	recallPause      1 s     after a founder's first round of calls, doubling: all come back at once
//	UpkeepEvery      20 s    the pulse: what is gone unnoticed is found out within it
//	fewRetry         2 s     between questions while few servers are known, doubling to the pulse
//	roleRetry        1 s     until the role is decided again that another may take
//	askPeersPause    5 s     between two questions for members: a crowd causes few
//	rememberPause    5 s     between two notes of who is connected, likewise
//	greetPause       5 s     between two hellos that say new addresses
//	saveEvery        1 s     between two writes of who is known; more in a crowd
//	peersTimeout     3 s     a question for members
//	noteEvery        1 h     between two notes that a member was seen
//	forgetAfter      30 days until a member is forgotten that nobody has seen, while others are
//	dialBackEvery    2 min   between two dial-backs that this peer asks for
//	dialBackTimeout  5 s     a dial-back, for who asks
//	dialBackLess     1 s     and so much less for each next one: its answer comes in time
//	seenTimeout      2 s     a question where a member sees a peer
//	carrierAfter     300 ms  head start of UDP before carriers: a round trip, and less than anybody minds
//	carriedSilence   300 ms  what suspectMin is where a pipe to the same peer has just left UDP
//	blockedFor       24 h    a network without UDP is remembered: a day's work there
//	uncarryEvery     10 s    between two attempts by UDP while a carrier is in use
//	suspectMin       2 s     silence after a question, at least; seven probe timeouts if that is more
//	suspectTick      100 ms  what silence is counted in: a late tick, on a busy machine, counts once
//	suspectMax       30 s    a question on a connection that is not silent, as QUIC's idle timeout
//	maxAckDelay      25 ms   part of a probe timeout (RFC 9000 §18.2)
//	suspectPause     1 s     between two questions to everybody
//
// # Files
//
//	mesh.go      Mesh, its surroundings, what others ask of it
//	status.go    what it tells of itself
//	timers.go    every time that it waits for
//	host.go      libp2p's host                         DESIGN §5, §8
//	dialgate.go  which addresses may be dialled
//	limits.go    what strangers may hold, by address   DESIGN §8
//	pace.go      what members may ask for
//	twins.go     two nodes with one key
//	gate.go      connections and membership            DESIGN §8
//	greet.go     saying hello, and answering           DESIGN §8
//	notifiee.go  what libp2p tells the gate
//	vestibule.go streams of who has not come in yet    DESIGN §8
//	neighbor.go  what is known of one connected peer
//	hello.go     the hello's layout
//	keep.go      connections that are not trimmed
//	carried.go   connections over carriers             package carrier
//	blocked.go   networks that let no UDP through
//	suspect.go   connections that nobody answers on
//	protocol.go  one request, one answer, on a stream
//	stream.go    streams to members
//	known.go     members of before, across restarts
//	told.go      who told of addresses                 package hearsay
//	addrs.go     other members' addresses, the best first; a token's
//	meet.go      members that say on a local network where they are, package lan
//	peers.go     members that tell of others
//	servers.go   whether there are enough servers
//	seek.go      looking for a first member, as long as it takes
//	attempts.go  whom this peer has tried, and why in vain
//	probes.go    what failed dials tell about UDP
//	upkeep.go    connections kept, servers found again
//	ways.go      the way back through live pipes
//	recall.go    a founder calls its members after a restart
//	reached.go   how others have reached this peer     DESIGN §14.6
//	dialback.go  whether others reach this peer        DESIGN §14.6
//	seen.go      at which IP addresses members see a peer
package mesh
