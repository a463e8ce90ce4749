package difftest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
)

// Class is what a program can tell of an error by errors.Is.
type Class string

// The classes that the model names.
const (
	OK       Class = "ok"
	EOF      Class = "EOF"
	Reset    Class = "ECONNRESET"
	Pipe     Class = "EPIPE"
	NotConn  Class = "ENOTCONN"
	Refused  Class = "ECONNREFUSED"
	Closed   Class = "ErrClosed"
	Deadline Class = "ErrDeadlineExceeded"
	Hang     Class = "hangs"
)

var classes = []struct {
	err   error
	class Class
}{
	{io.ErrUnexpectedEOF, "ErrUnexpectedEOF"},
	{io.EOF, EOF},
	{net.ErrClosed, Closed},
	{os.ErrDeadlineExceeded, Deadline},
	{context.DeadlineExceeded, Deadline},
	{syscall.ECONNRESET, Reset},
	{syscall.EPIPE, Pipe},
	{syscall.ENOTCONN, NotConn},
	{syscall.ECONNREFUSED, Refused},
	{syscall.ETIMEDOUT, "ETIMEDOUT"},
	{syscall.EHOSTUNREACH, "EHOSTUNREACH"},
	{syscall.EADDRINUSE, "EADDRINUSE"},
}

func classOf(err error) Class {
	if err == nil {
		return OK
	}
	for _, c := range classes {
		if errors.Is(err, c.err) {
			return c.class
		}
	}
	return Class(err.Error())
}

// Outcome is how one call ended.
type Outcome struct {
	N     int
	Class Class
}

func (o Outcome) String() string { return fmt.Sprintf("%d %s", o.N, o.Class) }

// Transcript is what the sides of one world saw: the outcomes of each step's
// call and of those that ended with it.
type Transcript struct {
	steps   [][]Outcome
	crashes bool   // a process that crashes says nothing: there is no kernel that outlives it
	wrong   string // what can never be right: a byte that was not written
}

func (t *Transcript) at(i int) string {
	if i >= len(t.steps) {
		return "-"
	}
	all := make([]string, len(t.steps[i]))
	for j, o := range t.steps[i] {
		all[j] = o.String()
	}
	return strings.Join(all, ", ")
}

// difference is a step whose outcome is not one that the kernel's allows.
type difference struct {
	step          int
	what          string
	kernel, other *Transcript
}

// compare returns where the other world, which loses segments or not, differs
// from the kernel; nil: nowhere.
func (p *Program) compare(kernel, other *Transcript, lossy bool) *difference {
	for i := range p.Steps {
		s := &p.Steps[i]
		if i >= len(kernel.steps) || i >= len(other.steps) {
			break
		}
		k, o := kernel.steps[i], other.steps[i]
		for j := range max(len(k), len(o)) {
			if j >= len(k) || j >= len(o) {
				return &difference{i, "calls are missing", kernel, other}
			}
			e := &s.expect
			if j > 0 {
				e = &s.waits[j-1].expect
			}
			if e.crash != nil && other.crashes {
				if slices.Contains(e.crash, o[j].Class) {
					continue
				}
				return &difference{i, fmt.Sprintf("%v after a crash: %v", s, o[j]), kernel, other}
			}
			if !e.same(k[j], o[j], lossy) {
				return &difference{i, fmt.Sprintf("%v: kernel %v, other %v", s, k[j], o[j]), kernel, other}
			}
		}
	}
	for _, t := range []*Transcript{kernel, other} {
		if t.wrong != "" {
			return &difference{len(t.steps) - 1, t.wrong, kernel, other}
		}
	}
	return nil
}

// same says whether two outcomes differ by no more than the race allows.
func (e *expect) same(k, o Outcome, lossy bool) bool {
	if e.lossy && !lossy {
		return k == o
	}
	in := func(c Class) bool { return c == k.Class || slices.Contains(e.allow, c) }
	return (k.N == o.N || e.anyN) && in(o.Class) && (k.Class == o.Class || len(e.allow) > 0)
}
