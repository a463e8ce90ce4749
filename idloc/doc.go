// Package idloc joins a Go program to a peer-to-peer overlay in which it
// dials and listens by name, as package net does, with nothing but NATs
// between it and the others: no server, no root, no kernel device.
//
// It implements draft-matthews-p2psip-id-loc-01. TCP/IP runs inside the
// process (gVisor's); its link is the draft's shim, which turns locally
// significant addresses (LSIs) into encrypted UDP pipes that ICE opens; names
// are signed records in a Kademlia database that the members run.
//
// # Getting in
//
// One peer founds the overlay with [Create] and mints tokens with
// [Node.Invite]. A token is one line of text; whoever has it enters with
// [Join] while any member named in it can be reached. With [Config].Dir set,
// [Open] (or the same call again) resumes the same peer after a restart.
// [Node.Close] keeps the name in the database for a while, [Node.Leave] gives it
// up.
//
// # Who rules
//
// Whoever founds an overlay is its first authority: it says who is revoked and what the
// grants are. [Node.Promote] makes other members authorities, [Node.SetThreshold] says how
// many of them have to agree, and [Node.Demote] removes one, the founder too: so the
// overlay outlives its founder. What needs more than one is a proposal, with [ErrPending];
// members carry it, [Node.Proposals] lists it and [Node.Approve] signs it. One authority
// alone can still invite, confirm and make delegates. [Node.AddRecovery] makes an authority
// on paper. [Node.History] tells what was done, by whom.
//
// Where no authority and no delegate is heard of, certificates that have ended count among
// the members, for a year unless [Node.SetUnattended] says otherwise. RUNBOOK.md beside
// this file says how to set up several authorities, and what to do when one is lost.
//
// The port is a part of that state: a node that chose its own has it again, so
// that members that were all off find each other and tokens from before work. Join
// uses its whole context, and Open returns without anybody if nobody is there:
// [Status].Self.Alone says so.
//
//	node, err := idloc.Join(ctx, token, idloc.Config{Name: "venus", Dir: dir})
//	if err != nil { … }
//	defer node.Close()
//	conn, err := node.Dial(ctx, "tcp", "mars.example.com:80")
//
// Then [Node.Dial], [Node.Listen], [Node.ListenPacket] and [Node.HTTPClient]
// do what their namesakes in net and net/http do. [Node.WhoIs] tells who is
// behind a RemoteAddr; the pipe has authenticated it.
//
// Conns have no descriptor (SyscallConn says [errors.ErrUnsupported], but on a
// node with a TUN device). What programs do with one elsewhere are methods of
// [TCPConn] and [UDPConn], which all conns of these networks are.
//
// # Rules
//
//   - Addresses of conns are LSIs. They mean something on this node only
//     (draft §9.1): do not send them to other peers, send names.
//   - Everything between two members is encrypted and authenticated with the
//     peers' keys, forward secret, and its session keys resist a recording
//     that a quantum computer reads later. The package documentation of
//     internal/pipe says exactly what is and is not defended.
//   - A Node may be used from any number of goroutines. Close ends every call
//     with net.ErrClosed and returns when all its goroutines have ended and
//     the peers have what was written to its conns; Shutdown lets conns finish.
//   - Errors are *net.OpError outside. A Dial that failed on its way names
//     its stage in a [*StageError]: name, offer, connectivity check,
//     handshake or connect.
//
// # Limits
//
//	packets held for a peer while its pipe opens   64, and 256 KiB; the oldest is dropped; Dials wait without limit
//	a Dial to a peer that is gone                  ends within 10 s, however many there are; with a deadline, at that
//	  attempts to reach it                         one for all Dials; the next after 0.1 s to 2 s, or when it comes
//	a Dial whose context has no deadline           30 s
//	events a watcher may lag behind                1,024; the oldest are dropped
//	candidates in an offer                         16
//	size of an offer or answer                     4 KiB
//	half-open handshakes                           256, 4 per peer
//	connections that wait for Accept               4,096 a listener, where peers take turns
//	  of one peer, at all listeners                2,048; its next SYN is dropped and comes again
//	inbound TCP connections of one peer            16,384 until they are over; the next is refused
//	  what they hold unread                      32 MiB, 64 MiB while each has less than its part; one segment each beyond; the rest is dropped and comes again
//	unread data of one connection                  2 MiB, up to 16 MiB where it is read fast
//	unread datagrams of one UDP conn               4 MiB, or what SetReadBuffer says; the newest is dropped
//	a closed connection that nobody acknowledges   2 minutes; while the peer acknowledges, 64 of one peer go on for longer
//	Close of a node                                10 s while peers take what was written; Shutdown says how long
//	TCP handshakes half open                       4,095 a listener; SYN cookies beyond
//	UDP flows whose admission is remembered        4,096, 1,024 that one LSI of a peer began; Admit is asked about each datagram beyond
//	offers read of one peer                        20 a second, 5 at once
//	a UDP datagram                                 65,507 bytes; EMSGSIZE beyond
//	LSIs                                           65,532 in a /16; reused 15 min after the last flow, else ErrLSIExhausted
//	names being looked up                          1,024; beyond, an error that is Temporary
//	DNS queries being answered                     512; beyond, dropped: the client asks again
//	DNS over TCP                                   128 connections, the next is closed; 16 queries each, the next waits
//	a DNS client that says nothing                 closed after 10 s
//	users that a node says it has                  12; a user is at four members, and for an hour
//	null flows that others have opened             4,096; beyond, refused
//	a null TCP conn without a path                 60 s, then ETIMEDOUT; Close goes on for 30 s in the background
//
// # Errors
//
// What errors.Is finds in what the API returns, or errors.As where a type stands.
// The text says which name, address and step it is about, and why. What an operator
// does about each, and about counters and events, is in RUNBOOK.md beside this file.
//
//	error                        when                                                          what to do
//	net.ErrClosed                this node, listener or conn was closed, before or meanwhile   end
//	context.Canceled             the context of the call was cancelled                         end
//	context.DeadlineExceeded     the context of the call has ended                             try again with more time
//	os.ErrDeadlineExceeded       SetDeadline and the like; a Dial's deadline                   go on with a new deadline: the conn is whole
//	*StageError                  Dial, Ping: failed on the way to the peer                     see Stage, and Timeout, whether it is worth another try
//	ErrUnreachable               Dial, Ping: the peer is offline, or there is no path to it    try again later; a Dial with a deadline goes on until then
//	ErrRefusedByPolicy           rights, null encapsulation, names of no overlay, MaxListAge   ask who may, or change Config: the same is refused again
//	ErrLSIExhausted              Dial: each LSI stands for a peer that is in use               close conns, or take a larger Config.LSIPrefix
//	ErrNoState                   Open: there is no overlay in Config.Dir                       Create, or Join with a token
//	*ConfigError                 Create, Join, Open: a field of Config cannot be meant so      correct it: Field says which; what is only doubtful is in Status().Self.Warnings
//	*CutError                    Close, Shutdown, Leave, Rotate: peers lack what was written   give Shutdown more time
//	*PrefixError                 starting with Config.TUN: LSIs would hide a network           take the prefix that it names
//	*net.DNSError                a name: IsNotFound if nobody has it, else nobody could tell   correct the name, or try again
//	*net.AddrError               an address that is no member's, or is malformed               correct it
//	net.UnknownNetworkError      a network other than tcp, udp and those with 4 or 6           correct it
//	membership.ErrNotToken       Join: the text is no token                                    copy the token anew
//	membership.ErrTokenDamaged   Join: a part of the token is missing or changed               copy the token anew
//	membership.ErrTokenVersion   Join: the token is of a newer idloc                           use that
//	membership.ErrUsed           Join: the token has let in as many others as it is for        ask for another
//	membership.ErrUses           Invite: Uses is no number that a token can be for             at most 64, or AnyNumber; one with a name, or Reuse
//	ErrExpectation               SetGrants: an expectation of the text does not hold           correct the rules, or the expectation
//	ErrPending                   what several authorities decide: others have to approve it    nothing: it is in force when they have; Proposals has it, Approve signs it
//	ErrNoProposal                Approve: no proposal has that ID, or several begin so         Proposals has them: it may be in force, over, or not have come here yet
//	ErrRecoveryLine              Recover: no recovery line of this overlay, or mistyped        read the paper again: the letters of base32, no 0, 1, 8 or 9 but in "recover1"
//	membership.ErrAuthority      Promote, Demote, SetThreshold: it cannot be changed so        the text says why: promote another first, or lower the threshold
//	admission.ErrScope           Revoke with an option: there is no such invitation or delegate  revoke the peer alone
//	admission.ErrNoInvitation    Withdraw: no invitation is known by that ID                   Invitations has them
//	membership.ErrLifetime       Invite, SetUnattended: longer or shorter than may be          ask for what the text says
//	membership.ErrBadLabel       Config.Name, Invite: not a host label                         a-z, 0-9 and hyphens, without the domain
//	membership.ErrBadDomain      Create: not a domain, an address, or a top-level one          one below yours, or of test, internal, home, lan
//	overlay.ErrNotIssuer         Invite by one who is neither an authority nor a delegate      ask one of them
//	overlay.ErrNotFounder        Revoke, SetGrants, Promote and the like by no authority       ask an authority: Authorities has them
//	errors.ErrUnsupported        SyscallConn; null encapsulation with a TUN device             do without
//	syscall.ECONNREFUSED         Dial: nobody listens there, or Admit or the grants refused    try again when somebody does
//	netstack.ErrNotAdmitted      a conn that was accepted, and the grants allow no more        nothing: Grants says who may
//	membership.ErrTags           Invite: not words that can be tags, or not this delegate's    a-z, 0-9 and hyphens; those that it has
//	syscall.ECONNRESET           the peer has reset the conn, or its process is over           dial again
//	syscall.EPIPE                Write after CloseWrite, or after a reset was reported         dial again
//	syscall.ENOTCONN             CloseRead, CloseWrite of a conn that is over                  Close
//	syscall.ETIMEDOUT            nothing was acknowledged: SetUserTimeout, keep-alive, Close   dial again
//	syscall.EHOSTUNREACH         a conn whose pipe cannot be opened                            dial again: a StageError says why
//	syscall.EADDRINUSE           Listen: somebody listens on that port                         take another
//	syscall.EADDRNOTAVAIL        Listen: not an address of this node; Dial: no port is free    correct it; close conns
//	syscall.EMSGSIZE             a datagram is larger than 65,507 bytes                        send less at once
//	syscall.EINVAL               an option's value cannot be                                   correct it
//
// # Differences from package net on a kernel
//
// Random programs of two sides (internal/difftest) see on two nodes what they see
// on the kernel's loopback, but for this. What is a race on the kernel too, once
// there is a network between the sides, is listed with its reason, because
// loopback does not show it:
//
//	Write after the peer's Close or reset             nil, EPIPE or ECONNRESET: whether the reset has come by then
//	CloseRead, CloseWrite after both sides' ends      nil or ENOTCONN: whether the last acknowledgement has come by then
//	Read when the peer reset and segments were lost   fewer bytes, and ECONNRESET instead of EOF: a reset overtakes what was lost
//	Read when the peer has reset, or was written to   the same without a loss if more was under way than a congestion window begins
//	  after its Close                                 with, 28 kB: the reset discards what it held back, the FIN too; loopback has segments of 64 kB
//	Read after CloseRead                              what came before; of what comes later all, a part or nothing, where the kernel has all
//	CloseRead and CloseWrite, and data unread         a reset at once; the kernel waits for more data to come, and resets then
//	Read after CloseWrite, a FIN and then a reset     ECONNRESET where the kernel says EOF, if the FIN came after CloseWrite and nobody had read it yet
//	Write, CloseWrite, when the peer's node has ended EPIPE, ENOTCONN at once: the node has said so; the kernel's first Write draws the reset
//	a Write that has to wait                          takes what the node's buffers hold, which are larger
//	Accept                                            peers take turns; connections of one come in order
//	Dial to a node that has ended                     EHOSTUNREACH, or no answer while ctx lasts: there is no kernel left to refuse
//	a reader that stands still when a node is closed  gets the rest for 10 s, or as long as Shutdown's ctx lasts, then ECONNRESET
//	a node that is killed                             its peers' conns live until one knows of it, then what had come, and ECONNRESET unless the end
//	                                                  had come too; a kernel outlives the process, and delivers all that it wrote, and the end
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
// [Node.Status] is a snapshot, [Node.Watch] the events, [Node.Ping] a
// measurement inside the pipe, [Node.Capture] the inner packets, and
// [Node.Handler] all of these for a browser and for Prometheus, with who rules the overlay; [Node.Collector]
// is for a Prometheus registry of one's own. A Dial whose
// context carries an OpenTelemetry span that records becomes a span
// "idloc.Dial" with a child for each stage that ended before it did: the checks
// go on beside the handshake. The histograms and events cost a few map operations
// for each Dial and nothing for each packet.
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
