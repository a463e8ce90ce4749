package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/idloc/idloc/idloc"
)

// terminal is a running chat and its user.
type terminal struct {
	t   *testing.T
	in  io.WriteCloser
	out chan string // its lines
	end chan error
}

func open(t *testing.T, args ...string) *terminal {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	in, typed := io.Pipe()
	shown, out := io.Pipe()
	term := &terminal{t, typed, make(chan string, 1000), make(chan error, 1)}
	go func() {
		defer close(term.out)
		for s := bufio.NewScanner(shown); s.Scan(); {
			term.out <- s.Text()
		}
	}()
	go func() {
		err := run(ctx, append([]string{"-addr", "127.0.0.1"}, args...), in, out)
		out.CloseWithError(io.EOF)
		term.end <- err
	}()
	t.Cleanup(func() {
		typed.Close()
		if err := <-term.end; err != nil {
			t.Errorf("chat %q: %v", args, err)
		}
		cancel()
	})
	return term
}

// expect reads lines until one begins with want, and returns its rest.
func (term *terminal) expect(want string) string {
	term.t.Helper()
	var all []string
	for line := range term.out {
		if rest, ok := strings.CutPrefix(line, want); ok {
			return rest
		}
		all = append(all, line)
	}
	term.t.Fatalf("no line %q, but %q", want, all)
	return ""
}

func TestChat(t *testing.T) {
	t.Parallel()
	earth := open(t, "-found", "example.com", "-name", "earth")
	earth.expect("you are earth.example.com")
	token := strings.TrimSpace(earth.expect("others enter with: chat -join "))
	mars := open(t, "-join", token, "-name", "mars", "earth")
	mars.expect("you are mars.example.com")
	mars.expect("* earth.example.com is here")
	earth.expect("* mars.example.com is here")
	venus := open(t, "-join", token, "-name", "venus", "earth", "mars", "pluto")
	venus.expect("* mars.example.com is here")
	mars.expect("* venus.example.com is here")
	earth.expect("* venus.example.com is here")
	io.WriteString(venus.in, "hello from venus\n")
	earth.expect("venus.example.com: hello from venus")
	mars.expect("venus.example.com: hello from venus")
	io.WriteString(earth.in, "hello venus\n")
	venus.expect("earth.example.com: hello venus")
	venus.in.Close()
	earth.expect("* venus.example.com has left")
}

func TestUsage(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	run(t.Context(), []string{"-h"}, strings.NewReader(""), &out)
	for _, want := range []string{"Usage: chat", "-found", "-join", "-name", "-dir", "-addr"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("-h does not say %q", want)
		}
	}
	if err := run(t.Context(), []string{"-join", "nonsense"}, strings.NewReader(""), &out); err == nil {
		t.Error("nonsense is a token")
	}
	if err := run(t.Context(), nil, strings.NewReader(""), &out); !errors.Is(err, idloc.ErrNoState) {
		t.Errorf("no overlay named: %v", err)
	}
}
