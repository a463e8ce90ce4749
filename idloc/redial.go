package idloc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/idloc/idloc/internal/pause"
	"github.com/idloc/idloc/netstack"
	"github.com/idloc/idloc/overlay"
)

// A Dial goes on as a kernel does that repeats its SYN: what it cannot reach
// now may be there in a moment, because it is being started again, has moved, or
// a member on the way has gone. The shim makes the attempts of all Dials to a
// peer one, and says how soon the next may follow. What is repeated within an
// attempt, and by whom, stands in the documentation of overlay/establish.

const (
	// connectTimeout bounds a TCP Dial whose context has no deadline.
	connectTimeout = 30 * time.Second
	// goneAfter is how long such a Dial looks for a peer that it cannot reach:
	// it ends within ten seconds. An attempt that the peer has answered has
	// longer.
	goneAfter = 9 * time.Second
	// lookAgain is the pause before a name is looked up again.
	lookAgain = 500 * time.Millisecond
)

// find is lookup, and, if again is true, once more and once more while nobody knows and
// the context, which has a deadline, lasts.
func (n *Node) find(ctx context.Context, host string, family int, again bool) (target, error) {
	for {
		t, err := n.lookup(ctx, host, family)
		if err == nil || !again || !mayBeKnownSoon(err) {
			return t, err
		}
		if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) < lookAgain || !pause.For(ctx, lookAgain) {
			return t, err
		}
	}
}

// mayBeKnownSoon says whether a lookup has failed because nobody could be asked.
func mayBeKnownSoon(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && !dns.IsNotFound && dns.IsTemporary
}

// redial connects to a peer, in as many attempts as it takes. The deadline of ctx is the
// caller's if bounded is true, else connectTimeout's. begun is when the Dial was.
func (n *Node) redial(ctx context.Context, network string, to target, addrs []netip.Addr, port uint16, begun time.Time, bounded bool) (net.Conn, error) {
	looking := ctx // for a peer that was not reached
	var last error // why the newest attempt has failed
	for tries := 0; ; {
		within := ctx
		if last != nil {
			within = looking
		}
		up, err := n.shim.Open(within, addrs[0], last != nil)
		switch {
		case err == nil:
			c, err := n.dialTCP(ctx, up, network, addrs, port)
			if err == nil {
				return c, nil
			}
			if !errors.Is(err, netstack.ErrPipeLost) {
				return nil, n.explain(to, err)
			}
		case within.Err() == nil && n.ctx.Err() == nil:
			if last = err; tries == 0 && !bounded {
				var stop context.CancelFunc
				looking, stop = context.WithDeadline(ctx, begun.Add(goneAfter))
				defer stop()
			}
			if tries++; final(err) || looking.Err() != nil {
				return nil, n.stageOf(to, err)
			}
		case last != nil && ctx.Err() == nil && n.ctx.Err() == nil:
			return nil, n.stageOf(to, last)
		default:
			return nil, n.gaveUp(to, last, cmp.Or(within.Err(), err), tries)
		}
	}
}

// dialTCP tries a peer's addresses one after the other, as package net does
// with those of a name, while the peer refuses. What keeps packets from
// reaching the peer at one of them does so at the others. The error is the
// first one's. If up, the pipe's life, ends meanwhile, it is netstack.ErrPipeLost.
func (n *Node) dialTCP(ctx, up context.Context, network string, addrs []netip.Addr, port uint16) (net.Conn, error) {
	var first error
	for _, a := range addrs {
		c, err := n.stack.DialTCPWhile(ctx, up, network, n.localAddr(ctx, a), netip.AddrPortFrom(a, port))
		if err == nil {
			return c, nil
		}
		if first == nil {
			first = err
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			break
		}
	}
	if errors.Is(first, syscall.EHOSTUNREACH) && up != nil && up.Err() != nil {
		return nil, netstack.ErrPipeLost
	}
	return nil, first
}

// final says whether a peer that was not reached need not be tried again: its
// node or a policy has refused.
func final(err error) bool {
	var stage *overlay.StageError
	if errors.As(err, &stage) && stage.Final() {
		return true
	}
	var r interface{ Refused() bool }
	return errors.As(err, &r) && r.Refused()
}

// gaveUp is the error of a Dial that its context has ended, before which it had
// made tries in vain, of which the last said why.
func (n *Node) gaveUp(to target, last, end error, tries int) error {
	e := &StageError{Stage: StageOffer, Peer: to.peer, Err: &endedError{end: end}}
	if last != nil {
		why := n.stageOf(to, last)
		e.Stage, e.Err = why.Stage, &endedError{end, why.Err, tries}
	} else if stage := n.meter.at(to.peer); stage != "" {
		e.Stage = stage
	}
	return e
}

// endedError says what ended a Dial, as package net has it, and what has kept it
// so long.
type endedError struct {
	end   error // a context's
	cause error // of the last try; nil: none has ended
	tries int
}

func (e *endedError) Error() string {
	text := "operation was canceled"
	if e.Timeout() {
		text = "i/o timeout"
	}
	switch {
	case e.cause == nil:
		return text
	case e.tries == 1:
		return fmt.Sprintf("%v; %s after 1 attempt", e.cause, text)
	}
	return fmt.Sprintf("%v; %s after %d attempts", e.cause, text, e.tries)
}

func (e *endedError) Unwrap() []error {
	all := []error{e.end}
	if e.cause != nil {
		all = append(all, e.cause)
	}
	if e.Timeout() {
		all = append(all, os.ErrDeadlineExceeded)
	}
	return all
}

// Timeout implements net.Error.
func (e *endedError) Timeout() bool { return errors.Is(e.end, context.DeadlineExceeded) }

// Temporary implements net.Error.
func (e *endedError) Temporary() bool { return e.Timeout() }

var _ net.Error = (*endedError)(nil)
