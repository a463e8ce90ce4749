package grants

import (
	"errors"
	"fmt"
	"strings"
)

const (
	// MaxText is how long a policy may be, in bytes.
	MaxText = 32 << 10

	maxErrors = 10
	maxQuoted = 40
)

// ErrTooLong: a text has more than MaxText bytes.
var ErrTooLong = errors.New("policy too long")

// A LineError says what is wrong with one line of a text.
type LineError struct {
	Line int   // the first is 1
	Err  error // what was expected, and what stands there
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }
func (e *LineError) Unwrap() error { return e.Err }

// Network is a transport protocol. It is a comparable value; the zero one is TCP.
type Network uint8

const (
	TCP Network = iota
	UDP

	networks = 2 // how many there are
)

var networkNames = [networks]string{TCP: "tcp", UDP: "udp"}

// String returns the network as a policy writes it.
func (n Network) String() string {
	if n < networks {
		return networkNames[n]
	}
	return fmt.Sprintf("network %d", uint8(n))
}

// A Party is a member as its certificate describes it, in lower case. The zero Party
// is somebody without a name or a tag. Its slice is only read, and not kept.
type Party struct {
	Name string   // the label, "" for none
	Tags []string // without "tag:"
}

// String returns "venus", "venus (tag:db, tag:web)", "tag:web" or "somebody".
func (p Party) String() string {
	tags := ""
	if len(p.Tags) > 0 {
		tags = "tag:" + strings.Join(p.Tags, ", tag:")
	}
	switch {
	case p.Name == "" && tags == "":
		return "somebody"
	case p.Name == "":
		return tags
	case tags == "":
		return p.Name
	}
	return p.Name + " (" + tags + ")"
}

// A Policy says who may open what at whom. It never changes: any number of goroutines
// may use it. A nil Policy has no rules, and allows everything.
type Policy struct {
	text         string
	rules        []rule // by line
	expectations []expectation
	taggings     map[string]tagging // by name
}

// Parse reads a policy. domain is the overlay's, so that names can be written in full,
// or "" if they cannot.
//
// The error names each line that is wrong, up to ten, as *LineError values that are
// joined; it wraps ErrTooLong if there are too many bytes, and membership.ErrBadLabel for
// what is no name. Whether expectations hold is not looked at: see Failures.
func Parse(text, domain string) (*Policy, error) {
	if len(text) > MaxText {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLong, len(text), MaxText)
	}
	domain = strings.ToLower(strings.TrimSuffix(domain, "."))
	p := &Policy{text: text}
	var problems []error
	line, wrong := 0, 0
	for s := range strings.Lines(strings.TrimPrefix(text, byteOrderMark)) {
		line++
		err := p.add(line, s, domain)
		if err == nil {
			continue
		}
		if wrong++; wrong <= maxErrors {
			problems = append(problems, &LineError{line, err})
		}
	}
	switch more := wrong - maxErrors; {
	case more == 1:
		problems = append(problems, errors.New("and one more line is wrong"))
	case more > 1:
		problems = append(problems, fmt.Errorf("and %d more lines are wrong", more))
	}
	if wrong > 0 {
		return nil, errors.Join(problems...)
	}
	return p, nil
}

// byteOrderMark is what some editors begin a file with.
const byteOrderMark = "\ufeff"

// Text returns the text that p was read from, byte by byte.
func (p *Policy) Text() string {
	if p == nil {
		return ""
	}
	return p.text
}
