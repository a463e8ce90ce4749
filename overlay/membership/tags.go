package membership

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/idloc/idloc/overlay/membership/canon"
)

const (
	// MaxTags bounds how many tags one member has.
	MaxTags = 16
	// maxTagBytes bounds them together, with a comma between each two: three certificates
	// with as many are no longer than MaxChain.
	maxTagBytes = 128
)

// Tags is a set of words that say what a member is for ("web", "db"): the policy of an
// overlay grants by them. It is their text in order, with commas in between, and so
// comparable; "" is none. NewTags makes one.
type Tags string

// NewTags returns the set of words. Each is like a label: letters, digits and inner
// hyphens, lower case.
func NewTags(words []string) (Tags, error) {
	words = slices.Clone(words)
	slices.Sort(words)
	words = slices.Compact(words)
	if len(words) > MaxTags {
		return "", fmt.Errorf("%w: %d of them: at most %d", ErrTags, len(words), MaxTags)
	}
	for _, w := range words {
		if err := checkLDH(w); err != nil {
			return "", fmt.Errorf("%w: %q: %v", ErrTags, w, err)
		}
	}
	t := strings.Join(words, ",")
	if len(t) > maxTagBytes {
		return "", fmt.Errorf("%w: %d bytes together: at most %d", ErrTags, len(t), maxTagBytes)
	}
	return Tags(t), nil
}

// readTags takes a set off r, in the one form that there is for it.
func readTags(r *canon.Reader) Tags {
	t := Tags(r.Short())
	if again, err := NewTags(t.Words()); r.Err() == nil && (err != nil || again != t || t == "") {
		r.Fail("tags %q", string(t))
	}
	return t
}

// Words returns the words in order; nil for none.
func (t Tags) Words() []string {
	if t == "" {
		return nil
	}
	return strings.Split(string(t), ",")
}

// All is Words without an allocation.
func (t Tags) All() iter.Seq[string] {
	return func(yield func(string) bool) {
		for rest := string(t); rest != ""; {
			var word string
			word, rest, _ = strings.Cut(rest, ",")
			if !yield(word) {
				return
			}
		}
	}
}

// Has says whether a word is in the set. It allocates nothing.
func (t Tags) Has(word string) bool {
	for w := range t.All() {
		if w == word {
			return true
		}
	}
	return false
}

// Beyond returns the words of t that other lacks.
func (t Tags) Beyond(other Tags) (words []string) {
	for w := range t.All() {
		if !other.Has(w) {
			words = append(words, w)
		}
	}
	return words
}
