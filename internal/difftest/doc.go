// Package difftest makes random programs of two sides that use TCP as package
// net has it, runs each on the kernel's loopback and elsewhere, and finds what
// the sides saw that the kernel would not have shown them: bytes, errors by what
// errors.Is tells of them, calls that do not return.
//
// A program is a list of steps, one after the other: a side dials, writes,
// closes, its process ends. Calls may wait through several steps. So that what a
// side sees does not depend on who is quicker, a model (model.go) leaves out
// steps that would wait for ever or whose outcome says nothing, and says for the
// rest where more than one outcome is right, and why:
//
//   - whether a reset has arrived when something is written, or its sender's FIN
//     before it, is a race's: Write returns nil, EPIPE or ECONNRESET;
//   - where segments are lost a reset may overtake data, or a FIN;
//   - how much of a Write that is cut the buffers have taken is the system's,
//     but that and no byte else has to arrive.
//
// A process that crashes is ended by its kernel as one that exits is. Where TCP
// is in the process, nothing outlives it, and its peers differ from the kernel's in
// this, which is looked for instead of what the kernel shows:
//
//   - a stream whose FIN had not been sent ends with ECONNRESET and never looks
//     whole: nobody can say that it is;
//   - one whose FIN had been sent ends with EOF if that had come, else likewise;
//   - of what was written only what had come is read, in order and nothing else: the
//     rest lay in the process;
//   - calls that wait end with ECONNRESET;
//   - what is written then fails at once, or is lost, as with an exit.
//
// Two things are no steps. The crash of a machine that nobody hears of: how long a
// side waits for one that is gone is the application's to say. And SetUserTimeout: what
// it measures, when it has not run out before, is how busy the machine is.
//
// When an outcome differs the kernel is asked again: it may do so too at times.
//
//	program.go   steps, listing
//	generate.go  programs of a seed
//	model.go     what may be done, and what to expect
//	modelconn.go the same of one connection
//	run.go       one program in one world
//	outcome.go   what was seen, compared
//	shrink.go    the least program that fails
//	check.go     many programs
package difftest
