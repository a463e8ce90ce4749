// Package netconn is what conns have beyond package net's methods: plain types
// that all of a node's conns share, whichever TCP/IP they stand on, and how a
// conn of the kernel's does it.
//
//	info.go    what a TCP connection knows of itself   RFC 9293, RFC 6298, tcp(7)
//	message.go a datagram of a batch                   recvmmsg(2)
//	class.go   traffic classes                         RFC 2474, ip(7), ipv6(7)
//	copy.go    what ReadFrom and WriteTo are made of
//	kernel.go  conns of the kernel's
package netconn
