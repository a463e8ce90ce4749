package grants

import (
	"errors"
	"fmt"
	"slices"

	"github.com/idloc/idloc/overlay/membership"
)

// tagging is what a line says of the tags of one member.
type tagging struct {
	line int
	tags []string // in order
}

// Tags returns the tags that the member of a name has by p, in order, in place of those of
// its certificate; false if p says nothing of it. Whoever asks p or a Guard of it about a
// member gives it these. The slice is not to be changed.
func (p *Policy) Tags(name string) (tags []string, ok bool) {
	if p == nil {
		return nil, false
	}
	t, ok := p.taggings[name]
	return t.tags, ok
}

// tag notes a line.
func (p *Policy) tag(line int, names parties, tags []string) error {
	for _, n := range names {
		if before, ok := p.taggings[n.name]; ok {
			return fmt.Errorf("line %d says already which tags %s has", before.line, quote(n.name))
		}
	}
	for _, n := range names {
		if p.taggings == nil {
			p.taggings = map[string]tagging{}
		}
		p.taggings[n.name] = tagging{line, tags}
	}
	return nil
}

// tagging reads what follows "tag".
func (r *reader) tagging() (names parties, tags []string, err error) {
	if names, err = r.parties(); err != nil {
		return nil, nil, err
	}
	for _, n := range names {
		if n.name == "" {
			return nil, nil, errors.New("only a member has tags: name it")
		}
	}
	if err = r.keywords("a comma or ", "as"); err != nil {
		return nil, nil, err
	}
	if r.follows("nothing") && len(r.words) == 1 {
		r.next()
		return names, nil, nil
	}
	for {
		if w := r.peek(); w == "" || w == "," {
			return nil, nil, r.expected(`a tag or "nothing"`)
		}
		tags = append(tags, r.next())
		if r.peek() != "," {
			break
		}
		r.next()
	}
	if len(r.words) > 0 {
		return nil, nil, r.expected("a comma or the end of the line")
	}
	set, err := membership.NewTags(tags)
	if err != nil {
		return nil, nil, err
	}
	if len(set.Words()) != len(tags) {
		slices.Sort(tags)
		for i := range tags[1:] {
			if tags[i] == tags[i+1] {
				return nil, nil, fmt.Errorf("%s stands there twice", quote(tags[i]))
			}
		}
	}
	return names, set.Words(), nil
}

// least returns the member that w stands for, with the tags that p says it has and nothing
// besides.
func (p *Policy) least(w party) Party {
	m := w.least()
	if tags, ok := p.Tags(m.Name); ok {
		m.Tags = tags
	}
	return m
}
