//go:build race

package shim

// RaceEnabled is for the tests outside of the package too.
const RaceEnabled = true
