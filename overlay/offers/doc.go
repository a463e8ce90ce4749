// Package offers brings an offer to a peer, wherever in the overlay that is, and
// the answer back (draft §4.2 and §6, "routing the Offer/Answer through other peers
// in the overlay"; DESIGN §8, §14.5).
//
// A Router does so for this peer's own offers (Deliver), and for those of others
// that it is asked to pass on (Serve). Offer and answer are sealed end to end by
// package pipe: whoever passes them on sees who talks to whom and nothing else. It
// knows connections and the database only as Mesh and Directory, which its user
// implements.
//
// # Protocol
//
// One request, one response, on a stream between two members:
//
//	request:  version 1 | TTL 1 | transaction 16 | target 32 | from 32 | length 2 | offer
//	response: status 1 | forwarder 32 (zero: none) | length 2 | answer
//
// A member that the request is not for passes it on if it is connected to the
// target, has not passed on that transaction before, and the TTL is not zero; it
// puts its ID into the response. If it is not connected it says so at once, rather
// than keep the initiator waiting. Late candidates travel as an offer does (Tell).
//
// # The way of an offer
//
//	Deliver      rounds, until Patience (7 s) is over; the next only if there was
//	  │          nothing but silence: the network may lose much
//	  └ round    all ways to the target, the likeliest first (ways.go); the next
//	      │      when one has failed, or after the stagger if it is quiet, but
//	      │      none as long as the target itself has the offer
//	      └ way  one member, connected to first if need be; again, 4 times at
//	             most, if the connection ends under the offer
//
// An offer that comes to its target twice gets the same answer, so nothing is lost
// by sending it once too often, but time: where hundreds of members dial one at once, as an
// office does whose server was started anew, whoever is slow gets each offer several times
// and answers when nobody waits any more. So all times are longer on a machine that is
// busy itself (package lag).
//
// # Whose word counts
//
// A status is what the member says that sends it. A forwarder may lie, so its word
// is one way that has failed. What ends a delivery is what the target has sealed,
// an answer or a refusal, or has said on its own connection (refuse.go).
//
// # Files
//
//	message.go   requests and responses on the wire
//	refuse.go    whose no ends an offer                DESIGN §14.7
//	errors.go    why an offer got no answer; StageError
//	router.go    the Router, and what it serves        draft §6
//	delivery.go  rounds and ways of one offer          draft §4.2
//	ways.go      which ways there are                  DESIGN §14.5
//	timers.go    all times and bounds
package offers
