package overlay

import (
	"context"
	"sync"
)

// life is how long an Overlay runs, and what runs in it.
type life struct {
	ctx    context.Context // ends with the life
	cancel context.CancelFunc
	wg     sync.WaitGroup
	done   chan struct{} // closed when Close is through

	mu     sync.Mutex // guards closed
	closed bool
}

func newLife() *life {
	l := &life{done: make(chan struct{})}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// spawn runs f in this life; Close waits for it. It does nothing if it is too late.
func (l *life) spawn(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.wg.Go(f)
	}
}

// close says whether this is the first call. Nothing more is spawned after it.
func (l *life) close() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := !l.closed
	l.closed = true
	return first
}
