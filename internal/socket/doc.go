// Package socket is the node's one UDP port: a socket on each local address,
// all on one port number, shared by STUN, pipes and QUIC. One port to open in
// a firewall, one NAT mapping to learn and to keep.
//
// Call [Listen]; it reads at once, on one goroutine per socket, and sorts
// every datagram by its first byte, without a copy:
//
//	  0..3              STUN     Config.OnSTUN          RFC 7983 §7
//	 64..127, 192..255  QUIC     views of ListenQUIC    RFC 9443 §3
//	128..191            pipes    Config.OnPipe          the range QUIC leaves
//	the rest            dropped and counted
//
// A packet goes
//
//	out: pipe -> Conn.WriteBatch -> link.write -> sendmsg, UDP_SEGMENT, IP_TOS
//	in:  recvmsg, UDP_GRO -> Conn.read -> Conn.demux -> OnPipe
//	                                                 -> OnSTUN
//	                                                 -> quicGate -> view.put -> view.ReadFrom
//
// Beside the sockets there may be a Carrier: streams to members, as one more link with
// addresses of its own (carrier.go). It is none of Conns.
//
// Behind a NAT that gives each destination another port, extra sockets with numbers of
// their own are opened for a while (extra.go); the one that the peer has hit stays. They
// are none of Conns.
//
// On a host that has IPv6 only, in a network with a NAT64, one Conn more has an IPv4
// address and translates (nat64.go). It is one of Conns. Its prefix is what a router
// announces, as far as the system passes that on (Linux), else what the resolver tells.
//
// A link is one bound socket: the kernel's (kernelLink: a batch of datagrams
// is one system call where the system can do it, found out at run time, one
// call each elsewhere) or a simulated network's (simLink).
//
// The data path (Conn.WriteBatch, Conn.WriteClass, Conn.WriteTo, the read loop, a view's
// WriteTo and ReadFrom) allocates nothing on kernel sockets once the peers are
// known, and takes no lock that sockets share. Nor do those who send on one socket
// wait for each other, but when its send buffer is full.
//
// Addresses come and go. The set of sockets is an immutable snapshot behind an
// atomic pointer; [Port.Rescan] makes the next one. A [Conn] lives as long as
// its address: afterwards its writes fail with net.ErrClosed.
//
// QUIC answers strangers: a stateless reset to a short header it does not
// know, version negotiation to a version it does not know. On a shared port
// either would tell a scanner what listens here, so a view lets through only
// what begins a QUIC version 1 handshake, rate-limited, and short headers only
// from those we are talking with, or to connection IDs that this host has chosen,
// if only before its last start (quicgate.go).
//
//	file                section
//	port.go, addrs.go   draft §5.3.2 (candidates are the addresses of these sockets)
//	conn.go, stats.go, errors.go   one socket, its counters and its errors
//	demux.go            RFC 7983 §7, RFC 9443 §3
//	iface*.go           what an interface is, whether it leads out: rtnetlink(7)
//	source.go           RFC 6724 §5 (through the system's own choice), RFC 1122 §3.3.4.2
//	kernel*.go          RFC 8899 §4.2 (don't-fragment on every datagram)
//	message_linux.go    recvmsg(2), sendmsg(2)
//	quicgate.go         RFC 8999 §5, RFC 9000 §10.3, §14.1, §17.2
//	quicinitial.go      RFC 9001 §5.2 to §5.4
//	sources.go          RFC 9000 §8.1, §21.10
//	quicview.go         net.PacketConn
//	watch*.go           rtnetlink(7)
//	nat64.go            RFC 6052, RFC 7050, RFC 7335; asked on each change and every 10 min
//	announced.go        RFC 8781 §4, §5.1: prefixes that routers announce, until they end
//	useropt_linux.go    rtnetlink(7), nduseroptmsg: how the kernel passes these on
//	carrier.go          streams in place of sockets, package carrier
//	extra.go            sockets with numbers of their own, for guessed ports
//	sim.go              sockets of a simulated network
package socket
