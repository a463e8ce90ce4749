// Command mutate says what the tests of a package do not notice: it changes one
// thing of the source at a time, runs the package's own tests, and counts the
// changes that they find.
//
//	go run ./internal/mutate ./internal/wire ./lsi
//
// What it changes: conditions (negated; a guard, which leaves its block, taken
// out), comparisons (a bound one off, == for !=), either side of && and ||, + and -,
// integer constants (plus one, or twice if they are times; those that are declared too), and statements
// (assignments and calls left out). It leaves locks, log lines, panics and deferred
// calls alone, whose loss shows as a race or a deadlock, or is not for tests.
//
// One binary of tests holds all mutants of a package, but those of declared
// constants: each place asks an environment variable whether it is the one. So a
// mutant costs a run of tests, not a build. Each test runs alone first and says
// which places it reaches; a mutant is then tried with the tests that reach it only,
// the quick ones first, and one that no test reaches has survived. A sample is drawn
// with a fixed seed; the order and the names of mutants depend on the source alone.
//
// equivalent.txt names mutants that no test can tell from the source, and why; they
// do not count.
//
// # File table
//
//	main.go        flags, sample, score
//	instrument.go  the source with its mutants
//	run.go         build and test
package main
