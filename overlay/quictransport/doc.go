// Package quictransport lets libp2p speak QUIC on the one UDP port that a node has for
// everything (package socket; DESIGN §5). It is a transport in the place of libp2p's
// own: it speaks the same protocol and takes its TLS from there, and does what that one
// cannot be told to:
//
//   - No datagram is larger than PacketSize, from the first on and in both
//     directions. libp2p's begins with QUIC packets of 1280 bytes, which do not
//     get through a tunnel in a tunnel, and its listener cannot be told
//     otherwise. The packets do not grow either: hellos, records and offers are
//     small, and what was never larger is swallowed by no path.
//
//   - What comes in waits in QUIC's own queue: libp2p's holds sixteen and closes
//     the rest, which is an office that comes back after a power cut.
//
//   - What a dial sends before the peer has answered passes a Gate (package
//     hearsay), datagram by datagram.
//
//   - Its connection IDs are known again by a peer that has started anew, which
//     tells their other ends at once that the connections are gone.
//
// An endpoint is a view of one of the port's sockets with the QUIC stack on it.
// It begins with the first who listens or dials there, and ends with the last
// connection, after the listener.
//
// # Files
//
//	transport.go  Transport, dialling, endpoints
//	ids.go        connection IDs            RFC 9000 §5.1, §10.3
//	listener.go   what comes in
//	gated.go      what leaves for addresses that are being dialled
//	timeless.go   certificates without a date
//	carried.go    dialling over carriers
//	conn.go       connections and streams as libp2p sees them
package quictransport
