package socket

import (
	"errors"
	"net"
	"os"
	"time"
)

const (
	pollInterval = 5 * time.Second
	// settle is how long a change may still be followed by more of it.
	settle = 100 * time.Millisecond
)

// listen has the kernel tell from now on when addresses come and go, and what routers
// announce, where it can.
func (p *Port) listen() {
	if p.cfg.Net != nil {
		return
	}
	n, err := newNotifier(&p.announced)
	if err != nil {
		p.log.Debug("socket: no address notifications, polling", "err", err)
		return
	}
	p.notifier = n
}

// watch starts the one goroutine that notices when addresses come and go: told
// by the kernel where listen could have it, else by polling. It ends with Close.
func (p *Port) watch() {
	if n := p.notifier; n != nil {
		p.wg.Go(func() { p.follow(n) })
		return
	}
	p.wg.Go(p.poll)
}

// notifier tells that some address, interface or announced prefix changed.
type notifier interface {
	// wait returns nil after one change or more, os.ErrDeadlineExceeded after
	// the deadline, if there is one, another error when it is of no more use.
	wait(deadline time.Time) error
	// close makes wait return; it may be called at any time.
	close() error
}

// follow rescans after each burst of notifications and when the lifetime of an announced
// prefix has ended, until n fails, which it does when Close closes it.
func (p *Port) follow(n notifier) {
	for {
		switch err := n.wait(p.announced.ends()); {
		case err == nil:
			end := time.Now().Add(settle)
			for n.wait(end) == nil && time.Now().Before(end) {
			}
			p.changed()
		case errors.Is(err, os.ErrDeadlineExceeded):
			if p.announced.expire(time.Now()) {
				p.changed()
			}
		default:
			if !isDone(p.done) {
				p.announced.clear() // nobody would tell when one is withdrawn
				p.poll()
			}
			return
		}
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
