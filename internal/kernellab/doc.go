// Package kernellab runs whole nodes behind real NATs: each a process of its
// own in a Linux network namespace, behind nftables in another, all inside an
// unprivileged user namespace. No root is needed and nothing of the machine's
// network is touched. It has tests only; where the kernel does not allow such
// namespaces, or a program is not installed, they are skipped and say why.
//
//	go test -v ./internal/kernellab
//
// prints the table of idloc/idloctest's matrix, direct or relayed and how long
// the first echo took, as real kernels see it, and what the scenes of the field
// have measured.
//
// # What a kernel can be
//
//	public      a namespace on the bridge that is the internet here
//	EIM/EIF     masquerade, which keeps the source port, and all UDP ports
//	            forwarded to the one host behind it
//	EIM/ADF     the same, but forwarded only from addresses that the host has
//	            sent to in the last two minutes (a dynamic set)
//	EIM/APDF    masquerade: what home routers do. The mapping is endpoint-
//	            independent as long as no two hosts behind it share a port
//	1:1         source and destination rewritten, ports unchanged
//	double      two boxes of the kind before
//	APDM/APDF   masquerade fully-random: a new port for every destination
//	blocked     forwards UDP to and from one member only
//	TCP 443     lets nothing out but TCP to port 443
//	proxy       forwards nothing: there is an HTTP proxy, tinyproxy or squid
//
// TestMatrix dials once from each of these to each, and with -rounds 50 so many times,
// nodes that dial being closed and opened again before each round, and prints p50 and p99.
//
// conntrack alone has neither endpoint-independent nor address-dependent
// filtering, so that the two forwarding kinds serve one host a box. A mapping
// that depends on the address but not on the port (ADM) cannot be had from
// nftables at all. The boxes drop what comes unasked before it reaches them: a
// box that answers with ICMP also keeps the tuple in conntrack, and the
// outbound packet that meets it is mapped to another port.
//
// # Scenes
//
// What users meet in their first week. Each is short by default; a flag makes it
// as long as what it must hold for. Times are internal/yardstick's, by which a
// busy machine counts for nothing, and twice what is promised; with -strict they
// are the clock's, which takes a quiet one:
//
//	go test -v -timeout 1h ./internal/kernellab -strict -powercuts 20 -office 200 -firstdials 100
//
// All need ip and nft; what they need besides stands below.
//
//	TestPowerCut           -powercuts. Two public hosts, two homes and an office
//	                       of two desks, on the default port, are killed (SIGKILL)
//	                       at once and started in random order; every other time
//	                       their routers forget all mappings. All pairs speak
//	                       within 5 s, a token from before the cut lets a member in
//	TestOffice             -office. So many nodes, on four hosts of one switch behind
//	                       one NAT, join a public founder at once; it is killed and
//	                       started again, all have called it within 10 s. A node is
//	                       counted as 20 MB: as many as the machine has memory for
//	TestHoleIPv4, -IPv6    Two hosts behind routers that drop IP packets above 1228
//	                       bytes (IPv6: 1280) without a word. They join, resume from
//	                       their folders, are dialled, move a megabyte. Needs ethtool,
//	                       since a veth that takes segmentation upon itself carries
//	                       more than its MTU. The routers count what they drop
//	TestUselessInterfaces  -firstdials. Two homes; on each host docker0, virbr0 and
//	                       13 more bridges, half of them with a container, whose
//	                       addresses the other host has, too. Both start and dial at
//	                       once: direct within a second
//	TestTokenOfServer      A public founder with five such bridges: its token lets a
//	                       member in, so it says where the founder can be reached
//	TestPort443            Two public hosts and two homes, all with port 443: root in
//	                       a user namespace may bind it. All pairs speak directly
//	TestClocks             Members that start a year behind or a day ahead, or whose
//	                       clock goes wrong while they run (internal/wallclock moves
//	                       that of one process): they live, say so, and are back 5 s
//	                       after the clock was set right
//	TestFounderMoves       Two hosts on a switch with nothing else: the founder's
//	                       address changes right after the join, they meet again
//	TestFounderDies        The founder is killed at once, or 3 s, after two others
//	                       have joined: they dial each other within a second
//	TestCarriers           A public founder serves carriers on TCP port 443. Two members are
//	                       behind boxes that let nothing out but TCP to 443, two have
//	                       nothing but an HTTP proxy (tinyproxy) with a password, one a
//	                       home router: all pairs speak, and they join, which says so.
//	                       With -strict no call waits for a delayed acknowledgement:
//	                       tinyproxy holds small segments back until it has one
//	TestCarrierBehindNginx The founder's CarrierHandler is in a web server behind nginx with
//	                       TLS: members join through it, curl sees the same page
//	TestCarrierMoves       UDP is blocked in the middle of a stream: it goes on over a
//	                       carrier within 3 s. After 45 s it is allowed again: back on UDP
//	                       within 30 s, and nothing lost
//	TestCaptivePortal      A network that speaks in the place of every web server until
//	                       somebody logs in: a join, and the status of a node that was
//	                       there before, say so; logged in, it is back by itself
//	TestNAT64              Members on hosts with IPv6 only, behind tayga with prefixes of 96
//	                       and of 56 bits and a resolver that answers for ipv4only.arpa,
//	                       one of them without UDP: they join a founder that has IPv4
//	                       only, dial and are dialled. One without such a resolver does
//	                       not, but where the router announces the prefix (RFC 8781), until
//	                       it withdraws it or the cable is out, and when it is there again
//	TestBlockedUDP         A member starts behind a router that lets no UDP through: its
//	                       status says so. Once the router does, the two meet
//
// -logs writes debug logs of all nodes to a folder, one file for each name; the
// nodes of a scene that failed tell what they warned of in any case.
//
// # Files
//
//	lab_test.go         namespaces, boxes
//	places_test.go      switches, small links, useless interfaces
//	process_test.go     processes and what they are asked
//	node_test.go        nodes in a process: commands on its standard input
//	scene_test.go       the scenes' flags, and how they wait
//	matrix_test.go      the table
//	nat64_test.go       NAT64 and DNS64
//	router_test.go      router advertisements
//	null_test.go        the table of flows with null encapsulation
//	portmap_test.go     routers that map ports
//	powercut_test.go, office_test.go, hole_test.go, interfaces_test.go,
//	port_test.go, clock_test.go, founder_test.go, blocked_test.go, carrier_test.go,
//	portal_test.go
//	                    the scenes
package kernellab
