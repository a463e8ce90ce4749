// Package realworld has tests only: programs and libraries that know net and
// nothing of idloc, on conns and listeners of two nodes, unchanged. It is a
// module of its own so that what they bring does not become a dependency of
// those who use idloc:
//
//	cd internal/realworld && go test ./...
package realworld
