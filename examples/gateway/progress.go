package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/idloc/idloc/idloc"
)

// patience is how often the terminal hears that a node is still entering.
const patience = 5 * time.Second

// progress is the node's log on the terminal. While the node enters the
// overlay it tells what has been reached; afterwards, and always of what goes
// wrong, it passes lines on as a log does.
type progress struct {
	slog.Handler // to standard error

	out   io.Writer
	start time.Time

	mu      sync.Mutex
	up      bool
	reached int    // members that are connected
	said    string // last
	stop    func()
}

// watch makes the log of a node that is about to enter. verbose keeps it
// talking when the node is up.
func watch(out, errOut io.Writer, verbose bool) *progress {
	level := slog.LevelWarn
	if verbose {
		level = slog.LevelInfo
	}
	p := &progress{Handler: slog.NewTextHandler(errOut, &slog.HandlerOptions{Level: level}), out: out, start: time.Now()}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(patience)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if p.reaches() {
					p.say("… no end yet")
				} else {
					p.say("… no member reached yet, trying on")
				}
			case <-ctx.Done():
				return
			}
		}
	})
	p.stop = func() { cancel(); wg.Wait() }
	return p
}

// done ends the telling of progress; idempotent.
func (p *progress) done() {
	p.stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.up = true
}

func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.up {
		p.said = fmt.Sprintf(format, args...)
		fmt.Fprintf(p.out, "%6.2f s  %s\n", time.Since(p.start).Seconds(), p.said)
	}
}

// last is how far the node is, for who asks while it enters.
func (p *progress) last() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := fmt.Sprintf("begun %v ago", time.Since(p.start).Round(time.Second))
	if p.said != "" {
		s += ", last: " + p.said
	}
	return s
}

// reaches says whether a member is connected.
func (p *progress) reaches() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reached > 0
}

func (p *progress) count(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reached += n
}

func (p *progress) entering() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.up
}

func (p *progress) Enabled(ctx context.Context, l slog.Level) bool {
	return p.entering() || p.Handler.Enabled(ctx, l)
}

func (p *progress) Handle(ctx context.Context, r slog.Record) error {
	if p.entering() {
		p.tell(r)
	}
	if p.Handler.Enabled(ctx, r.Level) {
		return p.Handler.Handle(ctx, r)
	}
	return nil
}

// tell says what a line of the log means for who waits.
func (p *progress) tell(r slog.Record) {
	attrs := map[string]string{}
	r.Attrs(func(a slog.Attr) bool { attrs[a.Key] = a.Value.String(); return true })
	who := attrs["name"]
	if who == "" {
		who = "a member, " + attrs["peer"]
	}
	switch idloc.EventKind(r.Message) {
	case idloc.EventPeerConnected:
		p.count(1)
		p.say("connected to %s", strings.TrimSpace(who+at(attrs["remote"])))
	case idloc.EventPeerGone:
		p.count(-1)
		p.say("connection to %s has ended", who)
	case idloc.EventNamePublished:
		if !p.reaches() {
			p.say("%s stands in this node's own part of the database", attrs["name"])
			return
		}
		p.say("%s stands in the database", attrs["name"])
	default:
		// What the node waits for, and why in vain; warnings are in the log.
		if why := attrs["why"]; why != "" && !p.Handler.Enabled(context.Background(), r.Level) {
			p.say("%s: %s", r.Message, why)
		}
	}
}

// at is where something is, if that is known.
func at(addr string) string {
	if ap, err := netip.ParseAddrPort(addr); err == nil && ap.IsValid() {
		return " at " + ap.String()
	}
	return ""
}
