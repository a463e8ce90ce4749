package main

import (
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func script(t testing.TB, shell string) string {
	t.Helper()
	var w strings.Builder
	if err := completion(&w, shell); err != nil {
		t.Fatal(err)
	}
	return w.String()
}

// TestBashCompletes: bash completes what is begun at the end of a line.
func TestBashCompletes(t *testing.T) {
	t.Parallel()
	bash := program(t, "bash")
	dir := t.TempDir()
	for _, name := range []string{"one folder", "another"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "one file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range completions() {
		names = append(names, c.name)
	}
	for _, c := range []struct {
		line string // words with | between them; the last is begun
		want []string
	}{
		{"", names},
		{"cr", []string{"create"}},
		{"re", []string{"recover", "recovery", "revoke"}},
		{"demote|-", []string{"-dir", "-void"}},
		{"revoke|-", []string{"-all", "-below", "-dir"}},
		{"co", []string{"connect", "completion"}},
		{"nonsense", nil},
		{"nonsense|-", nil},
		{"invite|-", []string{"-delegate", "-dir", "-expires", "-qr", "-relay", "-replaces", "-reuse", "-tag", "-uses"}},
		{"invite|-qr|-e", []string{"-expires"}},
		{"invite|mars", nil},
		{"create|-s", []string{"-socks"}},
		{"create|-name|", nil}, // a value that nobody knows
		{"ping|-c|-", nil},
		{"completion|", []string{"-dir", "bash", "zsh", "fish"}},
		{"completion|z", []string{"zsh"}},
		{"status|-dir|" + dir + "/o", []string{dir + "/one folder"}},
	} {
		words := strings.Split("gateway|"+c.line, "|")
		ask := `eval "$1"; shift; complete -p gateway >/dev/null || exit 1
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _gateway
for r in "${COMPREPLY[@]}"; do printf '%s\n' "$r"; done`
		cmd := exec.CommandContext(t.Context(), bash, append([]string{"--noprofile", "--norc", "-c", ask, "bash", script(t, "bash")}, words...)...)
		out, err := cmd.CombinedOutput()
		got := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
		if len(out) == 0 {
			got = nil
		}
		slices.Sort(got)
		want := slices.Sorted(slices.Values(c.want))
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %q, want %q", words, err, got, want)
		}
	}
}

// TestFishCompletes: fish knows commands, flags and values as well.
func TestFishCompletes(t *testing.T) {
	t.Parallel()
	fish := program(t, "fish")
	for line, want := range map[string]string{
		"gateway cre":            "create\tfound an overlay\n",
		"gateway invite -q":      "-qr\tdraw the token as a QR code above it\n",
		"gateway completion zs":  "zsh\n",
		"gateway create -name e": "",
	} {
		cmd := exec.CommandContext(t.Context(), fish, "--no-config", "-c", "source; complete -C "+"'"+line+"'")
		cmd.Stdin = strings.NewReader(script(t, "fish"))
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != want {
			t.Errorf("%s: %v, %q, want %q", line, err, out, want)
		}
	}
}

// TestZshReads: zsh reads its script, and what _arguments and _describe are
// told is a word of them each.
func TestZshReads(t *testing.T) {
	t.Parallel()
	zsh := program(t, "zsh")
	for line, want := range map[string]string{
		"gateway invite -q": "-qr[draw the token as a QR code above it]\n",
		"gateway create -d": "-dir[folder of the node's key and state]:string:_files -/\n",
		"gateway create -L": `*-L[forward a local port to a member]:\[udp\:\]\[bind\:\]port\:host\:port:` + "\n",
		"gateway join":      "join:enter an overlay with a token\n",
	} {
		ask := `compdef() { [[ "$*" == "_gateway gateway" ]] || exit 1 }
_arguments() { print -rl -- "$@" }
_describe() { print -rl -- "${(@P)4}" }
eval "$1"; words=(${=2}); CURRENT=$#words; _gateway`
		out, err := exec.CommandContext(t.Context(), zsh, "-f", "-c", ask, "zsh", script(t, "zsh"), line).CombinedOutput()
		if err != nil || !strings.Contains("\n"+string(out), "\n"+want) {
			t.Errorf("%s: %v, %q, want a line %q", line, err, out, want)
		}
	}
}

// TestCompletionKnowsAll: each script names each command and each of its flags.
func TestCompletionKnowsAll(t *testing.T) {
	t.Parallel()
	for _, shell := range shells() {
		text := script(t, shell)
		for _, g := range groups() {
			for _, c := range g.commands {
				var o options
				c.flagSet(&o).VisitAll(func(f *flag.Flag) {
					found := false
					for line := range strings.Lines(of(text, shell, c.name)) {
						found = found || slices.ContainsFunc(strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(" \t\"'[*", r) }),
							func(word string) bool { return word == f.Name && shell == "fish" || word == "-"+f.Name })
					}
					if !found {
						t.Errorf("%s: %s has no -%s", shell, c.name, f.Name)
					}
				})
			}
		}
	}
	if err := completion(io.Discard, "csh"); err == nil || !strings.Contains(err.Error(), "bash, zsh, fish") {
		t.Errorf("a shell that has none: %v", err)
	}
}

// of is the part of a script that is of a command.
func of(text, shell, name string) string {
	begin, end := "\t"+name+") ", ";;"
	if shell == "fish" {
		var b strings.Builder
		for line := range strings.Lines(text) {
			if strings.Contains(line, "_from "+name+"'") {
				b.WriteString(line)
			}
		}
		return b.String()
	}
	_, rest, _ := strings.Cut(text, begin)
	part, _, _ := strings.Cut(rest, end)
	return part
}

// TestUsageNamesAll: the usage has each command, in lines that a terminal of 90
// columns holds.
func TestUsageNamesAll(t *testing.T) {
	t.Parallel()
	text := usage()
	for _, c := range completions() {
		if !strings.Contains(text, "\n  "+c.name+" ") || c.says == "" {
			t.Errorf("%s is not explained in %s", c.name, text)
		}
	}
	for line := range strings.Lines(text) {
		if len(line) > 90 {
			t.Errorf("a line of %d columns: %s", len(line), line)
		}
	}
}
