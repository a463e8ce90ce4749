package deptest

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	designHeading  = regexp.MustCompile(`(?m)^#{2,3} (\d+(?:\.\d+)?)\.? `)
	designCitation = regexp.MustCompile(`DESIGN((?:,? §\d+(?:\.\d+)?)*)`)
	section        = regexp.MustCompile(`§(\d+(?:\.\d+)?)`)
	// wrapped is the end of a line of a comment or of a table in one.
	wrapped = regexp.MustCompile(`\n\s*(?://)?\s*`)
)

// cited returns what text cites of internal/DESIGN.md, and how often it names
// it without a section.
func cited(text string) (sections []string, bare int) {
	for _, m := range designCitation.FindAllStringSubmatch(wrapped.ReplaceAllString(text, " "), -1) {
		all := section.FindAllStringSubmatch(m[1], -1)
		if len(all) == 0 {
			bare++
		}
		for _, s := range all {
			sections = append(sections, s[1])
		}
	}
	return sections, bare
}

// What the source cites of internal/DESIGN.md stands there.
func TestDesignIsCited(t *testing.T) {
	root := filepath.Join("..", "..")
	design, err := os.ReadFile(filepath.Join(root, "internal", "DESIGN.md"))
	if err != nil {
		t.Fatal(err)
	}
	headings := map[string]bool{}
	for _, m := range designHeading.FindAllStringSubmatch(string(design), -1) {
		if headings[m[1]] {
			t.Errorf("two headings %s", m[1])
		}
		headings[m[1]] = true
	}
	count := 0
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || d.Name()[0] == '.' && p != root) {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(p, ".go") || d.Name() == "design_test.go" {
			return nil
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		sections, bare := cited(string(b))
		if bare > 0 {
			t.Errorf("%s: DESIGN is cited without a section", p)
		}
		for _, s := range sections {
			count++
			if !headings[s] {
				t.Errorf("%s: there is no DESIGN §%s", p, s)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if count < 50 || len(headings) < 20 {
		t.Errorf("%d citations, %d headings: the search is broken", count, len(headings))
	}
}

func TestCitationsAreFound(t *testing.T) {
	sections, bare := cited("// a (DESIGN §8, §14.4), b DESIGN\n//\t§9; and DESIGN as such, DESIGN §7")
	if strings.Join(sections, " ") != "8 14.4 9 7" || bare != 1 {
		t.Errorf("%v, %d", sections, bare)
	}
}
