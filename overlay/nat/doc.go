// Package nat says at which addresses others reach this host, through whatever
// translates addresses on the way, and what each of them is worth.
//
// A [Kind] is what is known of one address. [Local] tells it of an address of
// this host, from the interface that has it; [Of] of an address of another
// host, of which nothing is known but the address. What is proven or mapped
// only the caller knows.
//
// A [Ranking] takes addresses with their kinds, in any order, and gives the
// best ones, for a token, a record, a hello, an offer, or a file: whatever the
// list is, there is one order and one way to cut.
//
// Addresses come from four places. The sockets have their own. [MappedAddrs] has
// STUN servers asked, and members, as which address they see each socket.
// [PortMapper] asks the router for one. [Allocations] keeps one at each TURN
// server (RFC 8656), on a socket of the client's own, from the start on: it is a
// local end of paths itself, and takes 64 addresses of peers. All of it happens in
// the background, so that nobody waits for it; whoever depends on it is told of
// changes. [Probes] remembers what came of it, and [Translation] and [UDP] judge
// that.
//
//	file          what
//	addresses.go  all of it together: what this host has
//	kind.go       kinds, and what an address is        RFC 1918, RFC 4193, RFC 6598, RFC 6890
//	ranking.go    the order, and how a list is cut     RFC 8421 §4 (both families)
//	mapped.go     addresses as servers see them        RFC 8489, DESIGN §14.9
//	probes.go     what came back over UDP, the kind of translation  RFC 4787 §4.1, RFC 5780
//	server.go     URLs of STUN and TURN servers        RFC 7064, RFC 7065
//	sources.go    which servers and members are asked for mapped addresses
//	turn.go       TURN servers, one allocation at each RFC 8656, DESIGN §14.9
//	allocation.go an address that one lends            RFC 8656
//	forwarded.go  ports that the user has had forwarded
//	portmap.go    a port of the router's
//	pcp.go        routers that speak PCP              RFC 6887
//	natpmp.go     routers that speak NAT-PMP           RFC 6886
//	upnp.go       routers that speak UPnP              UPnP IGD
package nat
