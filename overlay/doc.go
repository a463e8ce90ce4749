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
//	  │    (a forwarder whose target is silent says so: the offer goes again;
//	  │    a no ends it only if the target has sealed it)
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
// What states an establishment goes through, what it does when offers cross, and
// what is tried again where, says package establish; how an offer finds its way,
// package offers.
//
// # Flows with null encapsulation
//
// A 5-tuple that asks for it (draft §4.3) gets an offer and an answer of its own
// and real sockets of its own: package nullflow. ICE on the sockets of its UDP flows
// is package ice's.
//
// # Who is let in
//
// Connections begin with hellos, which show memberships, and each change of who rules the
// overlay, so that a chain of a new authority is known for one (package mesh). The DHT gets
// a wrapped host that knows members only. A chain rides in each offer and answer too,
// so that there is no pipe without one.
//
// # Addresses that were only heard of
//
// Members say where others are, in answers of the database, records, hellos, lists
// of peers, tokens, questions to be dialled back; any of it may be a lie that has
// this peer send to a host that has no part in it. So all of it passes one gate,
// package hearsay, where it comes in (mesh.Mesh.Told notes who told what) and where it
// goes out: libp2p asks it which addresses may be dialled, quictransport before a
// dial and for each datagram of a handshake, the demux for each question to a STUN
// server. What nobody answers is at most three datagrams and 3,600 bytes a minute
// to one IP address, and 120 a minute for one teller, which is an invitation.
// That is one dial: QUIC's first flight, 2,400 bytes with a post-quantum key, and
// a part of it again. Addresses that the user gave, in a token or Config, get 30 a
// minute: a token's text is its maker's, but the user has it tried, a few
// addresses at a time, and who waits for a founder to come up tries as often as
// ever. Where a member has answered under its key, within a day, also before this
// start, nothing is held back from it: so restarts and power cuts find the
// others at full speed.
//
// Candidates are no hearsay: they stand in an offer or answer that the member
// itself has sealed, and a NAT opens by nothing but checks that are repeated until
// the peer's own get through. They have a bound of their own (package ice): at
// most 40 checks, of some hundred bytes, to one IP address in one
// establishment, and 46 a minute from all of them together, until a response comes
// from where the check went, with the peer's password. Where a check of the peer
// came from two more may go for each. This bound is not per invitation.
//
// # Connections
//
// Which connections are kept, how others are found and what brings a peer back tells
// package mesh. A member whose connection was trimmed stays in the routing table, and
// keeps what it holds of the database.
//
// kad-dht's own refresh is off: it walks towards every bucket of a young table,
// which in an overlay of some hundred servers is a connection to each. A table
// is filled by what a peer asks anyway, by a walk towards its own ID every two
// minutes, and by one towards nowhere in particular every ten; every twenty
// seconds as long as that brings members and fewer than 48 are connected.
//
// # Names
//
// Which peer has a name stands in a database that some of the members keep: who
// does, what readers believe and what is put when is told by package directory.
//
// Of two claims to a label an authority, or a delegate, confirms one; the other
// peer gets mars-2 before its Join returns. An issuer shows each chain that it
// confirms to the other issuers it is connected to before it answers, so they
// agree without the database; of two that could not see each other the earlier
// serial stands. With none reachable, membership and name stay provisional and
// the database decides by naming's order.
//
// A hello carries the sender's name record too, and members tell each other the
// records and addresses of those connected: whoever comes in asks, and a server
// of a small overlay tells the others of who has come in. So a name is found and an
// offer has a way though the only server has just died without a word.
//
// # Restarts
//
// What brings a peer back is written when it happens, not at the next pulse: the
// port before anything is sent, a member's addresses when it comes in for the first
// time.
//
// # Clocks
//
// Memberships and records are judged by the wall clock, TLS certificates are not
// dated. A peer that has a chain or a token from the future knows that its clock is
// behind, starts, waits and says so. Hellos and refusals carry the time, so that
// both sides can tell whose clock is wrong. When a clock is set, which shows as a
// jump against the monotonic one, all that failed is tried again at once.
//
// # Files
//
//	overlay.go   the Overlay, its end, and what goes straight to one of its parts
//	life.go      how long it runs
//	start.go     Create, Join, Open
//	wiring.go    the rooms, made and started in order
//	config.go    Config, errors
//	members.go   members put out and invited, clocks, relays  DESIGN §14.1, §14.4
//	stats.go     what a peer tells of its own part
//
// # Rooms
//
// None imports one that stands further down, and none knows the Overlay.
//
//	field/, p2p/   fields of messages; peer IDs and addresses as libp2p has them
//	membership/    what is signed about members and by whom   DESIGN §14.1, §14.18
//	naming/        and about names                    DESIGN §14.2
//	grants/        who may open what at whom: a policy and its decisions  package grants
//	pki/           X.509 certificates for members' names  RFC 5280, DESIGN §14.19
//	carry/         carriers, for networks that let no UDP out  package carrier
//	lan/           members on the local network       DESIGN §14.15
//	hearsay/       what may be sent to addresses that were only heard of
//	nat/           how others see this host's addresses, and what those are worth
//	ice/           connectivity checks on the shared port  RFC 8445, RFC 8489
//	ice/tcp/       connectivity checks over TCP       RFC 6544
//	quictransport/ connections, on the shared port    RFC 9000
//	admission/     who is a member, and may do what   DESIGN §14.1, §14.18
//	mesh/          connections to members: found, let in, asked, kept  DESIGN §8
//	directory/     which peer has a name              draft §5
//	offers/        offers on their way                draft §4.2, §6; DESIGN §14.5
//	nullflow/      flows with null encapsulation      draft §4.3, DESIGN §14.11
//	establish/     from an offer to a pipe            draft §4.2, DESIGN §14.7
//	roaming/       local addresses that come and go   DESIGN §9
//	upkeep/        what is done every twenty seconds  DESIGN §8
//	entry/         founding, joining, coming back     DESIGN §15.4
//	adapter/       each room as another one wants to see it
package overlay
