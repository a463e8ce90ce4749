// Package overlay is the peer protocol (draft §4.2, §5): it keeps a peer
// connected to the others, stores and finds names in the distributed database,
// and makes pipes, routing each offer and answer through other peers and
// checking the candidates with ICE.
//
// Create founds an overlay, Join enters one with a token, Open resumes either.
// Then Resolve says which peer has a name, and Connect gives a pipe to a peer.
//
// # How a pipe comes about
//
//	Connect ── one establishment for each peer, all callers wait for it
//	  │ 1. candidates: the port's sockets, and what they were last seen as
//	  │    from outside (measured in the background: an offer waits for no
//	  │    gathering, DESIGN §14.9)
//	  │ 2. offer (internal/pipe, sealed end to end) over a connection to the
//	  │    peer, or through a member that has one: those its name record or
//	  │    contact record names, those connected here, those nearest its ID
//	  │    (a forwarder whose target is silent says so: the offer goes again)
//	  │ 3. answer back the same way
//	  │ 4. ICE checks on the shared port, until the peer has answered one; after
//	  │    200 ms without a pair, or when they have failed, a relay beside them
//	  └ 5. the pair becomes the pipe's first path
//
// No round trip more than that is waited for. Nobody waits for a nomination:
// the pipe chooses among its paths by itself. The responder begins its checks
// with its answer; they overtake it where no NAT holds them back, are answered,
// and tell the initiator an address that only the peer can have sent from. It
// uses that as soon as it has the answer, within three times the bytes that came
// from there, until a challenge there is answered. So a first dial takes a round
// trip for the name, two for offer and answer, none for the checks (one behind
// NATs that filter), and one each to connect and to the first byte
// (go test -run ColdDial -v ./idloc/idloctest).
//
// Offers that cross: the one from the smaller peer ID stands. The side with the
// larger ID gives its own up; the side with the smaller answers "glare" and the
// other waits for the offer that is on its way, for a bounded time, and then
// tries again (DESIGN §14.7). The peer that made the standing offer controls
// the checks.
//
// # Relays
//
// An offer and its answer name up to two members each that may forward for
// others (their invitation says so, and they have not refused): connected
// ones, servers first. Both sides make direct pipes to all that were named and
// ask for a channel there; the first that stands carries the pipe, and the
// checks go on beside it. While a pipe is relayed its initiator looks for a
// direct path again after 10 s, doubling up to 5 min; a peer whose addresses
// have changed looks for direct paths of all its pipes. What DESIGN §14.4 has
// otherwise: pipes to relays are made when they are needed and not kept, and
// contact records name none, since offer and answer do; §8's "at once" has a
// head start of 200 ms for the checks, which most pairs do not use up.
//
// # TURN servers
//
// A TURN server of Config.ICEServers lends this peer an address (RFC 8656), on
// a socket of the client's own, from the start on: no offer waits for it, and
// it outlives the agents. Its address is a candidate of type relay. Pairs with
// such an address, of either side, are checked by turncheck.go and not by the
// agent, which would be content with the first pair that works: direct checks
// have a head start of 100 ms, those through servers of 300 ms more before
// members are asked to relay. A pipe through a server looks for a direct path
// as one through a member does. One allocation takes 64 addresses of peers.
//
// # Flows with null encapsulation
//
// A 5-tuple that asks for it (draft §4.3) gets an offer and an answer of its own,
// routed and sealed like those of a pipe, and real sockets of its own. UDP has
// ICE on those sockets (nulludp.go), TCP the checks of package icetcp, and on
// top of the connection an internal/null.Stream, whose resumption is such an
// exchange again (nulltcp.go). Either side may begin one; the attempts of a flow
// are numbered, and of two that cross one stands. Policies are compared before
// the answering side shows an address; the asking side's own policy has allowed
// its offer.
//
// # Who is let in
//
// Each connection begins with hellos: membership chains and the number of the
// newest revocation list. Until a chain was verified nothing of ours is served;
// after five seconds the connection is closed. The DHT gets a wrapped host that
// knows members only. A chain rides in each offer and answer too, so that there
// is no pipe without one.
//
// # Connections
//
// A member is connected to whom it has asked something, up to some hundred
// others: above that the connections least useful to the DHT are closed. Spared
// are those through which somebody is found, to the servers nearest its ID and
// to the members its contact record names; a flag in its hello tells them so,
// and they spare them as well. That a connection was trimmed says nothing about
// the member at its other end, which stays in the routing table, and keeps what
// it holds of the database.
//
// kad-dht's own refresh is off: it walks towards every bucket of a young table,
// which in an overlay of some hundred servers is a connection to each. A table
// is filled by what a peer asks anyway, by a walk towards its own ID every two
// minutes, and by one towards nowhere in particular every ten; every twenty
// seconds as long as that brings members and fewer than 48 are connected.
//
// # Who keeps the database
//
// The founder at once. Another peer becomes a server when it has been up for
// 30 s and either fewer than three servers are known or a member's connection
// has come in, which proves that others reach it; or at once when no server is
// reachable any more. DESIGN §14.6 makes a peer a server as soon as fewer than
// three are known. That is worse in a small, young overlay: a peer that lives
// for seconds takes records and lookups with it when it goes, every record is
// put again for each newcomer, and peers behind NATs that nobody has tried yet
// are asked in vain. Waiting costs nothing: with one server there is one place
// to look, and lookups take one round trip. The role is not given back: that
// would lose the records again.
//
// # Names
//
// A record is put under three keys, at the eight servers nearest each. Reads
// walk to them as Kademlia does, but by our own walk (lookup.go) instead of
// kad-dht's: it tells which member gave a record, counts who has answered that
// there is none, and returns as soon as three agree or replicas go quiet for
// 150 ms. With fewer servers than replicas each keeps every record and one key
// is asked.
//
// Of two claims to a label the founder, or a delegate, confirms one; the other
// peer gets mars-2 before its Join returns. An issuer shows each chain that it
// confirms to the other issuers it is connected to before it answers, so they
// agree without the database; of two that could not see each other the earlier
// serial stands. With none reachable, membership and name stay provisional and
// the database decides by naming's order.
//
// A member that knows fewer than three servers asks others whom they know,
// and connects to the servers it is told of. Without that, two servers whose
// only common contact is a client would each keep a database of their own.
//
// # Files
//
//	overlay.go   the Overlay and its start and end
//	config.go    Config, errors
//	addrs.go     this peer's addresses, and whose are acceptable
//	host.go      libp2p on the shared port             DESIGN §5, §8
//	gate.go      connections and membership            DESIGN §8
//	hello.go     the hello's layout
//	keep.go      connections that are not trimmed
//	dht.go       the database, the wrapped host, roles draft §5, DESIGN §14.6
//	lookup.go    walks to the servers nearest a key
//	handover.go  records for servers that come new     Kademlia §2.5
//	validate.go  a memory of valid records
//	names.go     reading names                         draft §5, DESIGN §14.2
//	publish.go   putting records                       DESIGN §8, §14.5
//	confirm.go   labels, ties, confirmation            draft §5, DESIGN §14.1
//	revoke.go    the revocation list                   DESIGN §14.1
//	upkeep.go    bootstrap, roles, other members       DESIGN §8
//	dialback.go  whether others reach this peer        DESIGN §14.6
//	network.go   local addresses that come and go      DESIGN §9
//	saved.go     what survives a restart
//	offer.go     routing offers                        draft §4.2, §6; DESIGN §14.5
//	connect.go   establishments                        draft §4.2, DESIGN §14.7
//	trickle.go   candidates after the offer     RFC 8838, DESIGN §14.9
//	ice.go       candidates, agents                    RFC 8445
//	settle.go    what comes first after a change of addresses
//	standby.go   more than one path                    DESIGN §9
//	stale.go     connections that nobody answers on
//	iceserver.go URLs of STUN and TURN servers  RFC 7064, RFC 7065
//	portmap.go   a port of the router           RFC 6886, UPnP IGD
//	natpmp.go, upnp.go
//	turn.go      addresses that TURN servers lend  RFC 8656, DESIGN §14.9
//	turncheck.go checks through them            RFC 8445
//	relay.go     members that relay, looking for direct paths  DESIGN §14.4
//	null.go      flows with null encapsulation         draft §4.3, DESIGN §14.11
//	nulltcp.go   their TCP: opening, resuming          draft §4.3
//	nulludp.go   their UDP: sockets, consent           draft §4.3, RFC 7675
//	icetcp/      connectivity checks over TCP          RFC 6544
//	icemux.go    agents on the shared port, pacing     DESIGN §14.9, RFC 8445 §14
//	stun.go      demux, responder, mapped addresses    RFC 8489, DESIGN §14.9
package overlay
