package nullflow

import (
	"context"
	"errors"
	"github.com/idloc/idloc/internal/pause"
	"time"
)

// openerFirst is the head start of a flow's opener in the search for other real
// addresses.
const openerFirst = 300 * time.Millisecond

// attempt is one exchange of offer and answer, with its checks, that gives a
// flow other real addresses.
//
// It has an epoch, which rises. At most one is under way. When both sides begin
// one, the higher epoch stands, and of two equal ones that of the smaller peer
// ID, as with pipes.
type attempt struct {
	epoch  uint32
	ours   bool
	cancel context.CancelCauseFunc
	done   chan struct{}
}

var errOvertaken = errors.New("the peer's offer is under way")

// begin begins an attempt of ours. If one of the peer's is under way, it waits
// for that one's end instead, and the error is errOvertaken.
func (f *flow) begin(ctx context.Context) (context.Context, *attempt, error) {
	if !f.Opener && !f.waitForOpener(ctx) {
		return nil, nil, errOvertaken
	}
	f.mu.Lock()
	if a := f.attempt; a != nil {
		f.mu.Unlock()
		select {
		case <-a.done:
		case <-ctx.Done():
		}
		return nil, nil, errOvertaken
	}
	defer f.mu.Unlock()
	f.epoch++
	a := &attempt{epoch: f.epoch, ours: true, done: make(chan struct{})}
	ctx, a.cancel = context.WithCancelCause(ctx)
	f.attempt = a
	return ctx, a, nil
}

// waitForOpener leaves it to the opener to make the offer, for a while. False:
// it has.
func (f *flow) waitForOpener(ctx context.Context) bool {
	f.mu.Lock()
	epoch := f.epoch
	f.mu.Unlock()
	pause.For(ctx, openerFirst)
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.epoch == epoch
}

// admit begins an attempt of the peer's with an epoch, after the end of one that
// yields to it. A nil attempt: ours or a newer one stands, as the verdict says.
func (f *flow) admit(epoch uint32) (*attempt, context.Context, Verdict) {
	for {
		f.mu.Lock()
		a := f.attempt
		switch {
		case epoch <= f.installed:
			f.mu.Unlock()
			return nil, nil, Busy
		case a == nil:
			b := &attempt{epoch: epoch, done: make(chan struct{})}
			ctx, cancel := context.WithCancelCause(f.fs.ctx)
			b.cancel = cancel
			f.attempt, f.epoch = b, max(f.epoch, epoch)
			f.mu.Unlock()
			return b, ctx, Answered
		case a.ours && (epoch < a.epoch || epoch == a.epoch && f.Peer.Compare(f.fs.cfg.Self) > 0):
			f.mu.Unlock()
			return nil, nil, Glare
		case !a.ours && epoch <= a.epoch:
			f.mu.Unlock()
			return nil, nil, Busy
		}
		f.mu.Unlock()
		a.cancel(errOvertaken)
		select {
		case <-a.done:
		case <-f.fs.ctx.Done():
			return nil, nil, Refused
		}
	}
}

// stop ends an attempt.
func (f *flow) stop(a *attempt) {
	a.cancel(nil)
	f.mu.Lock()
	if f.attempt == a {
		f.attempt = nil
	}
	f.mu.Unlock()
	close(a.done)
}
