package main

import (
	"bufio"
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// settle is how long the node has for what it does after its start, and after a member went.
const settle = 10 * time.Second

// plain is what examples/hello would be without idloc.
const plain = `package main

import (
	"fmt"
	"log"
	"net/http"
)

func main() {
	log.Fatal(http.ListenAndServe("127.0.0.1:8080", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "hello")
	})))
}
`

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "footprint:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "footprint")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	const hello = "github.com/idloc/idloc/examples/hello"
	source := filepath.Join(dir, "plain.go")
	if err := os.WriteFile(source, []byte(plain), 0o600); err != nil {
		return err
	}
	stripped := filepath.Join(dir, "stripped")
	for _, b := range []struct{ what, flags, of, to string }{
		{"examples/hello", "", hello, filepath.Join(dir, "hello")},
		{"examples/hello, stripped", "-s -w", hello, stripped},
		{"HTTP by package net, stripped", "-s -w", source, filepath.Join(dir, "plain")},
	} {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", b.flags, "-o", b.to, b.of)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", b.what, err, out)
		}
		info, err := os.Stat(b.to)
		if err != nil {
			return err
		}
		fmt.Printf("%-34s %6.1f MB\n", b.what, float64(info.Size())/1e6)
	}
	linked, err := buildinfo.ReadFile(stripped)
	if err != nil {
		return err
	}
	graph, err := exec.CommandContext(ctx, "go", "list", "-m", "all").Output()
	if err != nil {
		return err
	}
	fmt.Printf("%-34s %6d linked, %d in the graph\n", "modules beside idloc", len(linked.Deps), strings.Count(string(graph), "\n")-1)
	return memory(ctx, stripped)
}

// memory runs a founder, lets a member come and go, and says what the founder has then.
func memory(ctx context.Context, hello string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	earth := exec.CommandContext(ctx, hello)
	earth.Stderr = os.Stderr
	out, err := earth.StdoutPipe()
	if err != nil {
		return err
	}
	if err := earth.Start(); err != nil {
		return err
	}
	defer func() { _ = earth.Process.Kill(); _ = earth.Wait() }()
	said, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return err
	}
	at := strings.Index(said, "idloc1")
	if at < 0 {
		return fmt.Errorf("no token in %q", said)
	}
	time.Sleep(settle)
	show(earth.Process.Pid, "memory of a founder alone")
	if b, err := exec.CommandContext(ctx, hello, strings.TrimSpace(said[at:])).Output(); err != nil || !strings.HasPrefix(string(b), "hello from") {
		return errors.Join(fmt.Errorf("the member says %q", b), err)
	}
	time.Sleep(settle)
	show(earth.Process.Pid, "after a member came and went")
	return nil
}

// show prints what the system counts of a process.
func show(pid int, what string) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		fmt.Printf("%-34s not known on this system\n", what)
		return
	}
	count := func(field string) (mb float64) {
		for line := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(line, field+":"); ok {
				_, _ = fmt.Sscan(rest, &mb)
			}
		}
		return mb * 1024 / 1e6
	}
	fmt.Printf("%-34s %6.1f MB, of them %.1f MB not the program's file\n", what, count("VmRSS"), count("RssAnon"))
}
