package grants

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const aThing = "tcp, udp or everything"

// span is a range of ports, both included.
type span struct{ first, last uint16 }

// allPorts has no port 0, which nothing listens on and no policy can name.
var allPorts = span{1, 65535}

func (s span) overlaps(t span) bool { return s.first <= t.last && t.first <= s.last }

// spans are ranges in order, with at least one port between each two.
type spans []span

// merge puts ranges in order, and makes one of those that touch. It takes s over.
func merge(s []span) spans {
	slices.SortFunc(s, func(a, b span) int { return cmp.Compare(a.first, b.first) })
	n := 0
	for _, x := range s {
		if n > 0 && int(x.first) <= int(s[n-1].last)+1 {
			s[n-1].last = max(s[n-1].last, x.last)
			continue
		}
		s[n] = x
		n++
	}
	return s[:n]
}

// contain says whether port is in one of them. It allocates nothing.
func (s spans) contain(port uint16) bool {
	low, high := 0, len(s) // the first that does not end before port is in [low, high]
	for low < high {
		if mid := (low + high) / 2; s[mid].last < port {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low < len(s) && s[low].first <= port
}

// gap returns the first port of t that is in none of them, if there is one.
func (s spans) gap(t span) (port uint16, ok bool) {
	next := int(t.first)
	for _, x := range s {
		if int(x.first) > next {
			break
		}
		next = max(next, int(x.last)+1)
	}
	return uint16(next), next <= int(t.last)
}

// reach is what may be opened, for each network.
type reach [networks]spans

// has says whether a port is among it. It allocates nothing.
func (r *reach) has(n Network, port uint16) bool { return n < networks && r[n].contain(port) }

// thing is one word, or two, for what is opened.
type thing struct {
	on    [networks]bool
	ports span
}

// things reads a list.
func (r *reader) things() (reach, error) {
	var found [networks][]span
	seen := map[thing]bool{}
	for {
		before := r.words
		t, err := r.thing()
		if err != nil {
			return reach{}, err
		}
		if seen[t] {
			words := before[:len(before)-len(r.words)]
			return reach{}, fmt.Errorf("%s stands there twice", quote(strings.Join(words, " ")))
		}
		seen[t] = true
		for n, on := range t.on {
			if on {
				found[n] = append(found[n], t.ports)
			}
		}
		if r.peek() != "," || r.newOnlyFollows() {
			break
		}
		r.next()
	}
	var all reach
	for n := range all {
		all[n] = merge(found[n])
	}
	return all, nil
}

func (r *reader) thing() (thing, error) {
	word := r.peek()
	if word == "everything" {
		r.next()
		return thing{[networks]bool{true, true}, allPorts}, nil
	}
	n := slices.Index(networkNames[:], word)
	if n < 0 {
		return thing{}, r.noThing(word)
	}
	r.next()
	t := thing{ports: allPorts}
	t.on[n] = true
	port := r.peek()
	if port == "port" || port == "ports" {
		return thing{}, fmt.Errorf(`expected a number after %q, found %q: write "%s 80"`, word, port, word)
	}
	if port == "" || !isDigit(port[0]) && port[0] != '-' {
		return t, nil
	}
	r.next()
	var err error
	t.ports, err = parsePorts(port)
	return t, err
}

// noThing returns the error that word opens nothing, with what to write for it if
// that can be told.
func (r *reader) noThing(word string) error {
	err := r.expected(aThing)
	switch a, b, _ := strings.Cut(strings.ReplaceAll(word, ":", "/"), "/"); {
	case isNetwork(a):
		return fmt.Errorf(`%w: write a space between network and port, such as "%s 80"`, err, a)
	case isNetwork(b):
		return fmt.Errorf(`%w: write the network before the port, such as "%s 80"`, err, b)
	case word == "port", word == "ports", word != "" && isDigit(word[0]):
		return fmt.Errorf(`%w: write each port with its network, such as "tcp 80"`, err)
	case word == "*", word == "all", word == "any", word == "anything":
		return fmt.Errorf(`%w: write "everything"`, err)
	}
	return err
}

func isNetwork(word string) bool { return slices.Contains(networkNames[:], word) }
func isDigit(c byte) bool        { return '0' <= c && c <= '9' }

// parsePorts reads "80" or "80-90".
func parsePorts(word string) (span, error) {
	first, last, ranged := strings.Cut(word, "-")
	if ranged && (first == "" || last == "") {
		return span{}, fmt.Errorf(`a port is missing in %s: write a range without spaces, such as "80-90"`, quote(word))
	}
	a, err := parsePort(first)
	if err != nil || !ranged {
		return span{a, a}, err
	}
	b, err := parsePort(last)
	if err == nil && a > b {
		err = fmt.Errorf(`%s is no range: write "%d-%d"`, quote(word), b, a)
	}
	return span{a, b}, err
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	switch {
	case errors.Is(err, strconv.ErrSyntax):
		return 0, fmt.Errorf("%s is no port: a port is a number", quote(s))
	case err != nil || n == 0:
		return 0, fmt.Errorf("%s is no port: ports are 1 to 65535", quote(s))
	case s[0] == '0':
		return 0, fmt.Errorf(`%s is no port: write "%d"`, quote(s), n)
	}
	return uint16(n), nil
}
