// Package resolver answers DNS for a node: names of its overlay become LSIs,
// LSIs become names, and everything else goes to the DNS servers that the
// host would have asked (draft §2, §5).
//
// Unmodified programs ask it over DNS (Serve, ServeListener), Go programs
// through NetResolver, whose connections never leave the process, and the
// node itself through Lookup.
//
// # What is answered
//
//	question                          answer
//	<label>.<domain>  A, AAAA         the peer's LSIs, TTL 60 s (authoritative)
//	                  TXT             "idloc=<peer ID>"
//	                  ANY             all of these
//	                  other types     no data (NOERROR and the zone's SOA)
//	  nobody has the label            NXDOMAIN and SOA
//	  the database did not tell       SERVFAIL, with an extended error (RFC 8914)
//	_sip._udp.<domain> SRV            where SetService says, TTL 5 s
//	deeper names below <domain>       NXDOMAIN
//	<domain>          SOA, NS         the zone's; other types no data
//	_dns.<domain>     A               the resolver's own address
//	PTR of an LSI                     the peer's name, or <peer ID>.<domain>
//	  of an unassigned LSI            NXDOMAIN
//	AXFR, IXFR, other classes         REFUSED
//	localhost, .invalid, .onion       as RFC 6761 and RFC 7686 say
//	<label>, which a peer has         CNAME <label>.<domain>, and what that has
//	  NS, SOA, DS, DNSKEY             from upstream: of a top-level domain
//	<label>.<search domain>           NXDOMAIN if a peer has the label (NetResolver only)
//	anything else                     from upstream; REFUSED if there is none
//
// With Config.NoIPv4 members have no A for clients on sockets.
//
// An LSI is assigned when a name was resolved, never because a name was asked
// for, and the Table's lease must not be shorter than the TTL.
//
// # What never leaves
//
// Names below the domain, also with a search domain of the host appended
// (mars.example.com.corp.example), and names in the reverse zones of the LSI
// prefixes are never sent upstream. The price: an ordinary name that begins
// like that (mars.example.com.corp.example) does not exist for our clients.
// Upstream's answers are not believed where they point into the LSI prefixes,
// or speak about the overlay's names (DNS rebinding). A host whose own DNS
// server asks us about everything is no loop: a question that is being asked
// upstream is not asked there again.
//
// Nor does a label leave that a peer has, or of which the database does not tell
// whether one has it: a program that dials mars must not reach another host
// because a search domain has one of that name. Clients in this process
// (NetResolver) have the host's search list, and package net asks for
// mars.corp.example before mars; the former does not exist then. A program that
// asks for the host mars.corp.example gets it with its second question, for which
// package net appends a search domain once more. The price: with a final dot
// there is no second question, and mars.corp.example. is not found. Who asks by a
// socket means what it says: the search list of a host whose programs ask us
// should begin with the domain.
//
// # Files
//
//	server.go       Config, Server: sockets and their end   RFC 1035 §4.2, RFC 7766
//	listen.go       UDP and TCP of one port                 RFC 7766 §5
//	message.go      one message in, one out                 RFC 1035 §4.1, RFC 6891, RFC 9619
//	answer.go       which rule answers a question           RFC 6761, RFC 8482
//	zone.go         names of the overlay                    draft §2, §5; RFC 2308
//	noipv4.go       AAAA alone, where Config.NoIPv4 says so  draft §9.1
//	service.go      services of the whole domain            RFC 2782, RFC 3263 §4.1
//	reverse.go      names of LSIs                           RFC 1035 §3.5, RFC 3596 §2.5
//	bare.go         labels without a domain                 —
//	names.go        asking the database once for many       RFC 9520
//	upstream.go     other names                             RFC 5452
//	strip.go        what upstream may not say               —
//	system*.go      the host's DNS servers                  resolv.conf(5)
//	netresolver.go  net.Resolver without a socket           —
//	zonefile.go     lines for a zone file                   draft §5 "MAY be stored in DNS"
package resolver
