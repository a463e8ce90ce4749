// Peerbench measures idloc beside what a program could use instead of it: the
// same workloads, in one interleaved run, over whole nodes with their default
// settings, two ends in one process over loopback.
//
//	go run .                                  # all peers, all workloads, medians of 5
//	go run . -peers idloc,kernel-tls -w W1,W3 # some of them
//	go run . -json out.json -svg out.svg      # besides the table
//	go run . -md                              # the table in Markdown
//	go run . -child idloc -w W1 -cpuprofile p # one measurement, profiled
//	go run . -impaired                        # one stream over bad paths, a table of its own
//
// It is a module of its own, so that the library's go.mod does not name its
// competitors. Each measurement is a process of its own; rounds go through the
// peers in turn, so that what else the machine does falls on all of them.
// Absolute figures drift with the hour; ratios of one run hold.
//
//	W1  one stream, writes of 64 KiB: Gbit/s, CPU-seconds and MB allocated a GB (both ends)
//	W2  eight streams
//	W3  64 bytes there and back: µs
//	W4  connect, one byte there and back, close; one after the other: connections/s
//	W5  datagrams of 1200 bytes flat out: kpps that arrived
//	W5r the highest paced rate with at most 1 % lost: kpps
//	W6  the first connection between two nodes that never met: ms
//	W7  KB of heap an idle connection takes, both ends; CPU of the idle process in percent
//	W8  round trip of W3 while W1 runs between the same two nodes: µs added to the median
//	W9  CPU of the process in percent while nodes that have met do nothing
//
// Peers: idloc, founder and two members, names resolved in the overlay's
// database; kernel (TCP without encryption, UDP), kernel-tls (TLS 1.3);
// wireguard, wireguard-go with its netstack; tsnet, with a control server, a
// DERP relay and a STUN server in the process, over a direct path (in W6 over
// whatever it has); libp2p-quic and libp2p-tcp (Noise and yamux); quic-go.
//
// With -impaired the two ends are processes in network namespaces of their own
// (Linux; no root), and a third carries the packets between them: with a delay
// and a bottleneck, some of them lost, some of them late. It prints the bit rate
// of one stream beside kernel TCP's with cubic, reno and BBR, set on the
// sockets, and tsnet's.
package main
