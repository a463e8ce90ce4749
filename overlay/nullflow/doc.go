// Package nullflow opens and keeps the flows with null encapsulation: TCP connections
// and UDP 5-tuples between two peers that do not go through a pipe, but over real
// sockets of their own, with not a byte added to their packets (draft §4.3). A node
// makes one Flows, dials with DialTCP and DialUDP, and gives it each offer of a peer's
// that is about such a flow.
//
// A flow begins with an offer and an answer of its own, sealed and routed like
// those of a pipe (Config.Offers). A UDP flow has ICE on sockets of its own
// (UDPChecks), a TCP flow the checks of package ice/tcp and, on the connection
// that they bring, an internal/null.Stream, over which TLS 1.3 runs where policy
// wants it. Of the two policies the stricter counts, and the answering side
// compares them before it shows an address; the asking side's own policy has
// allowed its offer.
//
// # Other real addresses
//
// A flow outlives its real addresses. When a connection is lost, when a local
// address has gone, or when the peer no longer shows consent (RFC 7675), either
// side makes another offer, a resumption:
//
//	        loss, or address gone              answer, checks passed
//	in use ─────────────────────▶ attempt(epoch) ─────────────────▶ in use
//	   ▲                           │        ▲ │
//	   │                           │        └─┘ the peer's offer, with a higher
//	   │                           │            epoch, or the same one of the
//	   │                           │            smaller peer ID: it takes over
//	   └── ended: no path for udpPatience, or the peer says that it knows no such flow
//
// Attempts are numbered by an epoch, which rises; of a flow at most one is
// under way. The opener of a flow asks first; the other side leaves it
// openerFirst of head start, because both have often noticed the loss at once.
// For TCP, offer and answer carry counts of bytes taken (see internal/null).
//
// # Times
//
//	dialTimeout   8 s     a dial until both sides have the checks' result; as for a pipe
//	checkTimeout  5 s     the checks of one attempt; as for a pipe
//	tlsTimeout    10 s    the TLS handshake, two round trips on a bad path
//	watchEvery    500 ms  how often unused TCP connections are looked at
//	openerFirst   300 ms  a round trip round the world
//	agentGrace    1 s     an agent answers checks again whose response was lost
//	consentEvery  4 s     a check of a UDP path in use (RFC 7675 §5.1: about 5 s)
//	consentFor    30 s    RFC 7675 §5.1
//	consentLost   10 s    two checks without an answer: look for another path
//	udpRetry      500 ms  between the attempts for another path
//	udpPatience   60 s    without a path the flow ends
//
// # Files
//
//	flows.go    Config, the flows that there are       draft §4.3
//	shares.go   how many of them peers may have opened, and who gives way
//	offer.go    offers of flows: making, answering     DESIGN §14.11
//	attempt.go  attempts, and which of two stands      DESIGN §14.11
//	tcp.go      TCP: opening, TLS, resuming            draft §4.3
//	udp.go      UDP: opening, consent, another path    draft §4.3, RFC 7675
//	deliver.go  offers and answers on their way        package offers
//	checks.go   UDP sockets of package ice
package nullflow
