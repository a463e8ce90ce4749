package grants

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// naive is a second implementation of the grammar's rules, for texts that Parse takes. It
// reads the text anew for each question, and compares strings.
type naive struct{ text, domain string }

// lines returns the lines that begin with a word, in lower case, with one space between
// words and around commas; "" for the others.
func (v naive) lines(first string) []string {
	lines := strings.Split(strings.TrimPrefix(v.text, "\ufeff"), "\n")
	for i, l := range lines {
		l, _, _ = strings.Cut(l, "#")
		l = strings.ToLower(strings.Join(strings.Fields(strings.ReplaceAll(l, ",", " , ")), " "))
		if !strings.HasPrefix(l, first+" ") {
			l = ""
		}
		lines[i] = l
	}
	return lines
}

// decide returns whether it is allowed, whether the flow is kept, and the first line that
// allows it, 0 if that is none.
func (v naive) decide(who, whom Party, network string, port int) (allowed, kept bool, line int) {
	rules := 0
	for i, l := range v.lines("allow") {
		if l == "" {
			continue
		}
		rules++
		l, newOnly := strings.CutSuffix(strings.TrimPrefix(l, "allow "), " , new only")
		a, l, _ := strings.Cut(l, " to open ")
		b, c, _ := strings.Cut(l, " at ")
		if !v.anyParty(a, who) || !anyThing(b, network, port) || !v.anyParty(c, whom) {
			continue
		}
		if !allowed {
			line = i + 1
		}
		allowed, kept = true, kept || newOnly
	}
	return allowed || rules == 0, kept, line
}

func (v naive) anyParty(list string, p Party) bool {
	for w := range strings.SplitSeq(list, " , ") {
		label := strings.TrimSuffix(strings.TrimSuffix(w, "."), "."+v.domain)
		if w == "everybody" || p.Name != "" && label == p.Name || strings.HasPrefix(w, "tag:") && slices.Contains(p.Tags, w[4:]) {
			return true
		}
	}
	return false
}

func anyThing(list, network string, port int) bool {
	for w := range strings.SplitSeq(list, " , ") {
		n, ports, some := strings.Cut(w, " ")
		first, last, ranged := strings.Cut(ports, "-")
		if !ranged {
			last = first
		}
		a, _ := strconv.Atoi(first)
		b, _ := strconv.Atoi(last)
		if (n == network || n == "everything") && port > 0 && (!some || a <= port && port <= b) {
			return true
		}
	}
	return false
}

// holds says whether an expectation does, which is about ports below 500, one by one.
func (v naive) holds(l string) bool {
	a, l, _ := strings.Cut(strings.TrimPrefix(l, "expect "), " may ")
	l, not := strings.CutPrefix(l, "not ")
	b, c, _ := strings.Cut(strings.TrimPrefix(l, "open "), " at ")
	for _, n := range networkNames {
		for port := 1; port < 500; port++ {
			if !anyThing(b, n, port) {
				continue
			}
			if allowed, _, _ := v.decide(v.least(a), v.least(c), n, port); allowed == not {
				return false
			}
		}
	}
	return true
}

func (v naive) least(w string) Party {
	if tag, ok := strings.CutPrefix(w, "tag:"); ok {
		return Party{Tags: []string{tag}}
	}
	if w == "everybody" {
		return Party{}
	}
	return Party{Name: strings.TrimSuffix(strings.TrimSuffix(w, "."), "."+v.domain)}
}

// dice makes policies and questions of few words, so that they meet, some of which are
// keywords elsewhere.
type dice struct{ *rand.Rand }

var (
	someNames = []string{"venus", "mars", "pluto", "to", "at", "new", "only", "may"}
	someTags  = []string{"web", "db", "ci", "everybody"}
	somePorts = []int{1, 2, 3, 22, 79, 80, 81, 443, 65534, 65535}
)

func pick[T any](d dice, of []T) T { return of[d.IntN(len(of))] }

// list joins up to four different items, with and without spaces.
func (d dice) list(item func() string, same func(string) string) string {
	var all []string
	seen := map[string]bool{}
	for range 1 + d.IntN(4) {
		if i := item(); !seen[same(i)] {
			seen[same(i)] = true
			all = append(all, i)
		}
	}
	return strings.Join(all, pick(d, []string{",", ", ", " , ", ",\t"}))
}

func (d dice) party() string {
	switch d.IntN(8) {
	case 0:
		return pick(d, []string{"everybody", "Everybody"})
	case 1, 2, 3:
		return pick(d, []string{"tag:", "TAG:"}) + pick(d, someTags)
	}
	return pick(d, someNames) + pick(d, []string{"", "", "." + testDomain, ".Example.Internal."})
}

