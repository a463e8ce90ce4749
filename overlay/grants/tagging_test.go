package grants

import (
	"slices"
	"strings"
	"testing"
)

func TestTags(t *testing.T) {
	t.Parallel()
	p, err := Parse(`
allow tag:web to open tcp 5432 at tag:db
TAG Venus, pluto.`+testDomain+` as web, ci   # no other than these
tag mars as db
tag as as as
tag tag, nothing as nothing
expect venus may open tcp 5432 at mars
expect tag may not open tcp 5432 at mars
expect pluto may open tcp 5432 at mars
`, testDomain)
	if err != nil {
		t.Fatal(err)
	}
	if failed := p.Failures(); failed != nil {
		t.Errorf("%q", failed)
	}
	for name, want := range map[string]string{"venus": "ci,web", "pluto": "ci,web", "mars": "db", "as": "as", "tag": "", "nothing": ""} {
		if tags, ok := p.Tags(name); !ok || strings.Join(tags, ",") != want {
			t.Errorf("%s: %q, %v", name, tags, ok)
		}
	}
	for _, name := range []string{"", "earth", "web"} {
		if tags, ok := p.Tags(name); ok || tags != nil {
			t.Errorf("%s: %q, %v", name, tags, ok)
		}
	}
	if _, ok := (*Policy)(nil).Tags("venus"); ok {
		t.Error("a nil policy gives tags")
	}
	if g := p.At(Party{Name: "mars", Tags: []string{"db"}}); !g.Allows(Party{Name: "venus", Tags: []string{"ci", "web"}}, TCP, 5432) {
		t.Error("venus may not")
	}
}

// A policy that only gives tags allows everything.
func TestTagsAlone(t *testing.T) {
	t.Parallel()
	p, err := Parse("tag venus as web", testDomain)
	if err != nil {
		t.Fatal(err)
	}
	if p.At(Party{Name: "mars"}) != nil {
		t.Error("it has rules")
	}
}

func TestTagErrors(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"tag":                            "expected a name",
		"tag venus":                      `expected a comma or "as"`,
		"tag venus as":                   `expected a tag or "nothing", found the end of the line`,
		"tag venus as ,":                 `expected a tag or "nothing"`,
		"tag venus as web,":              `expected a tag or "nothing", found the end of the line`,
		"tag venus as web ci":            "expected a comma or the end of the line",
		"tag venus as web, web":          `"web" stands there twice`,
		"tag venus as tag:web":           "not tags",
		"tag venus as nothing, web, -":   "not tags",
		"tag tag:web as db":              "only a member has tags",
		"tag everybody as db":            "only a member has tags",
		"tag venus, venus as db":         `"venus" stands there twice`,
		"tag venus as db, new only":      "expected a comma or the end of the line",
		"tag venus.example.net as db":    "not below",
		"tag venus as a\ntag venus as b": "line 1 says already",
	} {
		_, err := Parse(line, testDomain)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", line, err)
		}
	}
}

// As many tags as a certificate may have, and no more.
func TestTagsBound(t *testing.T) {
	t.Parallel()
	var words []string
	for c := 'a'; c < 'a'+16; c++ {
		words = append(words, string(c))
	}
	if _, err := Parse("tag venus as "+strings.Join(words, ", "), ""); err != nil {
		t.Error(err)
	}
	if _, err := Parse("tag venus as "+strings.Join(slices.Concat(words, []string{"z"}), ", "), ""); err == nil {
		t.Error("17 are taken")
	}
}

func TestMeet(t *testing.T) {
	t.Parallel()
	p, err := Parse("allow tag:web to open tcp 5432 at mars", "")
	if err != nil {
		t.Fatal(err)
	}
	web, mars, other := Party{Name: "venus", Tags: []string{"web"}}, Party{Name: "mars"}, Party{Name: "pluto"}
	for _, c := range []struct {
		a, b Party
		want bool
	}{{web, mars, true}, {mars, web, true}, {web, other, false}, {other, mars, false}, {web, web, false}} {
		if got := p.Meet(c.a, c.b); got != c.want {
			t.Errorf("%v and %v: %v", c.a, c.b, got)
		}
	}
	if !(*Policy)(nil).Meet(other, mars) {
		t.Error("without a policy they may not")
	}
}
