package grants

import (
	"encoding/binary"
	"slices"
)

// A Guard decides who may open what at one member. It never changes: any number of
// goroutines may use it. A nil Guard allows everything.
type Guard struct {
	everybody   *table
	names, tags map[string]*table
}

// table is what some rules allow together.
type table struct {
	allowed reach
	kept    reach // the part that rules with "new only" allow
}

// At returns the Guard for what is opened at self, nil if p has no rules.
func (p *Policy) At(self Party) *Guard {
	if p == nil || len(p.rules) == 0 {
		return nil
	}
	var forAll []int // indexes of rules
	names, tags := map[string][]int{}, map[string][]int{}
	for i := range p.rules {
		r := &p.rules[i]
		switch {
		case !r.whom.mean(self):
		case slices.Contains(r.who, everybody):
			forAll = append(forAll, i)
		default:
			for _, w := range r.who {
				if w.name != "" {
					names[w.name] = append(names[w.name], i)
				} else {
					tags[w.tag] = append(tags[w.tag], i)
				}
			}
		}
	}
	t := tables{rules: p.rules, made: map[string]*table{}}
	return &Guard{everybody: t.of(forAll), names: t.each(names), tags: t.each(tags)}
}

// tables makes one table for each set of rules.
type tables struct {
	rules []rule
	made  map[string]*table // by the set's indexes
}

func (t *tables) each(sets map[string][]int) map[string]*table {
	all := make(map[string]*table, len(sets))
	for word, set := range sets {
		all[word] = t.of(set)
	}
	return all
}

// of returns the table of a set of rules, nil of none.
func (t *tables) of(set []int) *table {
	if len(set) == 0 {
		return nil
	}
	var key []byte
	for _, i := range set {
		key = binary.AppendUvarint(key, uint64(i))
	}
	if have := t.made[string(key)]; have != nil {
		return have
	}
	var allowed, kept [networks][]span
	for _, i := range set {
		r := &t.rules[i]
		for n, s := range r.what {
			allowed[n] = append(allowed[n], s...)
			if r.newOnly {
				kept[n] = append(kept[n], s...)
			}
		}
	}
	made := new(table)
	for n := range networks {
		made.allowed[n], made.kept[n] = merge(allowed[n]), merge(kept[n])
	}
	t.made[string(key)] = made
	return made
}

// Allows says whether who may open a port here. It allocates nothing, and takes no
// longer for more rules than a binary search does. Rules allow no network but TCP and
// UDP, and not port 0.
func (g *Guard) Allows(who Party, n Network, port uint16) bool {
	if g == nil || g.everybody.allows(n, port) || g.names[who.Name].allows(n, port) {
		return true
	}
	for _, tag := range who.Tags {
		if g.tags[tag].allows(n, port) {
			return true
		}
	}
	return false
}

// Keeps says whether a flow that who opens by this Guard stays when a later policy does
// not allow it: one of the rules that allow it is "new only". What no rule allows is not kept, nor
// is anything by a nil Guard. Package grants tells under "When a policy changes" what to
// do with the answer. It allocates nothing.
func (g *Guard) Keeps(who Party, n Network, port uint16) bool {
	if g == nil {
		return false
	}
	if g.everybody.keeps(n, port) || g.names[who.Name].keeps(n, port) {
		return true
	}
	for _, tag := range who.Tags {
		if g.tags[tag].keeps(n, port) {
			return true
		}
	}
	return false
}

func (t *table) allows(n Network, port uint16) bool { return t != nil && t.allowed.has(n, port) }
func (t *table) keeps(n Network, port uint16) bool  { return t != nil && t.kept.has(n, port) }
