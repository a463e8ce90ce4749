// Package hearsay decides what may be sent to an address that a node has only heard
// of, before anybody has answered there: it is the one gate for all of them.
//
// Whoever is a member may say where others are: in answers of the database, in
// records, in lists of peers, in hellos, in a token, in a question to be dialled
// back. Without a bound one sentence of a few bytes has each listener send
// kilobytes to a host that has no part in it. So everything that is sent to an
// address asks the [Gate] first, whatever the protocol: what it holds back is
// like what the network lost.
//
// What an address is, is a matter of who answered there:
//
//	proven   a peer completed its handshake there, under its own key, or a
//	         path of a pipe to it did; a STUN server sent the transaction ID
//	         back. It holds for that peer alone, for a day after the last time,
//	         also across restarts. Nothing is held back.
//	         It holds where the answer came from: an IPv4 address that is reached by a
//	         NAT64 is proven behind that one prefix, and elsewhere counts as given, so
//	         that a resolver which names another prefix leads nobody there by what is
//	         proven.
//	given    the user said so: a token, the configuration, what this node
//	         itself saw more than a day ago. GivenPackets a minute to one IP
//	         address: enough to go on trying as often as before, although the
//	         token's text is somebody else's.
//	told     everything else. ToldPackets and ToldBytes a minute to one IP
//	         address, over the whole node, given ones included, and TellerPackets
//	         a minute for whoever told: a member's invitation, so that keys
//	         of one invitation share. An address that several have told is
//	         charged to the one with most left.
//
// Only what stays unanswered counts: an answer of the peer that was meant gives
// back what was charged for its address and port. A window of a minute is exact,
// no minute sees more. What is to begin, and finds no room, waits for it
// ([Gate.Begin]): behind the one address of an office every member that answers
// lets the next dial go.
//
// Candidates of an offer are another class, with a budget of its own (package
// ice): an offer is sealed by the member itself, which says where it
// is itself, and NATs open by nothing but repeated checks from both sides.
//
//	file       what
//	gate.go    the Gate, what may be sent
//	teller.go  who told what, and what they have left
//	place.go   what was sent to one IP address
package hearsay
