// Package tcp makes TCP connections by ICE (RFC 6544): candidates, checks
// and nomination, after which a connection is bare. Listen opens a Port; for
// each offer or answer NewSession makes credentials and candidates, and Run
// brings the one connection that both sides have agreed upon.
//
// A Port has one TCP port number on every local address, for the passive
// candidates of all sessions. Active ends connect from any port, so that two
// peers may have any number of connections. A session whose host has a private
// address binds one more port: from it servers are asked for the mapped
// address, from it both sides connect to each other at the same time
// (simultaneous open), and it listens, too, for the SYN that is first. Any Port
// is such a server for others.
//
// Messages are STUN's (RFC 8489) in the framing of RFC 4571: length (2) |
// message. Requests carry USERNAME, PRIORITY, the role and MESSAGE-INTEGRITY,
// all of which are checked. The peer chooses nothing that a request shows in
// clear: its ufrag is a hash (wire.Ufrag), and Run refuses any other. The side that made the offer controls. Its
// nominating request is the last framed message that it sends, the response to
// it the last that it receives: what follows, either way, is the flow's. Nothing
// is read ahead, so no byte of the flow is taken for a message.
//
//	port.go    the port, accepting, serving   RFC 6544 §4.1
//	held.go    what one address may hold of it
//	session.go candidates, mapped addresses   RFC 6544 §4.2, §5.1
//	check.go   connecting, checks, nomination RFC 6544 §6, §7
//	message.go STUN messages and their frames RFC 8489, RFC 4571
package tcp
