// Package netstack is TCP/IP in the process: gVisor's stack with the shim as
// its link, wrapped so that what it hands out keeps the promises of package
// net. New makes a Stack; DialTCP, ListenTCP, DialUDP and ListenUDP are what
// applications end up with.
//
//	application
//	   │  net.Conn, net.Listener, net.PacketConn      tcp.go udp.go
//	gVisor   IPv4 IPv6 TCP UDP ICMP                   stack.go
//	   │  stack.LinkEndpoint                          link.go
//	shim
//
// The link's MTU is the largest packet's, because nothing below needs IP fragments: the shim
// cuts TCP to what the pipe takes, and the pipe splits other packets (DESIGN
// §14.3). What TCP announces as its MSS is set on the endpoints instead, so
// that a full segment with IPv4 or IPv6 LSIs fills two UDP payloads of 1472
// bytes (link.go says why two). The link takes TCP's super packets whole (host GSO) and says that
// checksums are verified, because the pipe's AEAD did that (DESIGN §13).
//
// The stack has the node's own LSIs, to which it can talk through itself, and
// routes to the LSI prefixes only: nothing else is reachable.
//
// gVisor's own adapter, gonet, is not used: a deadline there is not
// os.ErrDeadlineExceeded, Read after Close is io.EOF, errors are text. Here
// one function (errors.go) maps the stack's errors to those of package
// syscall, net and os, and conns are written on tcpip.Endpoint.
//
// A UDP datagram that fits the pipe goes between conn and shim directly;
// gVisor keeps the ports and has all that is rare (datagram.go).
//
// A peer can have a share of this node's TCP and no more: 16,384 inbound
// connections until they are over, 2,048 that wait for Accept, where peers take
// turns (backlog.go), and 32 MiB in all of these that nobody has read; beyond
// that each connection has a part of as much again (unread.go).
//
// Refusing flows: Config.Admit is asked in link.go, before TCP sees a SYN and
// before UDP sees the first datagram of a flow that this node did not begin.
//
// # File table
//
//	stack.go    options, addresses, life        DESIGN §12
//	link.go     stack.LinkEndpoint              DESIGN §13
//	admit.go    inbound flows
//	recheck.go  those that were let on, asked about again
//	tcp.go      net.Conn on a TCP endpoint      RFC 9293
//	addrs.go    the two addresses of one
//	patience.go TCP's least timeout               RFC 6298 §2.4
//	near.go     the window that conns to a near peer share
//	window.go   the peer's window, and acknowledgements within it  RFC 9293 §3.10.7.4
//	orphan.go   closed connections that still deliver
//	cut.go      what the end of a Stack left undelivered
//	gone.go     conns to a peer whose process is over
//	lastwords.go  what they are told in its name  RFC 5961
//	delivered.go  what a peer may be told of the end of this node
//	options.go  what net.TCPConn has beyond net.Conn
//	class.go    traffic classes                 RFC 2474
//	info.go     what TCP knows of a connection  tcp(7)
//	listener.go net.Listener
//	handed.go   connections made elsewhere      draft §4.3
//	backlog.go  each peer's share of inbound TCP
//	unread.go   what of it may be unread
//	udp.go      net.PacketConn, net.Conn        RFC 768
//	udpconn.go  what net.UDPConn has beyond them
//	batch.go    several datagrams at once       recvmmsg(2)
//	datagram.go UDP past gVisor
//	gvisorlog.go  gVisor's log, silenced
//	errors.go   tcpip.Error → package net's
//	deadline.go deadlines as channels
package netstack
