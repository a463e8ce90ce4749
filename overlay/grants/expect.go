package grants

import "fmt"

// expectation is a line that says what the rules are meant to allow, or not to.
type expectation struct {
	line      int
	text      string // as rule.text
	who, whom party
	not       bool
	what      thing
}

// Failures returns the expectations of p that do not hold, in the order of their lines,
// each as a sentence with line, text and reason; nil if all hold.
func (p *Policy) Failures() []string {
	if p == nil {
		return nil
	}
	var failed []string
	for i := range p.expectations {
		e := &p.expectations[i]
		if why := e.failure(p); why != "" {
			failed = append(failed, fmt.Sprintf("line %d, %q: %s", e.line, e.text, why))
		}
	}
	return failed
}

// failure says why e does not hold, "" if it does.
func (e *expectation) failure(p *Policy) string {
	rules := p.rules
	if len(rules) == 0 {
		if e.not {
			return "there are no rules, so everybody may open everything"
		}
		return ""
	}
	who, whom := p.least(e.who), p.least(e.whom)
	var found [networks][]span
	for i := range rules {
		r := &rules[i]
		if !r.who.mean(who) || !r.whom.mean(whom) {
			continue
		}
		for n, on := range e.what.on {
			if !on {
				continue
			}
			for _, s := range r.what[n] {
				if !s.overlaps(e.what.ports) {
					continue
				}
				if e.not {
					return fmt.Sprintf("line %d, %q, allows %v %d", r.line, r.text, Network(n), max(s.first, e.what.ports.first))
				}
				found[n] = append(found[n], s)
			}
		}
	}
	for n, on := range e.what.on {
		if !on || e.not {
			continue
		}
		if port, missing := merge(found[n]).gap(e.what.ports); missing {
			return fmt.Sprintf("no rule allows %v %d", Network(n), port)
		}
	}
	return ""
}
