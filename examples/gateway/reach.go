package main

import (
	"cmp"
	"fmt"
	"io"
	"iter"
	"sync"
	"time"

	"github.com/idloc/idloc/idloc"
)

// line is an output that several goroutines write to.
type line struct {
	mu  sync.Mutex
	out io.Writer
}

func (l *line) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(p)
}

// sayUp tells that the node is up and whether it has reached anybody.
func sayUp(out io.Writer, s idloc.SelfStatus, took time.Duration) {
	alone := ""
	if s.Alone {
		alone = ", but alone,"
	}
	fmt.Fprintf(out, "%s is up%s after %v, peer %s, LSI %s, UDP port %d\n", s.Name, alone, took.Round(time.Millisecond), s.ID, s.LSI4, s.Port)
	if s.Alone {
		fmt.Fprintf(out, "  no member is reached: %s\n", cmp.Or(s.AloneWhy, "none was tried yet"))
		fmt.Fprintln(out, "  it goes on trying, and says here when it has reached one")
	}
}

// sayReady tells that all is served that was asked for.
func sayReady(out io.Writer, s idloc.SelfStatus) {
	switch {
	case s.Alone:
		fmt.Fprintln(out, "ready, but alone: no member is reached yet; interrupt to end")
	case s.Members == 0 && s.Founder:
		fmt.Fprintln(out, "ready; no member has entered or come back yet; interrupt to end")
	default:
		fmt.Fprintln(out, "ready; interrupt to end")
	}
}

// follow tells, while the gateway runs, when the node is alone and when it is
// not any more, and what waits for authorities. alone is what was said last.
func follow(out io.Writer, events iter.Seq[idloc.Event], alone bool) {
	for e := range events {
		switch {
		case e.Kind == idloc.EventAlone && !alone:
			alone = true
			fmt.Fprintf(out, "alone: no member is reached any more, trying on: %s\n", e.Err)
		case e.Kind == idloc.EventPeerConnected && alone:
			alone = false
			who := cmp.Or(e.Name, "a member, "+e.Peer.String())
			fmt.Fprintf(out, "%s is reached%s: no longer alone\n", who, at(e.Remote.String()))
		case e.Kind == idloc.EventProposed:
			fmt.Fprintf(out, "proposed by %s: %s; gateway approve is for authorities\n", e.Name, e.Detail)
		}
	}
}