// thing makes each thing in one way only, but for spaces and case: none stands in a
// list under two spellings.
func (d dice) thing() string {
	n := pick(d, []string{"tcp", "udp", "UDP"})
	a, b := pick(d, somePorts), pick(d, somePorts)
	switch {
	case d.IntN(20) == 0:
		return "everything"
	case d.IntN(8) == 0:
		return n
	case a < b && b-a < 65534 && d.IntN(2) == 0:
		return fmt.Sprintf("%s %d-%d", n, a, b)
	}
	return fmt.Sprintf("%s  %d", n, a)
}

func (d dice) rule() string {
	label := func(w string) string {
		return strings.TrimSuffix(strings.ToLower(strings.TrimSuffix(w, ".")), "."+testDomain)
	}
	return pick(d, []string{"allow ", "Allow\t", "  ALLOW "}) + d.list(d.party, label) + " to  open " + d.list(d.thing, strings.ToLower) +
		" AT " + d.list(d.party, label) + pick(d, []string{"", "", ", new only", ",New Only", " , new only # why"})
}

func (d dice) text() string {
	var b strings.Builder
	for range d.IntN(6) {
		b.WriteString(pick(d, []string{"", "", "# allow everybody to open everything at everybody\n", "\r\n", "\t\n"}))
		b.WriteString(d.rule() + pick(d, []string{"\n", "\r\n"}))
	}
	return b.String()
}

func (d dice) who() Party {
	p := Party{Name: pick(d, append([]string{"", "stranger", "everybody"}, someNames...))}
	for range d.IntN(3) {
		p.Tags = append(p.Tags, pick(d, append([]string{"", "other"}, someTags...)))
	}
	return p
}

// compare asks both implementations one question.
func compare(t *testing.T, p *Policy, v naive, who, whom Party, n Network, port uint16) (allowed bool) {
	t.Helper()
	allowed, kept, line := v.decide(who, whom, n.String(), int(port))
	g, d := p.At(whom), p.Explain(who, whom, n, port)
	if g.Allows(who, n, port) != allowed || g.Keeps(who, n, port) != kept || d.Allowed != allowed || d.NewOnly != kept || d.Line != line {
		t.Fatalf("%s\n%v: %v, %v; want %v, kept %v, line %d", v.text, d, g.Allows(who, n, port), g.Keeps(who, n, port), allowed, kept, line)
	}
	return allowed
}

// TestNaive: Guard and Explain decide as the naive reading of the same text does, and
// Failures as its port by port.
func TestNaive(t *testing.T) {
	t.Parallel()
	d := dice{rand.New(rand.NewPCG(19, 1))}
	counts := map[bool]int{}
	for range 1_000 {
		text := d.text()
		p, err := Parse(text, testDomain)
		if err != nil {
			t.Fatalf("%s\n%v", text, err)
		}
		for range 100 {
			port := uint16(pick(d, somePorts) + d.IntN(2))
			counts[compare(t, p, naive{text, testDomain}, d.who(), d.who(), pick(d, []Network{TCP, UDP}), port)]++
		}
	}
	if counts[true] < 20_000 || counts[false] < 20_000 {
		t.Errorf("a poor choice of questions: %v", counts)
	}
}

func TestNaiveExpectations(t *testing.T) {
	t.Parallel()
	d := dice{rand.New(rand.NewPCG(19, 2))}
	counts := map[bool]int{}
	for range 300 {
		not := pick(d, []string{"", "not "})
		a, b := d.party(), d.party()
		if not != "" && (strings.EqualFold(a, "everybody") || strings.EqualFold(b, "everybody")) {
			continue
		}
		first := pick(d, somePorts[:8])
		thing := fmt.Sprintf("%s %d-%d", pick(d, []string{"tcp", "udp"}), first, first+pick(d, []int{0, 1, 50}))
		text := d.text() + "expect " + a + " may " + not + "open " + thing + " at " + b
		p, err := Parse(text, testDomain)
		if err != nil {
			t.Fatalf("%s\n%v", text, err)
		}
		v := naive{text, testDomain}
		lines := v.lines("expect")
		want := v.holds(lines[len(lines)-1])
		if failed := p.Failures(); (len(failed) == 0) != want {
			t.Fatalf("%s\nfailures %q, want %v", text, failed, want)
		}
		counts[want]++
	}
	if counts[true] < 50 || counts[false] < 50 {
		t.Errorf("a poor choice of expectations: %v", counts)
	}
}
