// Package adapter connects the packages below overlay, which do not import each other:
// where one of them needs another, it defines an interface, and the types here implement
// that with the other's. They keep no state. Only package overlay uses them, when it puts
// a peer together.
//
//	file          what                              wanted by
//	pipes.go      pipes, by where they go           mesh
//	members.go    members, and who relays           admission, directory, establish, mesh
//	offers.go     ways for an offer                 offers, establish
//	checks.go     what checks of candidates need    establish
//	lan.go        where this peer is, whom it wants lan
package adapter
