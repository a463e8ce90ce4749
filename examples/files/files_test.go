package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFiles(t *testing.T) {
	t.Parallel()
	folder, secret := t.TempDir(), t.TempDir()
	data := make([]byte, 3_000_000)
	rand.Read(data)
	write := func(dir, name string, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(folder, "data.bin", data)
	write(secret, "key", []byte("not shared"))
	if err := os.Symlink(filepath.Join(secret, "key"), filepath.Join(folder, "link")); err != nil {
		t.Log("no symbolic links here: ", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	said, w := io.Pipe()
	shared := make(chan error, 1)
	go func() {
		shared <- run(ctx, []string{"-addr", "127.0.0.1", "-found", "example.com", "-name", "earth", "-share", folder}, io.Discard, w)
		w.Close()
	}()
	defer func() {
		cancel()
		if err := <-shared; err != nil {
			t.Errorf("sharing: %v", err)
		}
	}()
	var token string
	for s := bufio.NewScanner(said); token == "" && s.Scan(); {
		_, token, _ = strings.Cut(s.Text(), "files -join ")
	}
	state := t.TempDir()
	get := func(args ...string) (string, error) {
		var out bytes.Buffer
		err := run(t.Context(), append([]string{"-addr", "127.0.0.1", "-dir", state}, args...), &out, io.Discard)
		return out.String(), err
	}
	if list, err := get("-join", token, "-name", "mars", "http://earth.example.com/"); err != nil || !strings.Contains(list, `href="data.bin"`) {
		t.Errorf("the folder: %q, %v", list, err)
	}
	if got, err := get("http://earth.example.com/data.bin"); err != nil || got != string(data) {
		t.Errorf("%d of %d bytes, %v", len(got), len(data), err)
	}
	for _, path := range []string{"none", "link", "../key"} {
		if got, err := get("http://earth.example.com/" + path); err == nil {
			t.Errorf("%s: %q", path, got)
		}
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	run(t.Context(), []string{"-h"}, &out, &out)
	for _, want := range []string{"Usage: files", "-found", "-join", "-name", "-dir", "-addr", "-share"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("-h does not say %q", want)
		}
	}
	if err := run(t.Context(), []string{"-join", "nonsense"}, &out, &out); err == nil {
		t.Error("nonsense is a token")
	}
}
