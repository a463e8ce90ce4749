package difftest

import (
	"fmt"
	"strings"
)

// Op is what a Step does. Each is done by one side.
type Op int

const (
	Listen        Op = iota
	CloseListener    // connections that wait for Accept are reset
	AcceptPast       // Accept with a deadline that has passed
	AcceptClosed     // Accept is waiting when the listener is closed
	Dial
	Accept
	Tight     // small buffers at both ends, so that a large Write has to wait
	Write     // of N bytes
	ReadFrom  // the same through io.Copy
	WritePast // with a deadline that has passed
	WriteFail // again and again until it fails
	Read      // of N bytes, whole
	ReadEnd   // until there is an error
	ReadAgain // after that
	ReadPast  // with a deadline that has passed
	ReadSoon  // with one that passes while nothing comes
	BeginRead // of N bytes; it waits
	BeginWrite
	CutRead // the deadline of a Read that waits is set to the past
	CutWrite
	CloseWrite
	CloseRead
	Linger // SetLinger(N)
	Close
	Exit  // the end of the side's process
	Crash // the same, and it says nothing
	ops
)

var opNames = [ops]string{"listens", "closes listener", "accepts with a past deadline on", "accepts while it closes",
	"dials", "accepts", "makes buffers small of", "writes", "copies", "writes with a past deadline", "writes until that fails", "reads", "reads to the end",
	"reads once more", "reads with a past deadline", "reads with a near deadline", "begins to read", "begins to write",
	"sets a past deadline for the read of", "sets a past deadline for the write of",
	"CloseWrite", "CloseRead", "SetLinger", "Close", "exits", "crashes"}

// Step is one step of a Program: what is not set by the model below.
type Step struct {
	Op   Op
	Side int // 0 or 1
	Lis  int // number of the listener, for those that have to do with one
	Conn int // number of the connection
	N    int

	expect
}

// expect is what the model adds to a Step: where the outcome is a race's.
type expect struct {
	waits []wait  // calls of earlier steps that end with this one
	allow []Class // of the outcome, besides what the kernel's was
	anyN  bool    // the number of bytes may differ
	lossy bool    // both hold where segments are lost only
	crash []Class // where a crash says nothing: of the outcome, whatever the kernel's is
	why   string  // the reason
}

// wait is a call that was begun by an earlier step.
type wait struct {
	read       bool
	side, conn int
	expect
}

// Program is what two sides do, one step after the other.
type Program struct {
	Seed  uint64
	V6    bool // over IPv6 LSIs
	Steps []Step
}

func (s *Step) String() string {
	who := string(rune('A' + s.Side))
	switch s.Op {
	case Listen, CloseListener, AcceptPast, AcceptClosed:
		return fmt.Sprintf("%s %s l%d", who, opNames[s.Op], s.Lis)
	case Dial, Accept:
		return fmt.Sprintf("%s %s c%d at l%d", who, opNames[s.Op], s.Conn, s.Lis)
	case Write, ReadFrom, Read, BeginRead, BeginWrite:
		return fmt.Sprintf("%s c%d %s %d", who, s.Conn, opNames[s.Op], s.N)
	case Linger:
		return fmt.Sprintf("%s c%d SetLinger(%d)", who, s.Conn, s.N)
	case Exit, Crash:
		return who + " " + opNames[s.Op]
	}
	return fmt.Sprintf("%s c%d %s", who, s.Conn, opNames[s.Op])
}

// Exits says whether a side's process ends before the other's.
func (p *Program) Exits() bool {
	for i := range p.Steps {
		if op := p.Steps[i].Op; op == Exit || op == Crash {
			return true
		}
	}
	return false
}

// Listing is the program for people, with what each world has seen beside it.
func (p *Program) Listing(worlds ...*Transcript) string {
	var b strings.Builder
	fmt.Fprintf(&b, "program %d, v6 %v\n", p.Seed, p.V6)
	for i := range p.Steps {
		s := &p.Steps[i]
		fmt.Fprintf(&b, "%3d %-40s", i, s)
		for _, w := range worlds {
			fmt.Fprintf(&b, " | %-30s", w.at(i))
		}
		if s.why != "" {
			fmt.Fprintf(&b, " (%s)", s.why)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
