package roaming

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/leaktest"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/pipetest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// sock is a socket.
type sock struct{ at netip.AddrPort }

func (s *sock) LocalAddr() netip.AddrPort                    { return s.at }
func (s *sock) WriteBatch([]byte, int, netip.AddrPort) error { return nil }

func socket(text string) *sock { return &sock{netip.MustParseAddrPort(text)} }

// host is all that a Follower works with. It writes down what is done.
type host struct {
	*Follower
	t *testing.T

	mu      sync.Mutex // guards the rest
	log     []string
	sockets []pipe.Sender
	pipes   []*pipe.Pipe
	back    func() bool // whether a member is connected
	known   func() bool // whether a mapped address is
	slow    time.Duration
	waiting int // offers, until so many calls of settled
	most    int // waiting when new paths were looked for
	renewed [][]*pipe.Pipe
}

func newHost(t *testing.T, sockets ...pipe.Sender) *host {
	h := &host{t: t, sockets: sockets, back: func() bool { return true }, known: func() bool { return true }}
	h.Follower = New(Config{
		Sockets: func() []pipe.Sender { h.mu.Lock(); defer h.mu.Unlock(); return slices.Clone(h.sockets) },
		Pipes:   hostPipes{h}, Mesh: hostMesh{h}, Mapped: hostMapped{h}, Establisher: hostEstablisher{h},
		Moved:   func() { h.did("moved") },
		Changed: func() { h.did("changed") },
	}, sockets)
	return h
}

// run has the Follower run until the returned function is called.
func (h *host) run() (end func()) {
	ctx, cancel := context.WithCancel(h.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.Run(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// sleep lets time pass, and what is due then be done.
func (h *host) sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (h *host) did(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.log = append(h.log, fmt.Sprintf(format, args...))
}

// done returns what was done since the last call.
func (h *host) done() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := strings.Join(h.log, ", ")
	h.log = nil
	return out
}

func (h *host) offersWait() bool { h.mu.Lock(); defer h.mu.Unlock(); return h.waiting > 0 }

func (h *host) set(f func()) { h.mu.Lock(); defer h.mu.Unlock(); f() }

type hostPipes struct{ h *host }

func (p hostPipes) Pipes() []*pipe.Pipe       { p.h.mu.Lock(); defer p.h.mu.Unlock(); return p.h.pipes }
func (p hostPipes) AddLocal(s pipe.Sender)    { p.h.did("add %v", s.LocalAddr()) }
func (p hostPipes) RemoveLocal(s pipe.Sender) { p.h.did("remove %v", s.LocalAddr()) }
func (p hostPipes) Doubt()                    { p.h.did("doubt") }

type hostMesh struct{ h *host }

func (m hostMesh) HangUp(gone map[string]bool) {
	m.h.did("hang up %v", slices.Sorted(maps.Keys(gone)))
}
func (m hostMesh) ForgetReached(gone map[string]bool)  { m.h.did("forget %d", len(gone)) }
func (m hostMesh) Listen(added, gone []netip.AddrPort) { m.h.did("listen %v not %v", added, gone) }
func (m hostMesh) SuspectAll()                         { m.h.did("suspect") }
func (m hostMesh) Wake()                               { m.h.did("wake") }
func (m hostMesh) Back(context.Context) bool {
	m.h.mu.Lock()
	defer m.h.mu.Unlock()
	return m.h.back()
}

type hostMapped struct{ h *host }

func (m hostMapped) Remeasure() <-chan struct{} {
	m.h.did("measure")
	c := make(chan struct{})
	time.AfterFunc(m.h.slow, func() { close(c) })
	return c
}
func (m hostMapped) Known() bool { m.h.mu.Lock(); defer m.h.mu.Unlock(); return m.h.known() }

type hostEstablisher struct{ h *host }

func (e hostEstablisher) NetworkChanging() func() {
	e.h.set(func() { e.h.waiting++ })
	return sync.OnceFunc(func() { e.h.set(func() { e.h.waiting-- }) })
}

func (e hostEstablisher) Renew(_ context.Context, pipes []*pipe.Pipe) {
	e.h.did("renew %d", len(pipes))
	e.h.set(func() {
		e.h.renewed = append(e.h.renewed, pipes)
		e.h.most = max(e.h.most, e.h.waiting)
	})
}

// Everything moves from the socket that is gone to the one that is new, in order; one
// that stays is left alone.
func TestMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stays, goes, comes := socket("192.0.2.1:7000"), socket("192.0.2.2:7000"), socket("198.51.100.1:7000")
		h := newHost(t, stays, goes)
		defer h.run()()
		h.set(func() { h.sockets = []pipe.Sender{stays, comes} })
		h.NetworkChanged()
		if !h.offersWait() {
			t.Error("offers do not wait")
		}
		synctest.Wait()
		got := h.done()
		const moved = "add 198.51.100.1:7000, remove 192.0.2.2:7000, doubt, hang up [192.0.2.2:7000], forget 1, " +
			"listen [198.51.100.1:7000] not [192.0.2.2:7000], moved, suspect"
		rest := strings.Split(strings.TrimPrefix(got, moved+", "), ", ")
		slices.Sort(rest) // settling is beside the rest
		if !strings.HasPrefix(got, moved) || !slices.Equal(rest, []string{"changed", "measure", "renew 0", "wake"}) {
			t.Errorf("%s", got)
		}
		if h.offersWait() || h.most != 0 {
			t.Error("offers wait though all has settled")
		}
		h.NetworkChanged() // and nothing has changed
		synctest.Wait()
		if got := h.done(); !strings.HasPrefix(got, "doubt, hang up [], forget 0, listen [] not [], moved, suspect") {
			t.Errorf("%s", got)
		}
	})
}

