package main

import (
	"bytes"
	"context"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// Two seconds of it: the command works, and so do the nodes. A busy machine may
// need these for a first dial that loses a packet; then it has more.
func TestRun(t *testing.T) {
	for d := 2 * time.Second; ; d *= 2 {
		got, err := run(context.Background(), config{duration: d, nodes: 2, streams: 2, seed: 1, out: io.Discard})
		if err != nil {
			t.Fatal(err)
		}
		done := got.streams.Load() > 0 && got.datagrams.Load() > 0
		if got.bad() || !done && d > 15*time.Second {
			t.Fatalf("%v\n%q", got, got.complaints)
		}
		if done {
			return
		}
	}
}

// TestCommand: what is asked for on the command line is done, and the verdict
// comes last. Not in parallel with others: arguments and output are the
// process's.
func TestCommand(t *testing.T) {
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	args, flags, stdout := os.Args, flag.CommandLine, os.Stdout
	defer func() { os.Args, flag.CommandLine, os.Stdout = args, flags, stdout }()
	os.Args = []string{"soak", "-d", "100ms", "-n", "2", "-c", "1", "-seed", "9", "-calm"}
	flag.CommandLine = flag.NewFlagSet("soak", flag.ContinueOnError)
	os.Stdout = out
	main() // a bad run would end the process
	b, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	if s := string(b); !strings.HasPrefix(s, "soak: 2 nodes for 100ms, seed 9\n") || !strings.Contains(s, "restarts 0, cut by a lossy link 0, blackouts 0, moves 0") ||
		!strings.HasSuffix(s, "wrong 0, lost streams 0, leaks 0, revoked and served 0, over the memory limit 0\n") {
		t.Errorf("%s", s)
	}
}

// The command would see a wrong byte, a lost one and one too many.
func TestCompare(t *testing.T) {
	good := make([]byte, 100_000)
	if _, err := io.ReadFull(source(7), good); err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(good)
	flipped[99_999] ^= 1
	for _, x := range []struct {
		desc string
		b    []byte
		size int64
		ok   bool
	}{
		{"all there", good, 100_000, true},
		{"a bit flipped", flipped, 100_000, false},
		{"the last byte missing", good[:99_999], 100_000, false},
		{"a byte too many", good, 99_999, false},
	} {
		if err := compare(bytes.NewReader(x.b), source(7), x.size); (err == nil) != x.ok {
			t.Errorf("%s: %v", x.desc, err)
		}
	}
	d := datagram(3, 100)
	if !genuine(d) {
		t.Error("a datagram is not taken for genuine")
	}
	for i := range d {
		if genuine(d[:i]) {
			t.Errorf("the first %d bytes are taken for all", i)
		}
		d[i] ^= 1
		if genuine(d) {
			t.Errorf("byte %d is wrong and nobody sees", i)
		}
		d[i] ^= 1
	}
}
