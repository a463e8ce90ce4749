package grants

import "fmt"

// A Decision is an answer with its reason.
type Decision struct {
	Who, Whom Party // as they were asked about
	Network   Network
	Port      uint16

	Allowed bool
	Line    int    // of the first rule that allows it; 0 if there is none
	Rule    string // that line without its comment; "" if there is none
	NewOnly bool   // a flow that is open stays when the policy changes: see Guard.Keeps
}

// String returns a sentence, such as
//
//	venus may open tcp 5432 at mars: line 3, "allow venus to open tcp at mars"
//	pluto may not open tcp 22 at mars: no rule allows it
//	pluto may open tcp 22 at mars: there are no rules
func (d Decision) String() string {
	may, why := "may", "there are no rules"
	switch {
	case !d.Allowed:
		may, why = "may not", "no rule allows it"
	case d.Line > 0:
		why = fmt.Sprintf("line %d, %q", d.Line, d.Rule)
	}
	return fmt.Sprintf("%v %s open %v %d at %v: %s", d.Who, may, d.Network, d.Port, d.Whom, why)
}

// Meet says whether one of two members may open anything at the other. It reads all rules.
func (p *Policy) Meet(a, b Party) bool {
	if p == nil || len(p.rules) == 0 {
		return true
	}
	for i := range p.rules {
		r := &p.rules[i]
		if r.who.mean(a) && r.whom.mean(b) || r.who.mean(b) && r.whom.mean(a) {
			return true
		}
	}
	return false
}

// Explain says whether who may open a port at whom, and why. It decides as the Guard of
// whom does, and reads all rules for it: it is for people, not for packets.
func (p *Policy) Explain(who, whom Party, n Network, port uint16) Decision {
	d := Decision{Who: who, Whom: whom, Network: n, Port: port}
	if p == nil || len(p.rules) == 0 {
		d.Allowed = true
		return d
	}
	for i := range p.rules {
		r := &p.rules[i]
		if !r.what.has(n, port) || !r.who.mean(who) || !r.whom.mean(whom) {
			continue
		}
		if !d.Allowed {
			d.Allowed, d.Line, d.Rule = true, r.line, r.text
		}
		d.NewOnly = d.NewOnly || r.newOnly
	}
	return d
}
