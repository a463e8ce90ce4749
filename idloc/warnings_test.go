package idloc

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/idloc/idloc/overlay/nat"
)

// A server whose name cannot be resolved is warned of once, until it can be.
func TestUnresolved(t *testing.T) {
	t.Parallel()
	servers := Config{ICEServers: []string{"stun:nowhere.invalid", "stun:192.0.2.1", "turn:u:secret@turn.example.com", "stun:[2001:db8::1]:5"}}.namedServers()
	if len(servers) != 2 || servers[0].Host != "nowhere.invalid" || servers[1].Host != "turn.example.com" {
		t.Fatalf("looked up are %v", servers)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var w warnings
		var log strings.Builder
		logger := slog.New(slog.NewTextHandler(&log, nil))
		asked := map[string]int{}
		work := func(_ context.Context, host string) error {
			if asked[host]++; host == "nowhere.invalid" && asked[host] < 4 {
				return errors.New("no such host")
			}
			return nil
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			w.watchServers(ctx, logger, servers, work)
		}()
		synctest.Wait()
		if all := w.all(); len(all) != 1 || all[0] != "Config.ICEServers: stun:nowhere.invalid:3478 cannot be resolved and helps nobody: no such host" {
			t.Errorf("warnings: %q", all)
		}
		<-ended // it returns when all have been resolved
		if all := w.all(); len(all) != 0 {
			t.Errorf("warnings after it was resolved: %q", all)
		}
		if asked["nowhere.invalid"] != 4 || asked["turn.example.com"] != 1 {
			t.Errorf("looked up: %v", asked)
		}
		if n := strings.Count(log.String(), "level=WARN"); n != 1 {
			t.Errorf("%d lines in the log:\n%s", n, log.String())
		}
		cancel()
	})
}

// A node that ends meanwhile takes nothing for unresolved.
func TestUnresolvedEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	var w warnings
	w.watchServers(ctx, slog.New(slog.DiscardHandler), []nat.ICEServer{{Host: "nowhere.invalid"}}, func(ctx context.Context, _ string) error {
		cancel()
		return ctx.Err()
	})
	if all := w.all(); len(all) != 0 {
		t.Errorf("warnings: %q", all)
	}
}

// What the name of a machine becomes, and whether that is worth a word.
func TestMachineLabel(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]struct {
		label   string
		changed bool
	}{
		"mars":                           {"mars", false},
		"Mars.local":                     {"mars", false},
		"mün":                            {"m-n", true},
		"my_pc":                          {"my-pc", true},
		"-a-":                            {"a", true},
		"":                               {"peer", true},
		"火星":                             {"peer", true},
		strings.Repeat("a", 59):          {strings.Repeat("a", 59), false},
		strings.Repeat("a", 63):          {strings.Repeat("a", 59), true},
		strings.Repeat("a", 58) + "-bcd": {strings.Repeat("a", 58), true},
		"k51qzi5uqu5":                    {"peer", true},
	} {
		if label, changed := machineLabel(host); label != want.label || changed != want.changed {
			t.Errorf("%q: %q, %v; want %q, %v", host, label, changed, want.label, want.changed)
		}
	}
}
