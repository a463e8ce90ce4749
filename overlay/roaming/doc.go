// Package roaming keeps a peer connected when this host's own addresses change, because
// it moved to another network, say, or has slept (DESIGN §9). The shared port opens a
// socket on each new address and closes those of addresses that are gone;
// NetworkChanged tells this package, and Run does what follows from it, in this order:
//
//	pipes         are challenged from the new sockets at once, and leave the old ones
//	connections   from addresses that are gone are hung up; libp2p listens on the new ones
//	addresses     and flows are told; all other connections are asked whether they live
//	settling      a member is looked for, then what the new sockets look like from outside;
//	              until then offers wait. Then the pipes that were up before get new paths
//	what others know of this peer is put anew
//
// Settling takes as long as it needs, beside the rest: the next change does not wait for
// it. A change that comes while one has not been looked at yet is the same one.
package roaming
