// Package ice finds out over which addresses two peers reach each other, by the
// connectivity checks of ICE (RFC 8445) on the one UDP port that a node has for
// everything.
//
// [NewAgent] makes the credentials and candidates that an offer or an answer
// shows; once the other side's are known, [Agent.Check] returns the first pair of
// addresses on which the peer has answered. A [Demux] is given every STUN message
// that the port receives, and hands it to the agent whose fragment or transaction
// it names; members that only ask for their mapped address are answered by it.
//
//	socket.Port ── Demux ──┬── session ── mux ── pion's agent
//	                       │   (answers, paces, proves a pair)
//	nat.Allocation ────────┼── TURNChecks
//	                       └── the responder, Ask
//
// # Checks
//
// pion's agent chooses what to check; the session says what leaves, and when.
// Checks of one pair are repeated with a back-off. What has not answered is
// spared, since a peer may name anybody as its candidate: at most 40 checks to one
// IP address in one establishment, and 46 a minute from all of them together (the
// [Pacer]), until a response comes from where the check went, made with the peer's
// password. Where a check of the peer's came from two more may go for each.
//
// The peer has our offer before we have its answer: its first checks are answered
// by the session alone, and remembered ([Agent.Heard]). Nobody waits for a
// nomination, except who has no other way to agree upon a pair
// ([Agent.Nominate]).
//
// # Through TURN servers
//
// Pairs with an address that a TURN server lends, of either side, are checked by
// [TURNChecks] and not by the agent, which would be content with the first pair
// that works. They have a fragment of their own, the agent's with "~turn" behind
// it.
//
// # Guessed ports
//
// Between a NAT that gives each destination another port and one that lets in only what
// it has sent to, no check gets through. While a relay carries the pipe, [Guess] opens
// sockets on one side, and sends to ports on the other, until the two meet: at most 256
// sockets and 1,000 checks of each side, 100 a second, to an address at which a member of
// our own choice has seen the peer. Its fragment has "~guess" behind it.
//
//	agent.go     Agent: an establishment's checks  RFC 8445
//	pionagent.go what of it is pion's business
//	candidate.go candidates, their priorities      RFC 8445 §5.1
//	filter.go    which of the peer's are taken     DESIGN §8
//	checkers.go  from which sockets is checked
//	demux.go     the port's STUN messages, questions to servers  RFC 8489, DESIGN §14.9
//	other.go     a second port that answers questions  RFC 5780 §4.3
//	session.go   answers, proven pairs, pace       RFC 8445 §7
//	mux.go       a session as pion has it          DESIGN §14.9
//	pacer.go     how often checks go where         RFC 8445 §14
//	flow.go      sockets of a UDP flow's own, ICE on them  draft §4.3, RFC 7675
//	guess.go     ports that are guessed            RFC 4787 §4.1, RFC 5128 §3.4
//	turncheck.go checks through TURN servers       RFC 8445, RFC 8656
package ice
