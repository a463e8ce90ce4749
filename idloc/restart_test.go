package idloc_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
)

// lockedBuffer is a log that several goroutines write.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// listened is a Config for a node of dir whose log can be read.
func listened(dir string) (idloc.Config, *lockedBuffer) {
	b := new(lockedBuffer)
	return idloc.Config{Dir: dir, Addrs: loopback, Logger: slog.New(slog.NewTextHandler(b, nil))}, b
}

// copied is a state directory as it is on the disk now: what a kill leaves. A file that is
// written meanwhile may have another name by the time it is read.
func copied(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.Mkdir(to, 0o700); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, f.Name()), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// TestPortIsState: a node that chose its port has it again after a restart, so
// that who remembers it finds it, and says so if somebody else has it by then. A
// port that was asked for is remembered too.
func TestPortIsState(t *testing.T) {
	t.Parallel()
	dir, addrs := filepath.Join(t.TempDir(), "earth"), ownLoopback(1)
	earth := found(t, idloc.Config{Dir: dir, Addrs: addrs})
	first := earth.Status().Self.Port
	open := func() (uint16, string) {
		cfg, log := listened(dir)
		cfg.Addrs = addrs
		n, err := idloc.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		return n.Status().Self.Port, log.String()
	}
	if err := earth.Close(); err != nil {
		t.Fatal(err)
	}
	if again, log := open(); again != first || strings.Contains(log, "WARN") {
		t.Errorf("port %d, then %d:\n%s", first, again, log)
	}
	// Somebody else has it, and keeps it for a while.
	thief, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addrs[0], first)))
	if err != nil {
		t.Fatal(err)
	}
	defer thief.Close()
	second, log := open()
	if second == first || !strings.Contains(log, "level=WARN") || !strings.Contains(log, strconv.Itoa(int(first))) {
		t.Errorf("port %d is taken; %d:\n%s", first, second, log)
	}
	if again, log := open(); again != second || strings.Contains(log, "WARN") {
		t.Errorf("port %d, then %d: members know the newer by now:\n%s", second, again, log)
	}
	// Of those that it had it takes the newest that is free.
	other, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addrs[0], second)))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	thief.Close()
	if again, _ := open(); again != first {
		t.Errorf("port %d with %d taken and %d free", again, second, first)
	}
	if _, err := idloc.Open(t.Context(), idloc.Config{Dir: dir, Addrs: addrs, Port: second}); err == nil {
		t.Error("a port that was asked for and is taken was replaced")
	}
	other.Close()
	n, err := idloc.Open(t.Context(), idloc.Config{Dir: dir, Addrs: addrs, Port: second})
	if err != nil {
		t.Fatal(err)
	}
	n.Close()
	if again, _ := open(); again != second {
		t.Errorf("port %d was asked for, then %d was chosen", second, again)
	}
}

// TestPowerCut: all members of an overlay are gone at once, without a word, and
// what is on their disks at that moment brings them back together, in any order.
// A token from before lets somebody in.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	names := []string{"earth", "venus", "mars"}
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 0, 2}} {
		t.Run(names[order[0]]+" first", func(t *testing.T) {
			t.Parallel()
			dirs := map[string]string{}
			for _, name := range names {
				dirs[name] = filepath.Join(t.TempDir(), name)
			}
			earth := found(t, idloc.Config{Dir: dirs["earth"]})
			nodes := []*idloc.Node{earth, join(t, earth, "venus", idloc.Config{Dir: dirs["venus"]}), join(t, earth, "mars", idloc.Config{Dir: dirs["mars"]})}
			token, err := earth.Invite(idloc.InviteOptions{Name: "late"})
			if err != nil {
				t.Fatal(err)
			}
			// Who came in is written down within moments, not at the next pulse.
			within(t, "all remembered on the disk", 10*time.Second, func() bool {
				for _, name := range names {
					b, err := os.ReadFile(filepath.Join(dirs[name], "peers.json"))
					// Each knows the two others, or the second to start has nobody to try.
					if err != nil || bytes.Count(b, []byte(`"peer"`)) < 2 {
						return false
					}
				}
				return true
			})
			for _, name := range names {
				dirs[name] = copied(t, dirs[name])
			}
			for _, n := range nodes {
				n.Close()
			}
			up := map[string]*idloc.Node{}
			for i, at := range order {
				// Nobody is there for the first: it does not wait for ever.
				limit := time.Second
				if i > 0 {
					limit = patience
				}
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				cfg, log := listened(dirs[names[at]])
				n, err := idloc.Open(ctx, cfg)
				cancel()
				if err != nil {
					t.Fatal(err)
				}
				defer n.Close()
				defer func() {
					if t.Failed() {
						t.Logf("%s:\n%s", names[at], log)
					}
				}()
				up[names[at]] = n
				if i > 0 && names[at] == "earth" {
					// A founder waits three seconds, which a busy machine may need.
					within(t, "earth finds the others", patience, func() bool { return !n.Status().Self.Alone })
				}
				if s := n.Status().Self; s.Alone != (i == 0) || s.Alone != (s.AloneWhy != "") {
					t.Errorf("%s is number %d: alone %v, %q", names[at], i, s.Alone, s.AloneWhy)
				}
			}
			ports := map[string]string{}
			for name, n := range up {
				ports[name] = echo(t, n)
			}
			for from, n := range up {
				for to := range up {
					if from == to {
						continue
					}
					c, err := dialTimeout(t, n, "tcp", to+":"+ports[to])
					if err != nil {
						t.Errorf("%s to %s: %v", from, to, err)
						continue
					}
					c.Close()
				}
			}
			late, err := idloc.Join(t.Context(), token, idloc.Config{Addrs: loopback})
			if err != nil {
				t.Fatalf("with a token from before: %v", err)
			}
			late.Close()
		})
	}
}

