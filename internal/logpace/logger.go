package logpace

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	burst   = 50
	every   = 5 * time.Second
	maxKept = 1024 // messages told apart
)

// New returns a logger that writes to l and bounds what it writes. A nil l is
// silent; one that New has made is returned as it is.
func New(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	switch l.Handler().(type) {
	case *handler:
		return l
	default:
		if l.Handler() == slog.DiscardHandler {
			return l
		}
	}
	return slog.New(&handler{l.Handler(), &pace{kept: map[line]*count{}}})
}

// handler is a slog.Handler; those derived from it share its pace.
type handler struct {
	slog.Handler
	pace *pace
}

func (h *handler) WithAttrs(a []slog.Attr) slog.Handler {
	return &handler{h.Handler.WithAttrs(a), h.pace}
}

func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{h.Handler.WithGroup(name), h.pace}
}

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelInfo {
		left, ok := h.pace.take(line{r.Level, r.Message}, r.Time)
		if !ok {
			return nil
		}
		if left > 0 {
			r = r.Clone()
			r.AddAttrs(slog.Int("left_out", left))
		}
	}
	return h.Handler.Handle(ctx, r)
}

// line is a kind of line.
type line struct {
	level   slog.Level
	message string
}

// pace counts lines. It is safe for concurrent use.
type pace struct {
	mu   sync.Mutex // guards kept
	kept map[line]*count
}

// count is a token bucket, and what it refused since the last line.
type count struct {
	tokens   float64
	refilled time.Time
	left     int
}

// take says whether a line passes, and how many before it did not.
func (p *pace) take(l line, now time.Time) (left int, ok bool) {
	if now.IsZero() {
		now = time.Now()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.kept[l]
	if c == nil {
		if len(p.kept) >= maxKept {
			clear(p.kept)
		}
		c = &count{tokens: burst, refilled: now}
		p.kept[l] = c
	}
	if d := now.Sub(c.refilled); d > 0 {
		c.tokens, c.refilled = min(burst, c.tokens+float64(d)/float64(every)), now
	}
	if c.tokens < 1 {
		c.left++
		return 0, false
	}
	c.tokens--
	left, c.left = c.left, 0
	return left, true
}
