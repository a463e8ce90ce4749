// Package carry has what a peer says of the carriers that it serves, and which carriers
// lead to others (package carrier): for networks that let no UDP out.
//
// Addresses of carriers stand among a peer's others in tokens, hellos and records, in a
// quarter of the places, so that they are never crowded out. A member's carriers are
// dialled after its UDP addresses (package mesh); pipes check them beside TURN servers
// (package establish), and try them when their paths are silent ([Carriers.Spare]).
//
//	carry.go  all of it
package carry
