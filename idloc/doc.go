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
//	node, err := idloc.Join(ctx, token, idloc.Config{Name: "venus", Dir: dir})
//	if err != nil { … }
//	defer node.Close()
//	conn, err := node.Dial(ctx, "tcp", "mars.example.com:80")
//
// Then [Node.Dial], [Node.Listen], [Node.ListenPacket] and [Node.HTTPClient]
// do what their namesakes in net and net/http do. [Node.WhoIs] tells who is
// behind a RemoteAddr; the pipe has authenticated it.
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
//     with net.ErrClosed and returns when all its goroutines have ended.
//   - Errors are *net.OpError outside. A Dial that failed on its way names
//     its stage in a [*StageError]: name, offer, connectivity check,
//     handshake or connect.
//
// # Limits
//
//	packets held for a peer while its pipe opens   64, and 256 KiB; the oldest is dropped
//	a Dial to a peer that is gone                  ends within 10 s
//	events a watcher may lag behind                1,024; the oldest are dropped
//	candidates in an offer                         16
//	size of an offer or answer                     4 KiB
//	half-open handshakes                           256, 4 per peer
//	connections that wait for Accept               4,096 a listener, where peers take turns
//	  of one peer, at all listeners                2,048; its next SYN is dropped and comes again
//	inbound TCP connections of one peer            16,384 until they are over; the next is refused
//	  what they hold unread                      32 MiB, 64 MiB while each has less than its part; one segment each beyond; the rest is dropped and comes again
//	unread data of one connection                  2 MiB, up to 16 MiB where it is read fast
//	unread datagrams of one UDP conn               1 MiB, or what SetReadBuffer says; the newest is dropped
//	a closed connection that nobody acknowledges   2 minutes
//	TCP handshakes half open                       4,095 a listener; SYN cookies beyond
//	UDP flows whose admission is remembered        4,096, 1,024 that one LSI of a peer began; Admit is asked about each datagram beyond
//	offers read of one peer                        20 a second, 5 at once
//	a UDP datagram                                 65,507 bytes; EMSGSIZE beyond
//	LSIs                                           65,532 in a /16; reused 15 min after the last flow, else ErrLSIExhausted
//	names being looked up                          1,024; beyond, an error that is Temporary
//	DNS queries being answered                     512; beyond, dropped: the client asks again
//	DNS over TCP                                   128 connections, the next is closed; 16 queries each, the next waits
//	a DNS client that says nothing                 closed after 10 s
//	null flows that others have opened             4,096; beyond, refused
//	a null TCP conn without a path                 60 s, then ETIMEDOUT; Close goes on for 30 s in the background
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
// [Node.Handler] all of these for a browser and for Prometheus. A Dial whose
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
//	dial.go      Dial: name, LSI, connect         draft §2, §4.1, §5
//	dialer.go    several overlays at once         draft §4.1, §9.1
//	listen.go    Listen, ListenPacket
//	null.go      flows with null encapsulation    draft §4.3
//	peer.go      WhoIs, Ping, Status
//	watch.go     events
//	track.go     one Dial's times: event, trace
//	meter.go     metrics
//	handler.go   the page and what else is served over HTTP; page/
//	errors.go    errors and their stages
package idloc
