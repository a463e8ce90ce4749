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
	// designRow is a line of the table of figures: what, figure, constant.
	designRow = regexp.MustCompile("(?m)^\\| [^|]+ \\| (\\d[^|`]*|0x[0-9a-f]+) \\| `([a-z0-9/]+)\\.(\\w+)` \\|$")
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

func readDesign(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "internal", "DESIGN.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// What the source cites of internal/DESIGN.md stands there.
func TestDesignIsCited(t *testing.T) {
	root := filepath.Join("..", "..")
	design := readDesign(t)
	headings := map[string]bool{}
	for _, m := range designHeading.FindAllStringSubmatch(design, -1) {
		if headings[m[1]] {
			t.Errorf("two headings %s", m[1])
		}
		headings[m[1]] = true
	}
	count := 0
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
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

// What internal/DESIGN.md says is so long or so many is so in the code.
func TestDesignFigures(t *testing.T) {
	root := filepath.Join("..", "..")
	design := readDesign(t)
	v := newValues(root)
	rows := designRow.FindAllStringSubmatch(design, -1)
	for _, m := range rows {
		checkFigure(t, v, m[2], m[3], m[1])
	}
	if len(rows) < 30 {
		t.Errorf("only %d rows: does the test still read them?", len(rows))
	}
	_, table, _ := strings.Cut(design, "\n## 16")
	if lines := len(regexp.MustCompile(`(?m)^\| `).FindAllString(table, -1)) - 1; lines != len(rows) {
		t.Errorf("the table has %d lines, of which %d could be read", lines, len(rows))
	}
}
