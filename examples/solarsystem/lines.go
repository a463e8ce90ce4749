package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/idloc/idloc/idloc"
)

// line is what the processes tell each other over their standard input and
// output, one JSON object a line. Exactly one of the fields after Time is set.
type line struct {
	Role  string       `json:"role,omitempty"`
	Time  time.Time    `json:"time"`
	Event *idloc.Event `json:"event,omitempty"` // what the node said
	Ready *ready       `json:"ready,omitempty"` // the peer is in the overlay
	Start *start       `json:"start,omitempty"` // to a peer: join, or begin
	Done  *done        `json:"done,omitempty"`  // an act of the story is over
}

type ready struct {
	Name   string            `json:"name"`
	ID     idloc.PeerID      `json:"id"`
	Tokens map[string]string `json:"tokens,omitempty"` // earth's: role to token
}

type start struct {
	Act   string `json:"act"` // "join", "fetch", "datagrams", "both"
	Token string `json:"token,omitempty"`
}

type done struct {
	Act      string        `json:"act"`
	Detail   string        `json:"detail,omitempty"`
	Sent     int64         `json:"sent,omitempty"`     // bytes
	Received int64         `json:"received,omitempty"` // bytes
	Took     time.Duration `json:"took,omitempty"`     // nanoseconds
	Err      string        `json:"error,omitempty"`
}

// writer writes lines; safe for concurrent use.
type writer struct {
	mu sync.Mutex // guards enc
	w  *json.Encoder
}

func newWriter(w io.Writer) *writer { return &writer{w: json.NewEncoder(w)} }

func (w *writer) put(l line) error {
	if l.Time.IsZero() {
		l.Time = time.Now()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.w.Encode(l)
}

// readLines calls f for each line until the reader ends or f fails.
func readLines(r io.Reader, f func(line) error) error {
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		var l line
		if err := json.Unmarshal(s.Bytes(), &l); err != nil {
			return fmt.Errorf("reading %q: %w", s.Text(), err)
		}
		if err := f(l); err != nil {
			return err
		}
	}
	if err := s.Err(); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		return err
	}
	return nil
}
