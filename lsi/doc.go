// Package lsi hands out LSIs: the IP addresses that stand for peers on this
// node, and on this node only (draft §4.1, §9.1).
//
// A [Table] belongs to one node. New makes it, Assign gives a peer its LSIs
// and is the only way in: asking (Peer, Of) never allocates anything, so
// names and addresses that a stranger merely mentions cost nothing.
//
// # Addresses
//
//	IPv4   a prefix, /16 of 198.18.0.0/15 unless configured
//	         base + 1     this node
//	         base + 53    this node's DNS resolver
//	         the others   peers, in rising order; never base itself nor the
//	                      last address of the prefix
//	       in prefixes longer than /26, that have no base + 53, the resolver
//	       has the last usable address
//	IPv6   ORCHIDv2 of the peer, in 2001:20::/28
//
//	 0                          28   32                                 127
//	+----------------------------+----+-----------------------------------+
//	|      2001:20::/28          |OGA |  middle 96 bits of the hash       |
//	+----------------------------+----+-----------------------------------+
//	hash = SHA-256(context ID ‖ overlay ID ‖ peer ID), OGA ID = 1
//
// 198.18.0.0/15 is for benchmarks (RFC 2544), so that no host has such an
// address; resolvers that invent addresses use it for the same reason. The
// IPv6 LSI is a function of overlay and peer, but stays of local significance
// like the other (draft §9.1): nothing may be concluded from it elsewhere.
// Where two peers' ORCHIDs are equal the first one has it, and the other has
// no IPv6 LSI.
//
// # Life of an assignment
//
//	          Assign                 Pin
//	free ────────────▶ leased ◀──────────────▶ pinned
//	  ▲                   │      last Unpin      (flows or a pipe run)
//	  │ (reassigned)      │ TTL passed
//	  │                   ▼
//	reclaimable ◀───── quarantine        Assign of the same peer renews the
//	        Quarantine passed            lease from any state
//
// Assign and the last Unpin start the lease anew. An address goes to another
// peer only when no free one is left, then the least recently used of the
// reclaimable ones; if there is none, Assign fails with [ErrExhausted]. One that
// Config.InUse names is not reclaimed but leased anew.
//
// # Several nodes in one process
//
// Tables with a zero prefix take successive /16s of 198.18.0.0/15, of which
// there are two. When both are taken, the one with fewer tables is shared.
// That is legal, as LSIs have local significance, but something that sees
// the LSIs of several nodes, like a dialer over all of them, must then ask
// every table and refuse an address that more than one owns.
//
// # Files
//
//	table.go     Table, Assign, lookups            draft §4.1, §9.1
//	reclaim.go   leases, pins, reuse               DESIGN §10, §14.12
//	index.go     lock-free hash index              —
//	prefix.go    the IPv4 prefix and its sharing   RFC 2544, RFC 6890
//	orchid.go    IPv6 LSIs                         RFC 7343 §2
package lsi
