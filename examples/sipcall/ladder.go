package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

// The ladder has a column for each machine, in the draft's order.
const (
	venus = iota
	earth
	mars
)

const (
	gap    = 30 // characters between the lines of two columns
	margin = 11 // before the first
)

// rung is something that went from one column to another, or, with from equal
// to to, happened at one.
type rung struct {
	at       time.Time
	from, to int
	both     bool // an arrow with two heads
	text     string
}

// ladder collects the rungs of a call from all who have seen some. Its methods
// may be called concurrently.
type ladder struct {
	mu    sync.Mutex
	begin time.Time
	rungs []rung
}

// start sets the clock to zero. What was collected before is forgotten.
func (l *ladder) start() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begin, l.rungs = time.Now(), nil
}

func (l *ladder) add(r rung) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.at.IsZero() {
		r.at = time.Now()
	}
	l.rungs = append(l.rungs, r)
}

func (l *ladder) arrow(from, to int, format string, args ...any) {
	l.add(rung{from: from, to: to, text: fmt.Sprintf(format, args...)})
}

func (l *ladder) note(at int, format string, args ...any) { l.arrow(at, at, format, args...) }

// flush prints what has been collected, in the order of time, and forgets it.
func (l *ladder) flush(w io.Writer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.SortStableFunc(l.rungs, func(a, b rung) int { return a.at.Compare(b.at) })
	for _, r := range l.rungs {
		fmt.Fprintf(w, "%8.1f ms%s\n", float64(r.at.Sub(l.begin).Microseconds())/1000, r.draw())
	}
	l.rungs = nil
}

func heading(names ...string) string {
	row := []rune(strings.Repeat(" ", margin+2*gap+gap))
	for i, n := range names {
		copy(row[margin+i*gap:], []rune(n))
	}
	return strings.TrimRight(string(row), " ")
}

// draw is the line of a rung, beginning after the time.
func (r rung) draw() string {
	row := []rune(strings.Repeat(" ", 2*gap+1))
	for i := range 3 {
		row[i*gap] = '│'
	}
	if r.from == r.to {
		text := []rune(" " + r.text)
		at := r.from*gap + 1
		for len(row) < at+len(text) {
			row = append(row, ' ')
		}
		copy(row[at:], text)
		return strings.TrimRight(string(row), " ")
	}
	left, right := min(r.from, r.to)*gap+1, max(r.from, r.to)*gap-1
	for i := left; i <= right; i++ {
		row[i] = '─'
	}
	if r.to > r.from || r.both {
		row[right] = '▶'
	}
	if r.to < r.from || r.both {
		row[left] = '◀'
	}
	text := []rune(" " + r.text + " ")
	if room := right - left - 3; len(text) > room {
		text = append(text[:room-2], '…', ' ')
	}
	copy(row[left+(right-left+1-len(text))/2:], text)
	return string(row)
}
