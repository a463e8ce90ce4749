// Package carrier brings datagrams through networks that let no UDP out: a carrier
// is one stream connection, TLS 1.3 over TCP or WebSocket over HTTPS, over which a
// node exchanges with the member that serves it the same datagrams that the two
// would exchange by UDP: STUN, QUIC and pipes, told apart by their first byte as ever.
//
// A [Set] is all carriers of a node: those that it has opened itself (Connect, or
// just Write to a known address) and those that it serves (Serve, Handler). To
// package socket it is one more link. Its far ends have addresses of 100::/64, the
// prefix that RFC 6666 has every router discard: an address of a carrier means
// something in this process only, and one that gets out by mistake reaches nobody.
//
//	100::1                  this node, as the near end of all its carriers
//	100::4000:0:0:0/66      the far end of a carrier that this node opens, by a hash of
//	                        its address, under a key of this process: known before there
//	                        is a connection
//	100::8000:0:0:0/65      the far end of one that somebody else has opened, at random
//
// # What is trusted
//
// Nothing. A carrier is a wire: what it carries is what authenticates, as it does over
// UDP, and what comes out of one goes to the node's own port and nowhere else. So the
// certificate of tls:// is made in memory, says nothing and is not looked at. That of
// wss:// is verified as browsers do, for two reasons. The request goes to a web server
// on a host that another member may have named: before its certificate has shown that
// the host is the one that was named, that server sees no path of the member's
// choosing. And networks whose middleboxes open TLS have their roots on the host.
// There is no ws:// for the first reason; a Handler behind whatever ends TLS is served
// plain.
//
// # Frames
//
//	length 2, big endian, 1 to MaxDatagram | datagram
//
// one after the other, in both forms: messages of WebSocket are pieces of the stream,
// with no meaning of their own. Another length ends the carrier. ALPN, and the
// subprotocol of WebSocket, is "idloc-carrier". Nobody says anything first: a client
// that sends nothing for firstFor is let go.
//
// # Queues
//
// TCP repeats what is lost and keeps the order, so what waits in front of it waits for
// everything before it, and an inner TCP that cannot see that fills whatever buffer it
// finds. A pipe that repairs has its own measure of the stream and stays below its rate
// (package pipe); for all others a carrier holds only what its rate takes away in queueFor, and queueMin, drops the oldest
// when there is more, drops what the stream has kept waiting for longer than lateAfter (the outer TCP was repeating
// something: by then the inner one has sent it again), and keeps the kernel from holding
// much that is not on its way yet (TCP_NOTSENT_LOWAT, Linux; elsewhere a small send
// buffer). Datagrams of up to smallMax bytes, acknowledgements and voice, go
// ahead of the others.
//
// # Who serves
//
// Bounds hold per address (an IPv6 one is its /56) and for all together, before a byte
// was read. TLS, and a client's first frame, have times of their own; a client that does
// not take what is sent to it for writeFor is let go, and so is one that is idle. Behind
// a proxy all clients come from one address: bounds per address do not hold for private
// and loopback ones of a Handler.
//
//	smallMax       256     bytes: most acknowledgements, voice, STUN
//	queueFor       30 ms   of the carrier's rate may wait, in our hands, where small ones overtake
//	                       it, or a round trip of the outer TCP where that is longer: a reno needs it
//	maxRTT         300 ms  and no longer
//	unsentFor      4 ms    of it in the kernel's, where nothing overtakes; or half a round trip
//	queueMin       256 KiB and so much always: until the outer TCP has found its rate, less has
//	                       the inner one lose its first window
//	queueMax       4 MiB   and no more
//	lateAfter      100 ms  of waiting for the stream, after which a datagram is worth nothing any more, or two round trips
//	batchMax       16 KiB  written at once: a record of TLS
//	hastyMax       1 KiB   read at once is acknowledged at once (Linux): many proxies send no
//	                       small segment before the last is acknowledged (RFC 896)
//	connectFor     8 s     to open one, proxy and TLS included
//	handshakeFor   5 s     of TLS, for who serves
//	firstFor       5 s     from then to the first whole frame
//	idleFor        90 s    without a frame, then it ends: QUIC and pipes say something each 15 s
//	unusedFor      60 s    the same for who has opened it: first, so that it is no surprise
//	writeFor       10 s    one write: who takes nothing for so long is gone
//	deadFor        4 s     without an answer to what was sent, pauses of up to half of it in between: another connection may do better
//	retryMin       500 ms  from a failure to the next attempt, doubling
//	retryMax       5 s     up to this
//	perAddress     64      carriers from one address: an office behind a NAT
//	serveMax       1024    carriers from all
//	handshakesMax  128     of these in TLS
//	handshakeEach  16      of these from one address
//	handshakeBurst 64   handshakes of one address at once
//	handshakeEvery 250 ms  and then one in this time
//	pacedMax       4096 addresses that are counted for it
//	knownMax       512     addresses that can be written to
//	openMax        64      carriers that a node opens: a member may have named them
//	attemptsMax    16      attempts a minute to one host, and to one IP address, that none of has worked since
//
// # Proxies
//
// Those of the environment, as net/http reads it (HTTPS_PROXY, NO_PROXY), by CONNECT
// with Basic authentication, for both forms.
//
//	file           what it is
//	address.go     tls://host:443, wss://host/path
//	frame.go       the stream
//	queue.go       what waits to be sent
//	conn.go        one carrier, at either end
//	set.go         all of them, as a link of package socket
//	dial.go        opening one
//	websocket*.go  options of the WebSocket that is opened
//	attempts.go    how often it is tried
//	proxy.go       CONNECT                              RFC 9110 §9.3.6, RFC 7617
//	serve.go       TLS and WebSocket, for others        RFC 8446, RFC 6455
//	lowat*.go      tcp(7)
package carrier
