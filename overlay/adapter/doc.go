// Package adapter shows each room of the overlay to another one as that wants to see
// it: who imports nobody else's types defines an interface, and here is what makes
// that of the room behind it. It has no state.
//
//	file          what                              wanted by
//	pipes.go      pipes, by where they go           mesh
//	members.go    members, and who relays           admission, directory, establish, mesh
//	offers.go     ways for an offer                 offers, establish
//	checks.go     what checks of candidates need    establish
//	lan.go        where this peer is, whom it wants lan
package adapter
