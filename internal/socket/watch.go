package socket

import (
	"errors"
	"net"
	"time"
)

const (
	pollInterval = 5 * time.Second
	// settle is how long a change may still be followed by more of it.
	settle = 100 * time.Millisecond
)

// watch starts the one goroutine that notices when addresses come and go: told
// by the kernel where it can, else by polling. It ends with Close.
func (p *Port) watch() {
	if p.cfg.Net == nil {
		n, err := newNotifier()
		if err == nil {
			p.notifier = n
			p.wg.Go(func() { p.follow(n) })
			return
		}
		p.log.Debug("socket: no address notifications, polling", "err", err)
	}
	p.wg.Go(p.poll)
}

// notifier tells that some address or interface changed.
type notifier interface {
	// wait returns nil after one change or more, os.ErrDeadlineExceeded after
	// the deadline, another error when it is of no more use.
	wait(deadline time.Time) error
	// close makes wait return; it may be called at any time.
	close() error
}

// follow rescans after each burst of notifications, until n fails, which it
// does when Close closes it.
func (p *Port) follow(n notifier) {
	for n.wait(time.Time{}) == nil {
		end := time.Now().Add(settle)
		for n.wait(end) == nil && time.Now().Before(end) {
		}
		p.changed()
	}
	if !isDone(p.done) {
		p.poll()
	}
}

// poll rescans from time to time.
func (p *Port) poll() {
	t := time.NewTicker(pollInterval)
	defer t.Stop()
	for {
		select {
		case <-p.done:
			return
		case <-t.C:
			p.changed()
		}
	}
}

func (p *Port) changed() {
	if err := p.Rescan(); err != nil && !errors.Is(err, net.ErrClosed) {
		p.log.Debug("socket: rescan", "err", err)
	}
}
