// Package nat64 finds the prefix of a network's NAT64 and translates addresses with
// it: a host that has IPv6 only sends to an IPv4 address by way of an IPv6 one that
// begins with the prefix and has the IPv4 address in it (RFC 6052), and the network's
// NAT64 (RFC 6146) passes it on as IPv4.
//
// [Discover] asks the system's resolver for the IPv6 addresses of ipv4only.arpa, which
// has none: those that come back a DNS64 has made of the two IPv4 addresses that it
// has, 192.0.0.170 and 192.0.0.171, so that the prefix is what stands around them
// (RFC 7050). [Announcements] reads what routers say of it, in the PREF64 option of their
// advertisements (RFC 8781), which counts for more where there is both (§5.1). [Embed] and
// [Extract] translate. All of it is pure but Discover, and may be called concurrently.
//
// # Where the IPv4 address stands
//
//	+--+---+---+---+---+---+---+---+---+---+---+---+---+---+---+---+---+
//	|PL| 0-------------32--40--48--56--64--72--80--88--96--104---------|
//	+--+---+---+---+---+---+---+---+---+---+---+---+---+---+---+---+---+
//	|32|     prefix    |v4(32)         | u | suffix                    |
//	|40|     prefix        |v4(24)     | u |(8)| suffix                |
//	|48|     prefix            |v4(16) | u | (16)  | suffix            |
//	|56|     prefix                |(8)| u |  v4(24)   | suffix        |
//	|64|     prefix                    | u |   v4(32)      | suffix    |
//	|96|     prefix                                    |    v4(32)     |
//	+--+---+---+---+---+---+---+---+---+---+---+---+---+---+---+---+---+
//
// u and suffix are zero, in what is read as well.
//
// # What is trusted
//
// Neither DNS nor a router is. Whoever answers for the resolver says where the IPv4
// traffic of this host goes, which whoever routes for it decides in any case; but a
// resolver may be far from the way. A router is on the link, where anybody may say that he
// is one. So a prefix is one that could be a NAT64's ([Usable]), translated is only what is
// public IPv4 ([Translatable]), and package overlay/hearsay gives no trust to what is behind
// a prefix before somebody has answered from there.
//
//	file         what
//	prefix.go    prefixes, translating         RFC 6052 §2.1 to §2.3
//	discover.go  finding the prefix by DNS     RFC 7050 §3
//	pref64.go    what routers say of it        RFC 8781 §4
package nat64
