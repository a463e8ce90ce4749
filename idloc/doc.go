// Package idloc makes a Go program a member of a small private network, an overlay, in
// which it dials and listens by name as with package net, although NATs stand between it
// and the others: no server, no root, no kernel device.
//
// It implements draft-matthews-p2psip-id-loc-01. TCP/IP runs inside the process (gVisor's).
// Programs see addresses that stand for members on this node only, LSIs (locally
// significant identifiers); what is sent to one goes through an encrypted UDP pipe to the
// member, whose way through the NATs ICE has found. Names are signed records in a Kademlia
// database that the members run themselves.
//
// # Getting in
//
// One node founds the overlay with [Create] and makes tokens with [Node.Invite]. A token
// is one line of text; whoever has it enters with [Join], if one of the members that it
// names can be reached. With [Config].Dir set, [Open] (or the same call again) resumes
// the same member after a restart.
//
//	node, err := idloc.Join(ctx, token, idloc.Config{Name: "venus", Dir: dir})
//	if err != nil { … }
//	defer node.Close()
//	conn, err := node.Dial(ctx, "tcp", "mars.example.com:80")
//
// [Node.Dial], [Node.Listen], [Node.ListenPacket] and [Node.HTTPClient] do what their
// namesakes in net and net/http do. [Node.WhoIs] tells which member is behind a RemoteAddr;
// the pipe has authenticated it.
//
// Join tries until its context ends. Open returns also if nobody can be reached, and goes on
// trying: [Status].Self.Alone says so. Config.Dir remembers the UDP port as well, so that
// members find each other again after all of them were off, and tokens made before still
// lead to this node. After [Node.Close] the name stays in the database for up to four hours;
// [Node.Leave] takes it out at once.
//
// Conns have no file descriptor: SyscallConn gives [errors.ErrUnsupported], except on a node
// with a TUN device. What programs do by a descriptor elsewhere are methods of [TCPConn] and
// [UDPConn]; every conn of these networks is one of the two.
//
// # Who rules
//
// Whoever founds an overlay is its first authority: it says who is revoked and what the
// grants are. [Node.Promote] makes other members authorities, [Node.SetThreshold] says how
// many of them have to agree, and [Node.Demote] removes one, the founder too: so the
// overlay outlives its founder. What more than one has to agree to is a proposal, and the
// call returns [ErrPending]; members pass proposals on, [Node.Proposals] lists them and
// [Node.Approve] signs one. One authority alone can still invite, confirm members and make
// delegates. [Node.AddRecovery] makes an authority that is a line on paper. [Node.History]
// tells what was done, and by whom.
//
// While no authority and no delegate is heard of, members take each other's certificates
// although they have ended, for a year unless [Node.SetUnattended] says otherwise. RUNBOOK.md
// beside this file says how to set up several authorities, and what to do when one is lost.
//
// # Rules
//
//   - Addresses of conns are LSIs. They mean something on this node only
//     (draft §9.1): do not send them to other peers, send names.
//   - What goes through a pipe is encrypted, and authenticated with the keys of
//     the two members. Who records it and gets hold of these keys later, or of a
//     quantum computer, cannot read it. The package documentation of
//     internal/pipe says exactly what is and is not defended. Flows with null
//     encapsulation, which are off unless Config.Null allows them, do not go
//     through a pipe.
//   - A Node may be used from any number of goroutines. Close ends every call
//     with net.ErrClosed. It returns when all its goroutines have ended and the
//     peers have what was written to its conns, after 10 s at most; Shutdown waits
//     until the conns are closed.
//   - The errors of conns, listeners and Dial are *net.OpError, as those of
//     package net. That of a Dial has a [*StageError] inside, which names the stage
//     that failed: name, offer, connectivity check, handshake or connect.
//
// # Limits
//
//	packets held for a peer while its pipe opens   64, and 256 KiB; the oldest is dropped. Dials wait, any number of them
//	a Dial to a peer that is gone                  fails within 10 s; if its ctx has a deadline, it tries until then
//	  attempts to reach the peer                   one at a time, for all Dials; after a failure the next follows within 2 s, or when the peer is heard of
//	a Dial whose context has no deadline           30 s
//	events a watcher may lag behind                1,024; the oldest are dropped
//	candidates in an offer                         16
//	size of an offer or answer                     4 KiB
//	half-open handshakes                           256, 4 per peer
//	connections that wait for Accept               4,096 a listener; Accept takes one of each peer in turn
//	  of one peer, at all listeners                2,048; beyond, its SYNs are dropped, and its TCP repeats them
//	inbound TCP connections of one peer            16,384, those that are closing included; the next is refused
//	  what they hold unread                        32 MiB together, 64 MiB if no connection has more than its share. Beyond, each is left one
//	                                               segment; others are dropped, and the peer's TCP repeats them
//	unread data of one connection                  2 MiB, up to 16 MiB where it is read fast
//	unread datagrams of one UDP conn               4 MiB, or what SetReadBuffer says; the newest is dropped
//	a closed connection that nobody acknowledges   2 minutes; if the peer acknowledges, without end for 64 of one peer
//	Close of a node                                10 s while peers take what was written; Shutdown says how long
//	TCP handshakes half open                       4,095 a listener; SYN cookies beyond
//	UDP flows whose admission is remembered        4,096, of them 1,024 begun by one LSI of a peer; of others Admit is asked for each datagram
//	offers read of one peer                        20 a second, 5 in a burst
//	a UDP datagram                                 65,507 bytes; EMSGSIZE beyond
//	LSIs                                           65,532 in a /16; one is given to another peer 15 min after its last flow at the earliest; ErrLSIExhausted if none is free
//	names being looked up                          1,024; beyond, an error that is Temporary
//	DNS queries being answered                     512; beyond, dropped: the client asks again
//	DNS over TCP                                   128 connections, the next is closed; 16 queries each, the next waits
//	  a client that says nothing                   is closed after 10 s
//	users that a node publishes (PublishUser)      12, each for an hour; one user is at four members at most
//	null flows that others have opened             4,096; beyond, refused
//	a null TCP conn without a path                 60 s, then ETIMEDOUT; after its Close 30 s, in the background
//
// # Errors
//
// errors.Is finds these in what the API returns; errors.As those that are types. The text
// of an error says which name, address and step it is about, and why. RUNBOOK.md beside
// this file says what an operator does about each, and about counters and events.
//
//	error                        when                                                          what to do
//	net.ErrClosed                this node, listener or conn was closed, before or meanwhile   stop
//	context.Canceled             the context of the call was cancelled                         stop
//	context.DeadlineExceeded     the context of the call has ended                             try again with more time
//	os.ErrDeadlineExceeded       SetDeadline and the like; a Dial's deadline                   go on with a new deadline: the conn is whole
//	*StageError                  Dial, Ping: failed on the way to the peer                     see Stage, and Timeout, whether it is worth another try
//	ErrUnreachable               Dial, Ping: the peer is offline, or there is no path to it    try again later; a Dial with a deadline goes on until then
//	ErrRefusedByPolicy           the grants, Config or the peer does not allow it              ask an authority, or change Config: another try is refused as well
//	ErrLSIExhausted              Dial: each LSI stands for a peer that is in use               close conns, or take a larger Config.LSIPrefix
//	ErrNoState                   Open: there is no overlay in Config.Dir                       Create, or Join with a token
//	*ConfigError                 Create, Join, Open: the value of a field is a mistake         correct it: Field says which; what is only doubtful is in Status().Self.Warnings
//	*CutError                    Close, Shutdown, Leave, Rotate: peers have not got all data   give Shutdown more time
//	*PrefixError                 starting with Config.TUN: LSIs would hide a network           take the prefix that it names
//	*net.DNSError                a name: nobody has it (IsNotFound), or nobody could tell      correct the name, or try again
//	*net.AddrError               an address that is no member's, or is malformed               correct it
//	net.UnknownNetworkError      a network other than tcp, udp and those with 4 or 6           correct it
//	membership.ErrNotToken       Join: the text is no token                                    copy the token anew
//	membership.ErrTokenDamaged   Join: a part of the token is missing or changed               copy the token anew
//	membership.ErrTokenVersion   Join: the token is of a newer idloc                           use the newer one
//	membership.ErrUsed           Join: others have used it, as often as it may be used         ask for another
//	membership.ErrUses           Invite: Uses is not possible                                  at most 64, or AnyNumber; 1 with a Name, 0 with Reuse
//	ErrExpectation               SetGrants: an expect line of the text does not hold           correct the rules, or the expectation
//	ErrPending                   other authorities have to approve it                          nothing: it is in force when they have; Proposals has it, Approve signs it
//	ErrNoProposal                Approve: no proposal has that ID, or several begin with it    see Proposals: it may be in force already, have ended, or not have come here yet
//	ErrNoCertificate             TLS: this node has no certificate now                         have its name confirmed, or an authority or delegate reached
//	ErrOtherCertificate          TLS: another member shows the certificate                     do not trust it: it was stolen, or the address is wrong
//	ErrRecoveryLine              Recover: the line is mistyped, or of another overlay          read the paper again: after "recover1" there is no 0, 1, 8 or 9
//	membership.ErrAuthority      Promote, Demote, SetThreshold: not possible now               the text says why: promote another first, or lower the threshold
//	admission.ErrScope           Revoke with an option: there is no such invitation or delegate  revoke the peer alone
//	admission.ErrNoInvitation    Withdraw: no invitation is known by that ID                   Invitations has them
//	membership.ErrLifetime       Invite, SetUnattended: too long or too short                  take what the text says
//	membership.ErrBadLabel       Config.Name, Invite: not a host label                         a-z, 0-9 and hyphens, without the domain
//	membership.ErrBadDomain      Create: not a domain name, an address, or a top-level domain  take one below a domain of yours, or one of test, internal, home, lan
//	overlay.ErrNotIssuer         Invite by one who is neither an authority nor a delegate      ask one of them
//	overlay.ErrNotFounder        Revoke, SetGrants, Promote and the like by no authority       ask an authority: Authorities has them
//	errors.ErrUnsupported        SyscallConn; null encapsulation with a TUN device             do without
//	syscall.ECONNREFUSED         Dial: nobody listens there, or Admit or the grants refused    try again when somebody does
//	netstack.ErrNotAdmitted      a conn that was open, and that the grants forbid now          nothing: Grants says who may
//	membership.ErrTags           Invite: not a tag, or one that this delegate has not          a-z, 0-9 and hyphens; a delegate gives its own tags only
//	syscall.ECONNRESET           the peer has reset the conn, or its process is over           dial again
//	syscall.EPIPE                Write after CloseWrite, or after a reset was reported         dial again
//	syscall.ENOTCONN             CloseRead, CloseWrite of a conn that is over                  Close
//	syscall.ETIMEDOUT            nothing was acknowledged: SetUserTimeout, keep-alive, Close   dial again
//	syscall.EHOSTUNREACH         a conn whose pipe cannot be opened                            dial again: a StageError says why
//	syscall.EADDRINUSE           Listen: somebody listens on that port                         take another
//	syscall.EADDRNOTAVAIL        Listen: not an address of this node; Dial: no port is free    correct it; close conns
//	syscall.EMSGSIZE             a datagram is larger than 65,507 bytes                        send less at once
//	syscall.EINVAL               the value of an option is not possible                        correct it
//
// # Differences from package net on a kernel
//
// The tests run random programs of two sides on two nodes and on the kernel's loopback, and
// compare what they see (internal/difftest). What differs is this. Some of it a program
// would see on the kernel as well, with a real network between the sides:
//
//	Write after the peer's Close or reset             nil, EPIPE or ECONNRESET: whether the reset has come by then
//	CloseRead, CloseWrite after both sides' ends      nil or ENOTCONN: whether the last acknowledgement has come by then
//	Read when the peer reset and segments were lost   fewer bytes, and ECONNRESET instead of EOF: a reset overtakes what was lost
//	Read when the peer has reset, or was written to   the same without a loss, if the peer had written more than a first congestion window, 28 kB,
//	  after its Close                                 and was waiting to send the rest: the reset discards that, and the FIN
//	Read after CloseRead                              what came before; of what comes later all, a part or nothing; the kernel gives all
//	CloseRead and CloseWrite with data unread         a reset at once; the kernel sends one when more data comes
//	Read after CloseWrite, a FIN and then a reset     ECONNRESET where the kernel says EOF, if the FIN came after CloseWrite and nobody had read it yet
//	Write, CloseWrite, when the peer's node has ended EPIPE, ENOTCONN at once, as the node has told its end; on the kernel the first Write succeeds, and is answered by a reset
//	a Write that has to wait                          waits later: the node's buffers are larger
//	Accept                                            takes one connection of each peer in turn; those of one peer in their order
//	Dial to a node that has ended                     EHOSTUNREACH, or it waits until ctx ends; ECONNREFUSED on a kernel, which outlives the program
//	a reader that stands still when a node is closed  gets the rest for 10 s, or as long as Shutdown's ctx lasts, then ECONNRESET
//	a node that is killed                             its peers do not hear of it at once; when they do, reads give what had come, then ECONNRESET, or
//	                                                  EOF if the FIN had come. A kernel outlives the program, and delivers all that it wrote, and the FIN
//
// # Null encapsulation
//
// A [Dialer] with Encapsulation Null opens flows that do not go through the
// pipe: each has real addresses of its own, found by ICE, and its segments or
// datagrams carry the application's bytes and nothing else (draft §4.3). Conns,
// addresses, listeners, WhoIs and Admit are as always. A TCP conn lives through
// changes of address and lost paths: it stands still until the peers have found
// other addresses, and goes on at the byte where it stood; the package
// documentation of internal/null says how, and why no byte is lost or doubled.
//
// Nothing encrypts such a flow, so the zero [Config].Null refuses them, NullTLS
// has TCP only, under TLS 1.3 with the peers' keys, and NullPlain is for
// applications that protect themselves. Who is at the other end was
// authenticated when the flow was opened in every case, and no member but that
// one can move or end it; but plain bytes can be read and changed by whoever is
// on their way, as on any network. Both peers must allow a flow, and a real
// address of one must be reachable from the other: there are no relays, and
// nothing falls back to the pipe.
//
// # On the host's kernel
//
// With [Config].TUN the node makes a TUN device and the host's kernel takes the
// place of the TCP/IP in the process (draft §2, Figure 1): programs that know
// nothing of idloc reach members by name, once the host's resolver asks the
// node's DNS server at Status().Self.DNS, and are reached by them. Dial, Listen
// and ListenPacket then make kernel sockets at the node's LSIs. The package
// documentation of netstack/tun says what else a host should know.
//
// # Seeing inside
//
// [Node.Status] is a snapshot, [Node.Watch] gives the events as they come, [Node.Ping]
// measures a round trip inside the pipe, [Node.Capture] writes the packets inside the pipes.
// [Node.Handler] shows all of this in a browser, and has the metrics for Prometheus;
// [Node.Collector] is for a program that has a Prometheus registry of its own.
//
// If the context of a Dial carries an OpenTelemetry span that records, the Dial becomes a
// span "idloc.Dial" below it, with a child for each stage that ended before the Dial did.
// Metrics and events cost a few map operations for each Dial, and nothing for each packet.
//
// # Files
//
//	node.go      composition of the layers        DESIGN §4
//	stack.go     gVisor's TCP/IP or the kernel's  draft §2, Figure 1
//	config.go    Config and the plain types
//	check.go     values of Config that cannot be meant, or hardly
//	carrier.go   carriers, and how others reach this node  DESIGN §14.13
//	saved.go     what Config.Dir keeps: key, port, LSIs
//	dial.go      Dial: name, LSI, connect         draft §2, §4.1, §5
//	redial.go    Dial goes on while its context lasts
//	dialer.go    several overlays at once         draft §4.1, §9.1
//	options.go   what conns have beyond package net's methods
//	listen.go    Listen, ListenPacket
//	null.go      flows with null encapsulation    draft §4.3
//	grants.go    who may open what at whom
//	users.go     where users are: sip:fred        draft §6
//	tls.go       certificates for names           draft §6 (sips:), DESIGN §14.19
//	authorities.go  who rules the overlay, what they agree on, what they have done
//	members.go   Invite, Revoke, the node's DNS   draft §2, §5
//	token.go     what a token is for
//	peer.go      WhoIs, Ping, how Status is gathered
//	status.go    what Status tells
//	capture.go   inner packets for Wireshark
//	watch.go     events
//	track.go     one Dial's times: event, trace
//	meter.go     metrics
//	drops.go     counters of what was dropped
//	handler.go   the page and what else is served over HTTP; page/
//	traffic.go   what pipes have carried, for the page
//	errors.go    errors and their stages
package idloc
