package main

import (
	"flag"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// scripts makes the completion of each shell. All are made of the table of
// commands, so that none can know other flags than the program.
var scripts = []struct {
	shell string
	write func(w *strings.Builder, all []completed)
}{{"bash", bash}, {"zsh", zsh}, {"fish", fish}}

func shells() (names []string) {
	for _, s := range scripts {
		names = append(names, s.shell)
	}
	return names
}

// completion prints a script.
func completion(out io.Writer, shell string) error {
	for _, s := range scripts {
		if s.shell == shell {
			var w strings.Builder
			s.write(&w, completions())
			_, err := io.WriteString(out, w.String())
			return err
		}
	}
	return fmt.Errorf("no completion for %q; there is one for each of %s", shell, strings.Join(shells(), ", "))
}

// completed is a command as shells see it.
type completed struct {
	name, says string
	values     []string
	flags      []completedFlag
}

type completedFlag struct {
	name, says string
	value      string // what follows; empty if nothing does
	folder     bool   // the value is one
	repeats    bool
}

func completions() (all []completed) {
	for _, g := range groups() {
		for _, c := range g.commands {
			one := completed{name: c.name, says: brief(c.help), values: c.values}
			var o options
			c.flagSet(&o).VisitAll(func(f *flag.Flag) {
				value, says := flag.UnquoteUsage(f)
				says = strings.TrimPrefix(says, value+": ") // where the usage begins with the form of the value
				_, repeats := f.Value.(*list)
				one.flags = append(one.flags, completedFlag{f.Name, brief(says), value, f.Name == "dir", repeats})
			})
			all = append(all, one)
		}
	}
	return all
}

var endOfBrief = regexp.MustCompile(`[,;\n]|: `)

// brief is the beginning of an explanation, which says enough in a menu.
func brief(s string) string { return endOfBrief.Split(s, 2)[0] }

// names of flags, with their dash; those that all admits.
func (c *completed) names(all func(completedFlag) bool) (names []string) {
	for _, f := range c.flags {
		if all(f) {
			names = append(names, "-"+f.name)
		}
	}
	return names
}

func bash(w *strings.Builder, all []completed) {
	var names []string
	for _, c := range all {
		names = append(names, c.name)
	}
	fmt.Fprintf(w, `# completion of gateway in bash: eval "$(gateway completion bash)"
_gateway() {
	local cur=${COMP_WORDS[COMP_CWORD]} words= folders= values= dir
	COMPREPLY=()
	if ((COMP_CWORD == 1)); then
		COMPREPLY=($(compgen -W "%s" -- "$cur"))
		return
	fi
	case ${COMP_WORDS[1]} in
`, strings.Join(names, " "))
	for _, c := range all {
		words := append(c.names(func(completedFlag) bool { return true }), c.values...)
		folders := c.names(func(f completedFlag) bool { return f.folder })
		values := c.names(func(f completedFlag) bool { return f.value != "" && !f.folder })
		fmt.Fprintf(w, "\t%s) words=\"%s\" folders=\"%s\" values=\"%s\" ;;\n", c.name,
			strings.Join(words, " "), strings.Join(folders, " "), strings.Join(values, " "))
	}
	w.WriteString(`	esac
	case " $folders " in *" ${COMP_WORDS[COMP_CWORD - 1]} "*)
		compopt -o filenames 2>/dev/null
		while IFS= read -r dir; do COMPREPLY+=("$dir"); done < <(compgen -d -- "$cur")
		return ;;
	esac
	case " $values " in *" ${COMP_WORDS[COMP_CWORD - 1]} "*) return ;; esac
	COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -F _gateway gateway
`)
}

func zsh(w *strings.Builder, all []completed) {
	// Colons end a part of a specification, brackets an explanation.
	part := strings.NewReplacer(`\`, `\\`, ":", `\:`, "[", `\[`, "]", `\]`)
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
	w.WriteString(`#compdef gateway
# completion of gateway in zsh: eval "$(gateway completion zsh)" after compinit,
# or this as a file _gateway in a folder of $fpath
_gateway() {
	if (( CURRENT == 2 )); then
		local -a commands
		commands=(
`)
	for _, c := range all {
		fmt.Fprintf(w, "\t\t\t%s\n", quote(c.name+":"+c.says))
	}
	w.WriteString(`		)
		_describe -t commands command commands
		return
	fi
	local command=$words[2]
	shift words
	(( CURRENT-- ))
	case $command in
`)
	for _, c := range all {
		fmt.Fprintf(w, "\t%s) _arguments", c.name)
		for _, f := range c.flags {
			spec := "-" + f.name + "[" + part.Replace(f.says) + "]"
			if f.repeats {
				spec = "*" + spec
			}
			if f.value != "" {
				spec += ":" + part.Replace(f.value) + ":"
			}
			if f.folder {
				spec += "_files -/"
			}
			w.WriteString(" \\\n\t\t" + quote(spec))
		}
		if len(c.values) > 0 {
			w.WriteString(" \\\n\t\t" + quote("1:value:("+strings.Join(c.values, " ")+")"))
		}
		w.WriteString(" ;;\n")
	}
	w.WriteString(`	esac
}
if [[ $funcstack[1] == _gateway ]]; then
	_gateway "$@"
else
	compdef _gateway gateway
fi
`)
}

func fish(w *strings.Builder, all []completed) {
	quote := func(s string) string {
		return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'"
	}
	w.WriteString("# completion of gateway in fish: gateway completion fish | source\ncomplete -c gateway -f\n")
	for _, c := range all {
		fmt.Fprintf(w, "complete -c gateway -n __fish_use_subcommand -a %s -d %s\n", c.name, quote(c.says))
		here := "complete -c gateway -n '__fish_seen_subcommand_from " + c.name + "'"
		if len(c.values) > 0 {
			fmt.Fprintf(w, "%s -a %s\n", here, quote(strings.Join(c.values, " ")))
		}
		for _, f := range c.flags {
			fmt.Fprintf(w, "%s -o %s -d %s", here, f.name, quote(f.says))
			switch {
			case f.folder:
				w.WriteString(" -x -a '(__fish_complete_directories)'")
			case f.value != "":
				w.WriteString(" -x")
			}
			w.WriteString("\n")
		}
	}
}
