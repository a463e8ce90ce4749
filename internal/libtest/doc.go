// Package libtest runs libraries that were written for package net over the
// conns of two nodes, unchanged: net/http with HTTP/1.1, HTTP/2 and TLS,
// net/rpc, gRPC, SSH and WebSocket. It is a module of its own, so that nobody
// who uses idloc gets what it needs:
//
//	cd internal/libtest && go test ./...
package libtest
