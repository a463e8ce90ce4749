package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestHello(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	said, w := io.Pipe()
	served := make(chan error, 1)
	go func() {
		served <- run(ctx, []string{"-addr", "127.0.0.1", "-found", "example.com", "-name", "earth", "-serve"}, w)
		w.Close()
	}()
	defer func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serving: %v", err)
		}
	}()
	var token string
	for s := bufio.NewScanner(said); token == "" && s.Scan(); {
		_, token, _ = strings.Cut(s.Text(), "go run . -join ")
	}
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-addr", "127.0.0.1", "-join", token, "-name", "mars", "earth.example.com"}, &out); err != nil {
		t.Fatal(err)
	}
	if want := "earth.example.com: hello mars.example.com; you asked \"how are you?\"\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

// TestNeeds: a member without the tag is told that it has it not, one with it is served.
func TestNeeds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	said, w := io.Pipe()
	served := make(chan error, 1)
	go func() {
		served <- run(ctx, []string{"-addr", "127.0.0.1", "-found", "example.com", "-name", "earth", "-serve", "-needs", "ops"}, w)
		w.Close()
	}()
	defer func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serving: %v", err)
		}
	}()
	var tokens []string
	for s := bufio.NewScanner(said); len(tokens) < 2 && s.Scan(); {
		if _, token, ok := strings.Cut(s.Text(), "go run . -join "); ok {
			tokens = append(tokens, token)
		}
	}
	var out bytes.Buffer
	err := run(t.Context(), []string{"-addr", "127.0.0.1", "-join", tokens[0], "-name", "mars", "earth.example.com"}, &out)
	if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "mars.example.com has not the tag ops") {
		t.Errorf("without the tag: %v", err)
	}
	if err := run(t.Context(), []string{"-addr", "127.0.0.1", "-join", tokens[1], "-name", "venus", "earth.example.com"}, &out); err != nil {
		t.Errorf("with the tag: %v", err)
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	run(t.Context(), []string{"-h"}, &out)
	for _, want := range []string{"Usage: grpc", "-found", "-join", "-name", "-dir", "-addr", "-serve"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("-h does not say %q", want)
		}
	}
	if err := run(t.Context(), []string{"-join", "nonsense"}, &out); err == nil {
		t.Error("nonsense is a token")
	}
}
