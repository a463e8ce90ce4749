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
//   - Members cannot send to other addresses than the LSIs, so a host that
//     forwards does not forward for them; and packets from other sources than
//     the own LSIs do not go out.
//   - A device that was set down and up again gets its addresses and routes
//     back. One that was deleted is gone: the node then reaches nobody.
//   - The kernel does not pin LSIs. Before one is given to another peer, which
//     happens when there are no others left, the host's sockets are looked
//     through (Remotes).
//   - Of the IPv6 prefix a host has one route: with devices of two overlays, the
//     second does without IPv6, and says so in the log.
//   - UDP programs are told of a peer that cannot be reached as by any kernel: if
//     they ask for it (IP_RECVERR). TCP ends at once.
//
// # Not here
//
// Linux only; elsewhere New fails with errors.ErrUnsupported. One queue, read
// by one goroutine: everything that the host sends is sealed on one core.
//
// # File table
//
//	host.go           life, packets up and down    draft §2, Figure 1
//	vnet.go           virtio_net_hdr, checksums    DESIGN §6, virtio 1.2 §5.1.6
//	conn.go           kernel sockets at the LSIs
//	any_linux.go      UDP on the wildcard address  ip(7), ipv6(7)
//	device_linux.go   the device, reads, writes    DESIGN §13
//	netlink_linux.go  addresses and routes         rtnetlink(7)
//	proc_linux.go     sockets of the host          proc_pid_net(5)
//	device_other.go   systems without
package tun
