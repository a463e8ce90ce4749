package grants

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/idloc/idloc/overlay/membership"
)

const (
	aParty   = "a name, tag:NAME or everybody"
	tagged   = "tag:"
	maxParty = 253 // RFC 1035 §2.3.4, as text; a tag is shorter
)

// party is one word for members: a name, a tag, or everybody, which is the zero party.
type party struct{ name, tag string }

var everybody = party{}

// means says whether p is one of the members that w stands for.
func (w party) means(p Party) bool {
	switch {
	case w.name != "":
		return w.name == p.Name
	case w.tag != "":
		return slices.Contains(p.Tags, w.tag)
	}
	return true
}

// least returns the member that w stands for and that has nothing besides.
func (w party) least() Party {
	if w.tag != "" {
		return Party{Tags: []string{w.tag}}
	}
	return Party{Name: w.name}
}

// parties is a list of them.
type parties []party

// mean says whether one of them is p.
func (ps parties) mean(p Party) bool {
	return slices.ContainsFunc(ps, func(w party) bool { return w.means(p) })
}

// parties reads a list, and leaves the comma of ", new only".
func (r *reader) parties() (parties, error) {
	var ps parties
	seen := map[party]bool{}
	for {
		word := r.peek()
		w, err := r.party()
		if err != nil {
			return nil, err
		}
		if seen[w] {
			return nil, fmt.Errorf("%s stands there twice", quote(word))
		}
		seen[w] = true
		ps = append(ps, w)
		if r.peek() != "," || r.newOnlyFollows() {
			return ps, nil
		}
		r.next()
	}
}

func (r *reader) party() (party, error) {
	// None of these pairs can follow where a party is meant by the first word.
	for _, pair := range [][]string{{"to", "open"}, {"may", "open"}, {"may", "not"}, {"new", "only"}} {
		if r.follows(pair...) {
			return party{}, fmt.Errorf("expected %s before %q", aParty, strings.Join(pair, " "))
		}
	}
	if w := r.peek(); w == "" || w == "," {
		return party{}, r.expected(aParty)
	}
	return parseParty(r.next(), r.domain)
}

func parseParty(word, domain string) (party, error) {
	switch {
	case word == "everybody":
		return everybody, nil
	case len(word) > maxParty:
		return party{}, fmt.Errorf("%w: %s is longer than %d characters", membership.ErrBadLabel, quote(word), maxParty)
	case word == "*":
		return party{}, errors.New(`expected ` + aParty + `, found "*": write "everybody"`)
	case word == tagged:
		return party{}, errors.New(`"tag:" names no tag: write it without a space, such as "tag:web"`)
	}
	if tag, ok := strings.CutPrefix(word, tagged); ok {
		if err := membership.CheckLabel(tag); err != nil {
			return party{}, fmt.Errorf("no tag: %w", err)
		}
		return party{tag: tag}, nil
	}
	if strings.Contains(word, ":") {
		return party{}, fmt.Errorf(`expected %s, found %s`, aParty, quote(word))
	}
	label, err := labelOf(word, domain)
	if err != nil {
		return party{}, err
	}
	if err := membership.CheckLabel(label); err != nil {
		return party{}, fmt.Errorf("no name of a member: %w", err)
	}
	return party{name: label}, nil
}

// labelOf takes the domain off a name.
func labelOf(name, domain string) (string, error) {
	if !strings.Contains(name, ".") {
		return name, nil
	}
	if domain == "" {
		return "", fmt.Errorf("%w: %s has dots: write a member's label alone", membership.ErrBadLabel, quote(name))
	}
	label, ok := strings.CutSuffix(strings.TrimSuffix(name, "."), "."+domain)
	if !ok {
		return "", fmt.Errorf("%w: %s is not below %s", membership.ErrBadLabel, quote(name), quote(domain))
	}
	return label, nil
}
