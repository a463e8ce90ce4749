// Package carry keeps the addresses of carriers: of those that this peer serves, which it
// tells others, and of those that lead to other members. A carrier is a TCP or HTTPS
// connection that brings datagrams through a network that lets no UDP out (package
// carrier), so such an address is where a peer is reached when nothing else works.
//
// Addresses of carriers stand among a peer's others in tokens, hellos and records, in a
// quarter of the places, so that they are never crowded out. A member's carriers are
// dialled after its UDP addresses (package mesh); pipes check them beside TURN servers
// (package establish), and try them when their paths are silent ([Carriers.Spare]).
//
//	carry.go  all of it
package carry
