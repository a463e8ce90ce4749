// Package idloctest runs overlays of whole nodes on a simulated network, for
// the tests of programs that use idloc: NATs, loss, address changes, without
// root, and with no packet leaving the process.
//
//	lab := idloctest.New(t)
//	lab.Node("earth")                                               // the first one founds the overlay
//	mars := lab.Node("mars", idloctest.BehindNAT(idloctest.PortRestricted))
//	venus := lab.Node("venus", idloctest.BehindNAT(idloctest.Symmetric))
//	conn, err := venus.Dial(ctx, "tcp", "mars.example.com:80")      // ordinary idloc from here on
//
// A [Node] is an *idloc.Node with everything it has in production: QUIC, STUN
// and pipes on its one UDP port. Only the network below it, Config.Net, is
// this package's. It does not use pion's vnet, which can neither move a host,
// nor forget a NAT's mappings, nor carry IPv6.
//
// # The network
//
// There is one internet; each [Host] has addresses in it or behind a [NAT]
// box, and boxes may stand behind boxes. All boxes number their inside
// alike, as they do in homes, so hosts behind different boxes have the same
// private address. Mapping and filtering are those of RFC 4787 §4 and §5.
//
//	where a host is        BehindNAT (several kinds: boxes behind boxes), Behind (a shared
//	                       box), IPv6, DualStack, ReachesOnly (a firewall)
//	how a box behaves      Kind: mapping, filtering, Lifetime, NoHairpin, OneToOne
//	what its link does     Over, SetLink: Delay, Jitter, Rate, Loss, Burst, Dup, Reorder, MTU
//	more than one link     Uplink, SetUplink, Unplug
//	interfaces of no use   DeadEnd
//	what happens to it     Move, Rebind, Crash, Restart
//	what happens between   Cut, Heal, Partition; Filter sees each datagram
//
// All of it may be changed while traffic flows.
//
// # Time and chance
//
// Time is real: gVisor's TCP cannot run in a testing/synctest bubble. Keep
// delays small. All chance of the network (ports of mappings, which packet is
// lost) comes from one seed, which [New] logs; [Seed] or the environment
// variable IDLOCTEST_SEED repeats it. The sequence of decisions is then the
// same; the sequence of packets that they fall on depends on the scheduler.
//
// # Concurrency
//
// All methods may be called from any goroutine, but those that take part in a
// test's failing ([Lab.Node], [Node.Restart]) from the test's own only. Labs are
// independent of each other: tests that use them may be parallel.
//
// A program that is no test makes its lab inside [Run].
//
// # Files
//
//	lab.go      Lab and the options of hosts
//	node.go     nodes on hosts: start, move, crash, restart
//	host.go     hosts, their uplinks and counters
//	nat.go      NAT boxes                        RFC 4787
//	route.go    where a datagram goes, and when
//	net.go      the network as pion's transport.Net, UDP sockets
//	program.go  Run: labs outside a test
package idloctest
