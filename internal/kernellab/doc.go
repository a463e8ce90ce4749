// Package kernellab runs whole nodes behind real NATs: each a process of its
// own in a Linux network namespace, behind nftables in another, all inside an
// unprivileged user namespace. No root is needed and nothing of the machine's
// network is touched. It has tests only; where the kernel does not allow such
// namespaces, or ip or nft is not installed, they are skipped and say why.
//
//	go test -v ./internal/kernellab
//
// prints the table of idloc/idloctest's matrix, direct or relayed and how long
// the first echo took, as real kernels see it.
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
//
// conntrack alone has neither endpoint-independent nor address-dependent
// filtering, so that the two forwarding kinds serve one host a box. A mapping
// that depends on the address but not on the port (ADM) cannot be had from
// nftables at all. The boxes drop what comes unasked before it reaches them: a
// box that answers with ICMP also keeps the tuple in conntrack, and the
// outbound packet that meets it is mapped to another port.
//
// # Files
//
//	lab_test.go     namespaces, boxes, processes
//	node_test.go    a node as a process: commands on its standard input
//	matrix_test.go  the table
//	null_test.go    the table of flows with null encapsulation
package kernellab