// TestDamagedFiles: what can be made anew stops no start, whatever is wrong with
// it: it is put aside, said once, and the node finds the others again. The key
// and the membership stop it, with an error that names the file.
func TestDamagedFiles(t *testing.T) {
	t.Parallel()
	dir, marsDir := filepath.Join(t.TempDir(), "earth"), filepath.Join(t.TempDir(), "mars")
	earth := found(t, idloc.Config{Dir: dir})
	addrs := ownLoopback(2) // a port that is lost is a warning too
	mars := join(t, earth, "mars", idloc.Config{Dir: marsDir, Addrs: addrs})
	port := echo(t, earth)
	if c, err := dialTimeout(t, mars, "tcp", "earth:"+port); err != nil {
		t.Fatal(err)
	} else {
		c.Close()
	}
	if err := mars.Close(); err != nil {
		t.Fatal(err)
	}
	whole := copied(t, marsDir)
	files, err := filepath.Glob(filepath.Join(whole, "*.json"))
	if err != nil || len(files) < 6 {
		t.Fatalf("%q, %v", files, err)
	}
	for _, file := range files {
		name := filepath.Base(file)
		for desc, damage := range map[string]func(path string) error{
			"empty":      func(p string) error { return os.Truncate(p, 0) },
			"cut":        func(p string) error { return os.Truncate(p, 100) },
			"other type": func(p string) error { return os.Mkdir(p+"/", 0o700) },
		} {
			t.Run(name+" "+desc, func(t *testing.T) {
				cfg, log := listened(copied(t, whole))
				cfg.Addrs = addrs
				path := filepath.Join(cfg.Dir, name)
				if desc == "other type" {
					if err := os.Remove(path); err != nil {
						t.Fatal(err)
					}
				}
				if err := damage(path); err != nil {
					t.Fatal(err)
				}
				n, err := idloc.Open(t.Context(), cfg)
				if name == "identity.json" || name == "overlay.json" {
					if err == nil {
						n.Close()
					}
					if err == nil || !strings.Contains(err.Error(), path) {
						t.Errorf("Open: %v, want an error that names %s", err, path)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				defer n.Close()
				if got := strings.Count(log.String(), "level=WARN"); got != 1 && name != "peers.json" || !strings.Contains(log.String(), path) {
					t.Errorf("%d warnings:\n%s", got, log)
				}
				if _, err := os.Stat(path + ".damaged"); err != nil {
					t.Error(err)
				}
				if name == "peers.json" {
					return // it knows nobody: the others must come, or a token be used again
				}
				c, err := dialTimeout(t, n, "tcp", "earth:"+port)
				if err != nil {
					t.Fatal(err)
				}
				c.Close()
			})
		}
	}
}

// TestJoinGoesOn: Join uses all of its context: who is not there yet is entered
// by when it comes. What ends it says whom it tried, where, and why in vain.
func TestJoinGoesOn(t *testing.T) {
	t.Parallel()
	dir, addrs := filepath.Join(t.TempDir(), "earth"), ownLoopback(3)
	earth := found(t, idloc.Config{Dir: dir, Addrs: addrs})
	token, err := earth.Invite(idloc.InviteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	at := netip.AddrPortFrom(addrs[0], earth.Status().Self.Port).String()
	if err := earth.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second) // in which it tries on any machine
	_, err = idloc.Join(ctx, token, idloc.Config{Addrs: loopback})
	cancel()
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 member tried at 1 address") || !strings.Contains(err.Error(), at) {
		t.Errorf("nobody there: %v", err)
	}
	cfg, log := listened("")
	entered := make(chan error)
	go func() {
		n, err := idloc.Join(t.Context(), token, cfg)
		if err == nil {
			defer n.Close()
		}
		entered <- err
	}()
	within(t, "waiting said", 20*time.Second, func() bool { return strings.Contains(log.String(), "waiting for a member") })
	if !strings.Contains(log.String(), "no answer yet from "+at) {
		t.Errorf("who is waited for is not said:\n%s", log.String())
	}
	again, err := idloc.Open(t.Context(), idloc.Config{Dir: dir, Addrs: addrs})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	select {
	case err := <-entered:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("not in after the founder is there")
	}
}
