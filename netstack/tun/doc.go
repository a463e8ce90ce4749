// Package tun puts the host's kernel above the shim, where netstack puts
// gVisor: the arrangement of the draft's Figure 1 (§2), for systems on which
// the user may make a TUN device. Every program of the host is then in the
// overlay as it is. New makes a Host.
//
//	browser, ssh, SIP phone, Go program with Host.DialTCP
//	   │  sockets
//	kernel's TCP UDP ICMP          routes: LSI prefixes → device
//	   │  idloc0                   addresses: own LSIs, x.x.0.53
//	   │  read: virtio_net_hdr ‖ packet      ▲ writev: virtio_net_hdr ‖ headers ‖ payload
//	   ▼                                     │
//	Host                                     Host.Packet ◄─ Admission
//	   │  shim.Output, whole super packets   │  shim.PacketUpper, merged runs
//	shim ────────────────────────────────────┘
//
// # One owner of the LSIs
//
// With a device the kernel owns the node's LSIs, all of their ports, and gVisor
// is not there. The alternative, gVisor beside the kernel on the same
// addresses, needs a rule for each port and each ICMP message of whose it is,
// and hides the node's own listeners from the programs of its host, whose
// packets to the own LSI never reach a device. So Node.Dial, Node.Listen and
// Node.ListenPacket are kernel sockets at the LSIs here (conn.go): a port that
// sshd has is EADDRINUSE, and "localhost" works between the program and its
// host. Listening on ":80" means the LSIs, not the host's other addresses.
//
// The DNS server listens at x.x.0.53, which is an address of the device too.
//
// # Sizes
//
// The device's MTU is 65535, as of gVisor's link: what the kernel sends in one
// packet the pipe splits if it must (DESIGN §14.3), and nothing is to be learnt
// from "packet too big". TCP is kept to segments of 1427 bytes and options by
// the advertised MSS of the routes. The kernel makes super packets of up to 44
// segments, one batch of the pipe; the shim cuts them, once, while it copies
// them to where they are sealed. In the other direction the shim merges what
// arrived together, and the kernel takes the run as one packet. UDP likewise,
// where the kernel can (Linux 6.2).
//
// # Checksums
//
// Of a packet that goes out the TCP or UDP checksum is not looked at, partial
// or whole: it covers LSIs that mean nothing to the receiver. A packet that
// comes in gets a correct one. A merged run gets the sum of the pseudo-header
// and the mark "checksum needed", as a network card with offloads has it.
// Fragments and ICMP are the shim's business.
//
// # What the host should know
//
//   - What listens on all addresses of the host is reached by all members,
//     unless Admit says otherwise. It is asked for each inbound flow.
//   - Who is on another network of the host's may send to its LSIs there, and the
//     kernel takes it, in IPv6 and without a strict rp_filter also in a member's
//     name. Listeners and unconnected UDP conns that were made here refuse that;
//     sockets of other programs, and UDP conns that are connected, need a filter:
//     nothing for an LSI that does not come by this device or lo.
//   - Members cannot send to other addresses than the LSIs, so a host that
//     forwards does not forward for them.
//   - Packets from other sources than the own LSIs do not go out. A program that
//     is bound to another address of the host (curl --interface, some phones),
//     and another host that has this one as its router, are told by ICMP at once:
//     "administratively prohibited", which a connect sees as EHOSTUNREACH, with
//     IPv6 as EACCES.
//   - What the host has already is not taken from it: New refuses LSIs in a
//     prefix to which it has a route, or in which it has an address, and says what
//     that is (PrefixError). Routes wider than /8 are no networks but a part of the
//     way to everything, as VPNs have them. What comes later is not looked at.
//   - LSIs are ordinary addresses where no node runs: what is sent to one would
//     leave by the default route, and whoever gets it may answer as the member. So
//     an unreachable route of a high metric stands behind the device's, for both
//     prefixes. It outlives a crash and is used again by the next start; Close
//     takes it away unless another node's device is there.
//   - A device that was set down and up again gets its addresses and routes
//     back. One that was deleted is gone: the node then reaches nobody.
//   - The kernel does not pin LSIs. Before one is given to another peer, which
//     happens when there are no others left, the host's sockets are looked
//     through (Remotes).
//   - Of the IPv6 prefix a host has one route: with devices of two overlays, the
//     second does without IPv6, and says so in the log.
//   - TCP connections of the host's programs to a peer whose process has ended, was
//     started anew or was put out end at once, with ECONNABORTED where the peer had
//     not said the end: the kernel is asked to (SOCK_DESTROY). It needs
//     CONFIG_INET_DIAG_DESTROY, and the program CAP_NET_ADMIN still; else they live
//     until they get no answer, and the log says so.
//   - UDP programs are told of a peer that cannot be reached as by any kernel: if
//     they ask for it (IP_RECVERR). TCP ends at once.
//
// # Routes that stay
//
// All routes that nodes make have the protocol 198. After a crash two are left,
// and a host that never runs a node again takes them away itself:
//
//	ip route flush proto 198; ip -6 route flush proto 198
//
// A host on which LSIs are to be unreachable whenever no node runs, from its boot
// on and between an orderly end and the next start too, has routes of its own,
// which nodes leave alone. The metric is any but 0; for IPv6, any above 1024:
//
//	ip route add unreachable 198.18.0.0/15 metric 9999
//	ip -6 route add unreachable 2001:20::/28 metric 9999
//
// # Not here
//
// Linux only; elsewhere New fails with errors.ErrUnsupported. One queue, read
// by one goroutine: everything that the host sends is sealed on one core.
//
// # File table
//
//	host.go           life, packets up and down    draft §2, Figure 1
//	overlap.go        what the host has already    RFC 2544, RFC 7343
//	prohibit.go       answers to other sources     RFC 1122 §3.2.2, RFC 4443 §2.4
//	vnet.go           virtio_net_hdr, checksums    DESIGN §6, virtio 1.2 §5.1.6
//	conn.go           kernel sockets at the LSIs
//	gone.go           connections to a peer that has ended
//	destroy_linux.go  the same, told to the kernel  sock_diag(7)
//	options.go        what they have beyond package net's  tcp(7)
//	any_linux.go      UDP on the wildcard address  ip(7), ipv6(7)
//	device_linux.go   the device, reads, writes    DESIGN §13
//	netlink_linux.go  addresses and routes         rtnetlink(7)
//	routes_linux.go   routes behind the device     rtnetlink(7)
//	proc_linux.go     sockets of the host          proc_pid_net(5)
//	device_other.go   systems without
package tun
