// Package deptest holds the import rules of this module as a test, after
// go/build/deps_test.go. It has no code of its own.
//
// A packet goes down one stair and up the other, and imports point the same
// way:
//
//	idloc -> netstack -> shim -> internal/pipe      internal/socket
//	   |                   |          |                    ^
//	   |                   +-> lsi    +-> internal/wire    |
//	   +-> overlay (beside the stair) ---------------------+
//	   +-> resolver (beside the stair)
//
// internal/pipe meets internal/socket through an interface of its own, shim
// meets overlay and resolver meets lsi likewise; idloc alone knows them all.
// Foreign modules that shape an architecture each have the packages that may
// know them.
//
// Rules are policy: do not relax one to make a build pass. A package that no
// rule mentions fails the test, so that each new one states its place.
package deptest
