package overlay

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/state"
	"github.com/idloc/idloc/internal/yardstick"
	"github.com/idloc/idloc/overlay/admission"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/mesh"
)

// handClock is a clock that can be set.
type handClock struct{ ahead atomic.Int64 }

func (c *handClock) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *handClock) set(ahead time.Duration) { c.ahead.Store(int64(ahead)) }

// heardLog is a log that can be read while it is written.
type heardLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *heardLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// warnings returns the lines at Warn and above.
func (l *heardLog) warnings() (lines []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		if strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") {
			lines = append(lines, line)
		}
	}
	return lines
}

func (n *node) configHeard(name string) (Config, *heardLog) {
	l := new(heardLog)
	cfg := n.config(name)
	cfg.Logger = slog.New(slog.NewTextHandler(l, nil))
	return cfg, l
}

const testYear = 365 * 24 * time.Hour

// TestClockSetAfterStart: a member whose clock is wrong when it starts is up,
// says once that it is the clock and by how much, and is with the others when the
// clock is set. So is one whose clock goes wrong while it runs.
func TestClockSetAfterStart(t *testing.T) {
	t.Parallel()
	earth := founded(t, "earth")
	earth.join(t, "mars")
	for _, ahead := range []time.Duration{-testYear, -25 * time.Hour, 25 * time.Hour} {
		for _, runs := range []bool{false, true} {
			name := "behind"
			if ahead > 0 {
				name = "ahead"
			}
			t.Run(name+" "+ahead.String(), func(t *testing.T) {
				t.Parallel()
				dir := memory(t)
				clock := new(handClock)
				venus := earth.joinWith(t, newNode(t, dir), "venus", InviteOptions{})
				venus.shut()
				again := newNodeWith(t, venus.key, dir)
				cfg, log := again.configHeard("venus")
				cfg.clock = clock.now
				if !runs {
					clock.set(ahead)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				defer cancel()
				again.run(Open(ctx, cfg))
				clock.set(ahead)
				if !runs {
					await(t, "the clock said", 20*time.Second, func() bool {
						return strings.Contains(strings.Join(log.warnings(), ""), "clock")
					})
				}
				clock.set(0)
				await(t, "mars found and venus found", 30*time.Second, func() bool {
					_, err := again.Resolve(t.Context(), "mars")
					f, err2 := earth.Resolve(t.Context(), again.Label())
					return err == nil && err2 == nil && f.Peer == again.Self()
				})
				said := 0
				for _, line := range log.warnings() {
					if strings.Contains(line, "msg=\"this machine's clock") {
						said++
					}
				}
				if said > 1 {
					t.Errorf("said %d times:\n%s", said, strings.Join(log.warnings(), ""))
				}
			})
		}
	}
}

// TestJoinAwaitsClock: who enters with a clock that is wrong, so that the token
// has not begun, or seems to be long over, enters when the clock is set. A token
// that is over is over.
func TestJoinAwaitsClock(t *testing.T) {
	t.Parallel()
	earth := founded(t, "earth")
	for desc, ahead := range map[string]time.Duration{"behind": -testYear, "ahead by a day": 25 * time.Hour, "ahead by years": 2 * testYear} {
		t.Run(desc, func(t *testing.T) {
			t.Parallel()
			token, err := earth.Invite(InviteOptions{Expires: 30 * 24 * time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			clock := new(handClock)
			clock.set(ahead)
			n := newNode(t, nil)
			cfg, log := n.configHeard("venus")
			cfg.clock = clock.now
			entered := make(chan error)
			go func() {
				o, err := Join(t.Context(), token, cfg)
				if err == nil {
					n.Overlay = o
				}
				entered <- err
			}()
			t.Cleanup(n.shut)
			await(t, "the clock said", 20*time.Second, func() bool {
				return strings.Contains(strings.Join(log.warnings(), ""), "clock")
			})
			clock.set(0)
			if err := <-entered; err != nil {
				t.Fatal(err)
			}
			if m := n.Member(); !m.Confirmed || m.NotBefore.After(time.Now()) {
				t.Errorf("confirmed %v, from %v", m.Confirmed, m.NotBefore)
			}
		})
	}
	// The founder's clock and this one agree that it is over.
	late := new(handClock)
	ceres, sol := newNode(t, nil), newNode(t, nil)
	cfg := ceres.config("ceres")
	cfg.clock = late.now
	ceres.run(Create(t.Context(), "example.org", cfg))
	token, err := ceres.Invite(InviteOptions{Expires: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	late.set(3 * 24 * time.Hour)
	cfg = sol.config("sol")
	cfg.clock = late.now
	t.Cleanup(sol.shut)
	if _, err := Join(t.Context(), token, cfg); !errors.Is(err, membership.ErrExpired) {
		t.Errorf("with a token that is over: %v", err)
	}
}

// TestFinalEndsJoin: who is refused for good hears so at once, whatever time is
// left.
func TestFinalEndsJoin(t *testing.T) {
	t.Parallel()
	earth := founded(t, "earth")
	token, err := earth.Invite(InviteOptions{Name: "mars"})
	if err != nil {
		t.Fatal(err)
	}
	mars := newNode(t, nil)
	mars.run(Join(t.Context(), token, mars.config("mars")))
	if err := earth.Revoke(t.Context(), "mars", admission.Scope{}); err != nil {
		t.Fatal(err)
	}
	mars.shut()
	again := newNodeWith(t, mars.key, nil)
	t.Cleanup(again.shut)
	if _, err := Join(t.Context(), token, again.config("mars")); err == nil || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("a member that was put out: %v", err)
	}
}

// TestFounderClockSet: a founder that starts with its clock behind keeps the
// membership it has, and its clock being set it invites as ever.
func TestFounderClockSet(t *testing.T) {
	t.Parallel()
	for _, ahead := range []time.Duration{-testYear, 2 * testYear} {
		dir := memory(t)
		earth := newNode(t, dir)
		earth.run(Create(t.Context(), "example.com", earth.config("earth")))
		earth.shut()
		clock := new(handClock)
		clock.set(ahead)
		again := newNodeWith(t, earth.key, dir)
		cfg := again.config("earth")
		cfg.clock = clock.now
		again.run(Open(t.Context(), cfg))
		clock.set(0)
		await(t, "a membership of now", 20*time.Second, func() bool {
			m := again.Member()
			return m.NotBefore.Before(time.Now()) && m.NotAfter.After(time.Now())
		})
		again.join(t, "mars")
	}
}

// TestDiskTakesNothing: a disk that is full stops neither who runs nor who starts
// with what it holds: an issuer confirms, a member is found. It is said, not over
// and over.
func TestDiskTakesNothing(t *testing.T) {
	t.Parallel()
	dir := memory(t)
	earth := newNode(t, dir)
	cfg, log := earth.configHeard("earth")
	earth.run(Create(t.Context(), "example.com", cfg))
	earth.join(t, "mars")
	dir.Break(syscall.ENOSPC)
	earth.join(t, "venus")
	earth.shut()
	again := newNodeWith(t, earth.key, dir)
	cfg = again.config("earth")
	cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
	again.run(Open(t.Context(), cfg))
	luna := again.join(t, "luna")
	if _, err := luna.Resolve(t.Context(), "earth"); err != nil {
		t.Error(err)
	}
	said := map[string]int{}
	for _, line := range log.warnings() {
		if _, after, ok := strings.Cut(line, "state is not saved"); ok {
			_, name, _ := strings.Cut(after, "name=")
			name, _, _ = strings.Cut(name, " ")
			said[name]++
		}
	}
	if said[admission.DocOverlay] != 1 || said[admission.DocLabels] != 1 {
		t.Errorf("said: %v", said)
	}
}

// TestLabelsLost: an issuer whose list of labels is damaged asks the database
// before it gives one to anybody.
func TestLabelsLost(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "earth")
	open := func() *state.Dir {
		d, err := state.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		return d
	}
	dir := open()
	earth := newNode(t, dir)
	earth.run(Create(t.Context(), "example.com", earth.config("earth")))
	mars := earth.join(t, "mars")
	await(t, "mars remembered", 20*time.Second, func() bool {
		b, err := os.ReadFile(filepath.Join(path, mesh.KnownFile+".json"))
		return err == nil && bytes.Contains(b, []byte(mars.Self().String()))
	})
	earth.shut()
	if err := errors.Join(dir.Close(), os.Truncate(filepath.Join(path, admission.DocLabels+".journal"), 9)); err != nil {
		t.Fatal(err)
	}
	again := newNodeWith(t, earth.key, open())
	again.run(Open(t.Context(), again.config("earth")))
	await(t, "mars in the database", 30*time.Second, func() bool {
		f, err := again.Resolve(t.Context(), "mars")
		return err == nil && f.Peer == mars.Self()
	})
	if other := again.join(t, "mars"); other.Label() != "mars-2" {
		t.Errorf("another peer is %s", other.Label())
	}
}

// TestPartsBecomeOne: a founder that comes back and knows nobody any more is found
// by those that remember it, although they are not alone.
func TestPartsBecomeOne(t *testing.T) {
	t.Parallel()
	dir := memory(t)
	at := netip.MustParseAddrPort("127.0.8.1:0")
	earth := newNodeAt(t, nil, dir, at)
	earth.run(Create(t.Context(), "example.com", earth.config("earth")))
	venus, mars := earth.join(t, "venus"), earth.join(t, "mars")
	await(t, "all connected", 3*mesh.UpkeepEvery, func() bool { return len(venus.Peers()) == 2 && len(mars.Peers()) == 2 })
	earth.shut()
	await(t, "earth gone", 20*time.Second, func() bool { return len(venus.Peers()) == 1 && len(mars.Peers()) == 1 })
	if err := dir.Save(mesh.KnownFile, []mesh.KnownMember{}); err != nil {
		t.Fatal(err)
	}
	again := newNodeAt(t, earth.key, dir, netip.AddrPortFrom(at.Addr(), earth.sock.Number()))
	again.run(Open(t.Context(), again.config("earth")))
	if alone, why := again.Alone(); alone {
		t.Errorf("alone, although it knows nobody: %s", why)
	}
	await(t, "all connected again", 3*mesh.UpkeepEvery, func() bool { return len(again.Peers()) == 2 })
}

// TestAloneIsSaid: who resumes and reaches nobody is up, and says why it is alone:
// in Alone, in the log and as an event. It is not alone when somebody comes.
func TestAloneIsSaid(t *testing.T) {
	t.Parallel()
	earthDir, dir := memory(t), memory(t)
	at := netip.MustParseAddrPort("127.0.8.2:0")
	earth := newNodeAt(t, nil, earthDir, at)
	earth.run(Create(t.Context(), "example.com", earth.config("earth")))
	mars := earth.joinWith(t, newNode(t, dir), "mars", InviteOptions{})
	at = netip.AddrPortFrom(at.Addr(), earth.sock.Number())
	mars.shut()
	earth.shut()
	again := newNodeWith(t, mars.key, dir)
	cfg, log := again.configHeard("mars")
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(yardstick.Slowness()*float64(time.Second))) // for one try at least
	defer cancel()
	again.run(Open(ctx, cfg))
	alone, why := again.Alone()
	if !alone || !strings.Contains(why, earth.Self().String()) {
		t.Errorf("alone: %v, %q", alone, why)
	}
	if lines := log.warnings(); len(lines) != 1 || !strings.Contains(lines[0], "alone") {
		t.Errorf("said: %q", lines)
	}
	if e := again.seen(event.Alone, peerid.ID{}); len(e) != 1 || e[0].Err == "" {
		t.Errorf("events: %+v", e)
	}
	cancelled, stop := context.WithCancel(t.Context())
	stop()
	other := newNodeWith(t, mars.key, dir)
	t.Cleanup(other.shut)
	if _, err := Open(cancelled, other.config("mars")); !errors.Is(err, context.Canceled) {
		t.Errorf("a call that was cancelled: %v", err)
	}
	back := newNodeAt(t, earth.key, earthDir, at)
	back.run(Open(t.Context(), back.config("earth")))
	await(t, "not alone", 20*time.Second, func() bool { alone, _ := again.Alone(); return !alone })
}

// TestRestoredFounder: a founder that starts from an older copy of its directory,
// from before it revoked somebody, learns that back from the members: whom it had
// revoked stays out, also for it, and what it revokes next is in force beside it.
func TestRestoredFounder(t *testing.T) {
	t.Parallel()
	path, older := filepath.Join(t.TempDir(), "earth"), filepath.Join(t.TempDir(), "copy")
	open := func(path string) *state.Dir {
		d, err := state.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		return d
	}
	dir := open(path)
	earth := newNode(t, dir)
	earth.run(Create(t.Context(), "example.com", earth.config("earth")))
	mars, bad := earth.join(t, "mars"), earth.join(t, "bad")
	await(t, "both remembered", 20*time.Second, func() bool {
		b, err := os.ReadFile(filepath.Join(path, mesh.KnownFile+".json"))
		return err == nil && bytes.Contains(b, []byte(mars.Self().String())) && bytes.Contains(b, []byte(bad.Self().String()))
	})
	copyState(t, path, older)
	if err := earth.Revoke(t.Context(), "bad", admission.Scope{}); err != nil {
		t.Fatal(err)
	}
	await(t, "the list at mars", 20*time.Second, func() bool { return mars.roster.Revocations().Seq() == 1 })
	earth.shut()
	again := newNodeWith(t, earth.key, open(older))
	again.run(Open(t.Context(), again.config("earth")))
	await(t, "the list at the founder", 30*time.Second, func() bool { return again.roster.Revoked(bad.Self()) })
	if _, err := again.Resolve(t.Context(), "bad"); !errors.Is(err, ErrRevoked) {
		t.Errorf("the revoked member's name: %v", err)
	}
	await(t, "the revoked member forgotten", 20*time.Second, func() bool { // which follows the list at once, and not in the same moment
		return !slices.ContainsFunc(again.mesh.Known().AddrInfos(), func(p peer.AddrInfo) bool { return p.ID == bad.mesh.Host().ID() })
	})
	pluto := again.join(t, "pluto")
	if err := again.Revoke(t.Context(), "pluto", admission.Scope{}); err != nil {
		t.Fatal(err)
	}
	await(t, "both revocations at mars", 20*time.Second, func() bool {
		return mars.roster.Revoked(bad.Self()) && mars.roster.Revoked(pluto.Self())
	})
}

// copyState copies a state directory that is in use. A file that is written meanwhile may
// have another name by the time it is read.
func copyState(t *testing.T, from, to string) {
	t.Helper()
	files, err := os.ReadDir(from)
	if err = errors.Join(err, os.Mkdir(to, 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(from, f.Name()))
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
}
