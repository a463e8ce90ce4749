// Package stun reads and writes the STUN messages of this module (RFC 8489):
// connectivity checks of ICE (RFC 8445 §7) and questions for a mapped address,
// whatever carries them. All that idloc knows of the bytes of STUN is here.
//
//	type 2 | length of the attributes 2 | magic cookie 4 | transaction ID 12 | attributes
//	attribute: type 2 | length 2 | value, padded to four bytes
//
// Classify and Username look at a datagram where it has come in, before anybody
// has said that it is worth memory; they allocate nothing. Parse reads the rest
// of a message that belongs to somebody. Check, Question and Success make
// messages.
//
//	classify.go whose a datagram is          RFC 8489 §5, §14.7; RFC 8445 §7.2.2
//	message.go  what a message says          RFC 8489 §14; RFC 8445 §7.1
//	build.go    checks, questions, responses RFC 8445 §7.1, RFC 8489 §6.3.3
package stun