// A socket at the same address is another one all the same.
func TestSameAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before, after := socket("192.0.2.1:7000"), socket("192.0.2.1:7000")
		h := newHost(t, before)
		defer h.run()()
		h.set(func() { h.sockets = []pipe.Sender{after} })
		h.NetworkChanged()
		synctest.Wait()
		if got := h.done(); !strings.HasPrefix(got, "add 192.0.2.1:7000, remove 192.0.2.1:7000, doubt") {
			t.Errorf("%s", got)
		}
	})
}

// New paths are for the pipes that were up before the change, not for those that had
// ended.
func TestPipesThatWereUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n pipetest.Net
		a, b, c := n.New(t, 1), n.New(t, 2), n.New(t, 3)
		up, _ := a.Connect(b, nil, nil)
		ended, _ := a.Connect(c, nil, nil)
		ended.Close(errors.New("enough"))
		synctest.Wait()
		h := newHost(t, a)
		h.pipes = []*pipe.Pipe{up, ended}
		defer h.run()()
		h.NetworkChanged()
		synctest.Wait()
		if len(h.renewed) != 1 || !slices.Equal(h.renewed[0], []*pipe.Pipe{up}) {
			t.Errorf("new paths for %v", h.renewed)
		}
	})
}

// While nobody is reached the network has not settled: offers wait, and the next
// change is followed all the same.
func TestNobodyIsReached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		looks := 0
		h := newHost(t, socket("192.0.2.1:7000"))
		h.back = func() bool { looks++; return looks > 50 }
		defer h.run()()
		h.NetworkChanged()
		synctest.Wait()
		h.done()
		h.sleep(10 * settleLook)
		if looks < 10 || looks > 12 || !h.offersWait() {
			t.Errorf("%d looks, offers wait: %v", looks, h.offersWait())
		}
		h.NetworkChanged()
		synctest.Wait()
		if got := h.done(); !strings.Contains(got, "moved") {
			t.Errorf("the second change: %s", got)
		}
		h.sleep(50 * settleLook)
		if h.offersWait() || len(h.renewed) != 2 {
			t.Errorf("offers wait: %v; %d renewals", h.offersWait(), len(h.renewed))
		}
	})
}

// A mapped address that nobody knows after the first measurement is measured once
// more, and no third time.
func TestMeasuredTwice(t *testing.T) {
	for name, c := range map[string]struct {
		known        int // which measurement brings an address
		measurements int
	}{"at once": {1, 1}, "the second time": {2, 2}, "never": {100, 3}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked := 0
				h := newHost(t, socket("192.0.2.1:7000"))
				h.slow = time.Second
				h.known = func() bool { asked++; return asked >= c.known }
				defer h.run()()
				h.NetworkChanged()
				h.sleep(time.Duration(min(c.known, measurements))*h.slow - time.Millisecond)
				if !h.offersWait() {
					t.Error("offers do not wait for the measurement")
				}
				h.sleep(2 * time.Millisecond)
				if n := strings.Count(h.done(), "measure"); n != c.measurements || h.offersWait() || len(h.renewed) != 1 {
					t.Errorf("%d measurements, offers wait: %v; %d renewals", n, h.offersWait(), len(h.renewed))
				}
			})
		})
	}
}

// Changes that come faster than they are followed are one, and none has offers wait
// for ever.
func TestManyChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, socket("192.0.2.1:7000"))
		for range 100 {
			h.NetworkChanged() // nobody looks yet
		}
		end := h.run()
		synctest.Wait()
		if n := strings.Count(h.done(), "moved"); n != 1 || h.offersWait() {
			t.Errorf("%d changes, offers wait: %v", n, h.offersWait())
		}
		end()
	})
}

// The end does not wait for a network that does not settle, and lets offers go.
func TestEndWhileSettling(t *testing.T) {
	for name, set := range map[string]func(*host){
		"nobody is reached": func(h *host) { h.back = func() bool { return false } },
		"nobody answers":    func(h *host) { h.slow = time.Hour },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHost(t, socket("192.0.2.1:7000"))
				set(h)
				end := h.run()
				h.NetworkChanged()
				h.sleep(time.Second)
				before := time.Now()
				end()
				if time.Since(before) > settleLook || h.offersWait() || len(h.renewed) != 0 {
					t.Errorf("after %v, offers wait: %v; %d renewals", time.Since(before), h.offersWait(), len(h.renewed))
				}
			})
		})
	}
}
