// Package race tells tests whether they run under the race detector, which
// makes each step cost about ten times as much. A test that repeats a thing many
// thousand times for the sake of rare values, not of interleavings, repeats it
// less there: the count is for the run without it.
package race
