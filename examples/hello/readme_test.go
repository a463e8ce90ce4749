package main

import (
	"os"
	"strings"
	"testing"
)

// TestREADME: the README's program is this one, letter by letter, so that it builds
// and is vetted with everything else.
func TestREADME(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	const fence = "```go\npackage main\n"
	_, text, ok := strings.Cut(string(readme), fence)
	text, _, closed := strings.Cut(text, "```\n")
	if !ok || !closed || strings.Contains(text, fence) {
		t.Fatal("the README has no program, or two")
	}
	_, program, _ := strings.Cut(string(source), "\npackage main\n")
	if text != program {
		t.Errorf("the README's program is\n%s\nand examples/hello/main.go is\n%s", text, program)
	}
	// And what it tells to type first, which is what CI runs too.
	for _, command := range []string{"go run ./examples/solarsystem", "go test ./...", "go run ./examples/hello"} {
		if !strings.Contains(string(readme), "\n"+command+"\n") {
			t.Errorf("the README has no line %q", command)
		}
	}
}
