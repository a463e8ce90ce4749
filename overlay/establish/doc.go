// Package establish makes pipes: an establishment brings an offer to a peer and its
// answer back, checks which addresses lead there, and waits until the keys are
// confirmed; then the two have a pipe that carries data (draft §4.2; DESIGN §8,
// §14.7, §14.9).
//
// An Establisher has at most one establishment for each peer at a time, whether
// this side has begun it (Connect) or the other (Offered). It sends nothing itself:
// offers are brought by Offers, checks are run by an Agent, datagrams are sent by
// the pipe.
//
// # States
//
// One goroutine owns an establishment: it alone changes the state, in one setState,
// and reads and writes all that belongs to it. What takes time is done by other
// goroutines, which tell it their results. On the way to a pipe an establishment
// goes down this picture; whatever fails, or is replaced, goes to lingering.
//
//	 settling       the network has just changed: wait until it is known again
//	  │     │
//	  │  offering   the offer is on its way (initiator)
//	  │   │    │
//	  │   │  yielding    the peer's offer stands, and is waited for
//	  │   │
//	checking ◄───┐  both sides are known; a path is looked for
//	  │    │     │
//	  │ confirming  a path was found; the keys are not confirmed over it
//	  │    │   │
//	searching  │    the pipe is up, over something else than a checked direct
//	    │      │    path: the rest of the search goes on beside it
//	  lingering     there is a result; checks of the peer are still answered
//	      │
//	    ended
//
// The transitions, all there are:
//
//	none → settling
//	settling → offering, checking, lingering
//	offering → yielding, checking, lingering
//	yielding → lingering
//	checking → confirming, searching, lingering
//	confirming → checking, searching, lingering
//	searching → lingering
//	lingering → ended
//
// Who waits for the pipe gets it on entering searching or lingering.
//
// # The search
//
// In checking three look for a path beside each other, with head starts: the
// connectivity checks at once, pairs through TURN servers after 100 ms, members
// that relay after 200 ms, or after 300 ms of TURN servers where there are some; or
// as soon as those before have failed. The first path carries the pipe. If it is a
// checked direct one the search is over. Otherwise the rest goes on, and what it
// finds the pipe gets as well. Where the checks have failed, the initiator makes
// offers for a direct path again and again, as long as the pipe is relayed
// (improve.go).
//
// If after a second a pipe is up, through somebody, and of one side it is unknown at which
// port the other would see it, because each server sees another one, both begin to guess
// that port (ice.Guess), until the search ends. Before that each asks a member that it
// would itself name as a relay whether the peer is seen at that address: nothing of this
// goes to addresses that only the peer has named.
//
// Nobody waits for a nomination: the pipe chooses among its paths by itself. The
// responder's checks begin with its answer; they overtake it where no NAT holds
// them back, and tell the initiator an address that only the peer can have sent
// from. It uses that as soon as it has the answer, within three times the bytes
// that came from there, until a challenge there is answered (Endpoint.Try). The
// peer that made the offer controls the checks.
//
// # Relays
//
// An offer and its answer name up to two members each that may forward for others.
// Both sides make direct pipes to all that were named and ask for a channel there;
// the first that stands carries the pipe. Pipes to relays are made when they are
// needed and not kept: that costs a relayed establishment one or two round trips to
// the relay, and saves each relay a pipe to every member that never needs it. While
// a pipe is relayed its initiator looks for a direct path after 10 s, doubling up
// to 5 min; a peer whose addresses have changed looks for paths of all its pipes
// (Renew). A pipe through a TURN server is a relayed one, and so is one over a carrier: of
// that, or of the way to its relay, each side that uses one looks for a direct path every
// 10 s. Carriers are checked with the pairs through TURN servers.
//
// # Offers that cross
//
// The offer of the smaller peer ID stands. The side with the smaller ID answers the
// other's "glare"; that one waits for the offer that is on its way (yielding), and
// makes another if it does not come. The side with the larger ID gives its own up
// when the other's arrives: an establishment that answers it takes the place of its
// own, and all who waited for that wait for this one.
//
// # How many others may begin
//
// 256 establishments; 64 for those who came by one invitation, 128 for those whom one
// delegate has let in. Where there are 256 the newest of those who have most ends for one
// of an account that has fewer (package account).
//
// An establishment that answers, and for three seconds hears nothing more, holds nobody up:
// whoever dials makes an offer of its own beside it. Its initiator may have been started
// anew, and knows of no offer.
//
// # What is tried again, and where
//
// A Dial is one loop, redial in package idloc: as long as its context lasts it asks
// for a pipe, and connects TCP over it. All Dials to a peer share the attempts,
// which the shim paces. One attempt is one Connect here, and Connect retries
// nothing: it waits for one establishment, and looks again only if another has
// taken its place. What has failed here has failed; the Dial's loop makes the next
// offer.
//
// Within an establishment each message has one sender that repeats it, each on its
// own, until a timer of the table ends it:
//
//	what is lost              who sends it again                       until
//	an offer, or its answer   offers.Router: the next way, all anew    offers.Patience, 7 s
//	a check, or its answer    the Agent, for each pair                 checkFor, 5 s
//	request of a channel      pipe.Bind, at a relay                    openFor, 12 s
//	confirmation of keys      pipe.Up, from 200 ms on, doubling        confirmFor, 3 s
//	late candidates           tellLate, 5 times                        the result
//
// Beside it, for a pipe that is up, improve looks for a direct path, and Renew for
// new ones after a change of addresses: each of their attempts is an establishment
// as any other.
//
// # Timers
//
// All are in one table, each with the states in which it runs and the reason for
// its length: timers.go. On a machine that has more to do than it can each runs longer,
// four times at most (package lag): what is given up while the answer waits to be read is
// done again, and makes the machine still busier.
//
// # Files
//
//	establisher.go    the Establisher, what it needs; which offer stands  DESIGN §14.7
//	state.go          states, transitions, setState
//	timers.go         the table of timers
//	establishment.go  the owner: inputs, timers, results
//	exchange.go       offer and answer                                   draft §4.2
//	search.go         looking for a path                                 DESIGN §14.4
//	late.go           candidates after the offer                         RFC 8838
//	relays.go         which members are named as relays                  DESIGN §14.4
//	standby.go        more than one path                                 DESIGN §9
//	guess.go          direct paths by guessed ports                    RFC 4787 §4.1
//	improve.go        direct paths for relayed pipes; new addresses      DESIGN §9
//	network.go        what waits while the network changes
//	checks.go         agents of package ice
package establish
