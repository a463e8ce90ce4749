package grants

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// rule is a line that allows something.
type rule struct {
	line    int
	text    string // without its comment, one space between words
	who     parties
	what    reach
	whom    parties
	newOnly bool
}

// add reads one line.
func (p *Policy) add(line int, s, domain string) error {
	s = strings.TrimSuffix(strings.TrimSuffix(s, "\n"), "\r")
	if err := checkVisible(s); err != nil {
		return err
	}
	code, _, _ := strings.Cut(s, "#")
	words, err := split(code)
	if err != nil || len(words) == 0 {
		return err
	}
	text := strings.Join(fields(code), " ")
	r := reader{words, domain}
	switch first := r.next(); first {
	case "allow":
		x, err := r.rule()
		if err != nil {
			return err
		}
		x.line, x.text = line, text
		p.rules = append(p.rules, x)
	case "expect":
		e, err := r.expectation()
		if err != nil {
			return err
		}
		e.line, e.text = line, text
		p.expectations = append(p.expectations, e)
	case "tag":
		names, tags, err := r.tagging()
		if err != nil {
			return err
		}
		return p.tag(line, names, tags)
	default:
		return fmt.Errorf(`expected "allow", "expect" or "tag", found %s%s`, quote(first), insteadOf(first))
	}
	return nil
}

// insteadOf says what to write for the first words that other policies have.
func insteadOf(first string) string {
	switch first {
	case "deny", "forbid", "refuse", "reject", "block", "drop":
		return ": what no rule allows is not allowed"
	case "accept", "permit", "grant":
		return `: write "allow"`
	case "test", "assert", "check":
		return `: write "expect"`
	}
	return ""
}

// checkVisible refuses what would show a reviewer another text than the one that
// counts: control characters, and those that change the direction of writing.
func checkVisible(s string) error {
	if !utf8.ValidString(s) {
		return errors.New("not UTF-8")
	}
	for _, c := range s {
		if c != '\t' && unicode.IsControl(c) || unicode.Is(unicode.Bidi_Control, c) || c == '\u2028' || c == '\u2029' {
			return fmt.Errorf("the character %U may not stand in a policy: it cannot be seen", c)
		}
	}
	return nil
}

// split returns the words of a line, in lower case; a comma is one. Only ASCII is
// taken: a letter of another script may look like one of a name.
func split(code string) ([]string, error) {
	words := fields(strings.ReplaceAll(code, ",", " , "))
	for i, w := range words {
		if strings.ContainsFunc(w, func(c rune) bool { return c > unicode.MaxASCII }) {
			return nil, fmt.Errorf("%s has a character that is not ASCII, which only a comment may have", quote(w))
		}
		words[i] = strings.ToLower(w)
	}
	return words, nil
}

// fields splits at spaces and tabs, and at no other script's spaces.
func fields(s string) []string {
	return strings.FieldsFunc(s, func(c rune) bool { return c == ' ' || c == '\t' })
}

// quote returns a word for an error: what looks like another character is seen, and a
// long word is cut.
func quote(word string) string {
	if len(word) <= maxQuoted {
		return strconv.QuoteToASCII(word)
	}
	return strconv.QuoteToASCII(word[:maxQuoted]) + "…"
}

// reader reads the words of one line from left to right.
type reader struct {
	words  []string // what is left
	domain string
}

// peek returns the next word, "" at the end.
func (r *reader) peek() string {
	if len(r.words) == 0 {
		return ""
	}
	return r.words[0]
}

// next takes the next word, which must be there.
func (r *reader) next() string {
	w := r.words[0]
	r.words = r.words[1:]
	return w
}

// follows says whether these words come next.
func (r *reader) follows(words ...string) bool {
	return len(r.words) >= len(words) && slices.Equal(r.words[:len(words)], words)
}

// newOnlyFollows says whether the end of a rule comes next, with its comma.
func (r *reader) newOnlyFollows() bool { return r.follows(",", "new", "only") }

// expected returns the error that something else should come next.
func (r *reader) expected(what string) error {
	found := "the end of the line"
	switch {
	case r.newOnlyFollows():
		found = `", new only"`
	case len(r.words) > 0:
		found = quote(r.words[0])
	}
	return fmt.Errorf("expected %s, found %s", what, found)
}

// keywords takes these words. or is what could have stood before the first as well,
// for the error.
func (r *reader) keywords(or string, words ...string) error {
	for _, w := range words {
		if r.peek() != w {
			return r.expected(or + strconv.Quote(w))
		}
		r.next()
		or = ""
	}
	return nil
}

// rule reads what follows "allow".
func (r *reader) rule() (x rule, err error) {
	if x.who, err = r.parties(); err != nil {
		return x, err
	}
	if err = r.keywords("a comma or ", "to", "open"); err != nil {
		return x, err
	}
	if x.what, err = r.things(); err != nil {
		return x, err
	}
	if err = r.at("a comma or "); err != nil {
		return x, err
	}
	if x.whom, err = r.parties(); err != nil {
		return x, err
	}
	if r.newOnlyFollows() {
		x.newOnly = true
		r.words = r.words[3:]
		if len(r.words) > 0 {
			return x, r.expected(`the end of the line after "new only"`)
		}
	}
	if r.follows("new", "only") {
		return x, errors.New(`a comma is missing before "new only"`)
	}
	if len(r.words) > 0 {
		return x, r.expected("a comma or the end of the line")
	}
	return x, nil
}

// at takes the word between what is opened and at whom.
func (r *reader) at(or string) error {
	err := r.keywords(or, "at")
	switch next := r.peek(); {
	case err == nil || next == "":
		return err
	case next[0] == '-':
		return fmt.Errorf(`%w: write a range without spaces, such as "80-90"`, err)
	case isDigit(next[0]):
		return fmt.Errorf(`%w: write each port with its network, such as "tcp 80, tcp 443"`, err)
	}
	return err
}

// expectation reads what follows "expect".
func (r *reader) expectation() (e expectation, err error) {
	if e.who, err = r.party(); err != nil {
		return e, err
	}
	if err = r.one(); err != nil {
		return e, err
	}
	if err = r.keywords("", "may"); err != nil {
		return e, err
	}
	if e.not = r.follows("not"); e.not {
		r.next()
	}
	if err = r.keywords("", "open"); err != nil {
		return e, err
	}
	if e.what, err = r.thing(); err != nil {
		return e, err
	}
	if err = r.one(); err != nil {
		return e, err
	}
	if err = r.at(""); err != nil {
		return e, err
	}
	if e.whom, err = r.party(); err != nil {
		return e, err
	}
	if err = r.one(); err != nil {
		return e, err
	}
	if len(r.words) > 0 {
		return e, r.expected("the end of the line")
	}
	if e.not && (e.who == everybody || e.whom == everybody) {
		return e, errors.New(`"everybody" cannot stand beside "may not", as a rule may allow it to somebody: name a member or a tag`)
	}
	return e, nil
}

// one returns an error if a list goes on here.
func (r *reader) one() error {
	if r.peek() == "," && !r.newOnlyFollows() {
		return errors.New("an expectation has no lists: write a line for each")
	}
	return nil
}
