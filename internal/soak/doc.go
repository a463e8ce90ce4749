// Command soak lets an overlay work for as long as it is told, with faults,
// and checks every byte.
//
//	go run ./internal/soak -d 10m
//
// It founds an overlay of -n nodes on loopback addresses (moves need the whole
// 127.0.0.0/8, which Linux has; elsewhere a node is told of a change only). Each of them dials
// the others by name without end and sends what a seeded generator yields,
// over TCP in streams of up to 4 MiB and over UDP in datagrams of up to 8 KiB;
// the other side returns it, and what returns is compared. Meanwhile, at
// random (-seed makes the choices the same, not their moments):
//
//   - datagrams of a node are lost, doubled, changed or put off;
//   - a node can send nothing for up to two seconds;
//   - a node moves: its address goes, it has another, and it is told so;
//   - a node closes and opens again from its folder;
//   - guests enter one after the other with a token of the founder's, have a stream returned,
//     and leave, or are revoked with a conn open;
//   - the clock of the process is set, which is that of all nodes: by nine minutes either
//     way, and by an hour.
//
// The first two nodes suffer the first of these only: the founder, so that the
// others find each other again, and one more, so that a pipe gets old.
//
// It exits with 1 if
//
//   - a wrong byte came back, over TCP or UDP;
//   - a TCP stream failed whose two nodes were up all the time;
//   - a node's Close ended with an error; that what was written did not arrive
//     within the 10 s that Close waits is counted only while datagrams are lost;
//   - goroutines or file descriptors are left once all nodes are closed;
//   - a guest that was revoked has its conn two minutes later, or dials anew;
//   - there is a GOMEMLIMIT and the process had a tenth more of the system's memory.
//
// An hour with all of this, in as little memory as it should need:
//
//	GOMEMLIMIT=256MiB go run ./internal/soak -d 1h -n 6 -c 2
//
// Keys are renewed by the pipes' own clock, after two minutes of traffic; the
// report counts that, too. A UDP datagram that does not come back and a dial that fails under faults
// are counted only.
//
//	main.go     flags, the run, the verdict
//	crew.go     nodes that come and go
//	guests.go   members that come once, the clock, memory
//	traffic.go  what they send each other
//	wire.go     what the network does to it
package main
