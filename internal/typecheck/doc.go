// Command typecheck says whether the packages of a module compile for systems other than
// this one, at a small part of what it costs to compile them.
//
//	go run ./internal/typecheck linux/arm64 windows/amd64 linux/386
//
// It reads the sources that the go command chooses for each target, tests and
// dependencies included, and gives them to go/types with the sizes of the target's
// architecture. So it finds what has no file, or another signature, on some system, and
// constants that overflow an int of 32 bits. Code is not generated: what only an assembler
// or a linker would refuse is not found.
//
// Dependencies are checked with their functions' bodies too, as on a new version one of
// them may have left a system behind.
//
// # File table
//
//	main.go   targets, what the go command lists, errors
//	check.go  the sources of a target, package by package
package main
