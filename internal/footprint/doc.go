// Command footprint says what a program pays for idloc beside its own code, by the
// smallest one, examples/hello:
//
//		go run ./internal/footprint
//
//	  - the bytes of the program for this system, as it is and stripped (-ldflags "-s -w"),
//	    and of a program that only serves HTTP by package net, to compare;
//	  - the modules that are linked into it, and all that are in the module graph, which
//	    are needed by tests and tools only;
//	  - the memory of a node a while after its start, when it does nothing: what the system
//	    counts (VmRSS, Linux only) of the founder after one member came, asked it by HTTP and
//	    went. Most of that is the program itself, which the system can drop and read again:
//	    what it cannot drop is RssAnon.
//
// It works in a clone of the repository, and needs the go command.
//
//	main.go  all of it
package main
