package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A module whose files are wrong on one target each, and the same of tests: what is wrong
// is found there and nowhere else.
func TestTargets(t *testing.T) {
	write(t, map[string]string{
		"go.mod":          "module example.com/m\n\ngo 1.26\n",
		"all.go":          "package m\n\nconst big int = 1 << 40\n\nfunc both() {}\n",
		"some_windows.go": "package m\n\nfunc only() { missing() }\n",
		"some_darwin.go":  "package m\n\nimport \"example.com/m/inner\"\n\nvar x int = inner.Name\n",
		"inner/inner.go":  "package inner\n\nconst Name = \"inner\"\n",
		"some_openbsd.go": "package m\n\nimport _ \"example.com/nowhere\"\n",
		"x_netbsd.go":     "package m\n\nfunc {\n",
	})
	files := newParser()
	for target, want := range map[string]string{
		"linux/amd64":   "",
		"linux/arm64":   "",
		"linux/arm":     "overflows",
		"windows/amd64": "undefined: missing",
		"darwin/arm64":  "inner.Name",
		"openbsd/amd64": "no required module",
		"netbsd/amd64":  "expected 'IDENT'",
		"linux/pdp11":   "pdp11",
		"linux":         "GOOS/GOARCH",
	} {
		wantError(t, files, target, want)
	}

	write(t, map[string]string{
		"go.mod":          "module example.com/m\n\ngo 1.26\n",
		"all.go":          "package m\n\nfunc both() {}\n",
		"some_test.go":    "package m\n\nimport \"testing\"\n\nfunc Test(*testing.T) { both() }\n",
		"other_test.go":   "package m_test\n\nimport (\n\t\"testing\"\n\n\t\"example.com/m\"\n)\n\nfunc Test(*testing.T) { m.ForTests() }\n",
		"export_test.go":  "package m\n\nfunc ForTests() {}\n",
		"x_linux_test.go": "package m\n\nfunc both() {}\n",
	})
	wantError(t, files, "darwin/arm64", "")
	wantError(t, files, "linux/amd64", "both redeclared")
}

// write makes a folder of files the working directory.
func write(t *testing.T, files map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
}

// wantError wants a text in what is wrong with a target, once, or that nothing is if it is "".
func wantError(t *testing.T, files *parser, target, want string) {
	t.Helper()
	err := checkTarget(files, target)
	if want == "" && err != nil || want != "" && (err == nil || strings.Count(err.Error(), want) != 1) {
		t.Errorf("%s: %v; want %q once", target, err, want)
	}
}
