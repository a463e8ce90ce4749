package tcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/ice/stun"
)

// One session's checks, the controlling side on the left:
//
//	connect, either way                       TCP's handshake
//	◀─ request ─── (who connected asks) ─── request ─▶
//	── response ─▶                            the connection is valid
//	── request, USE-CANDIDATE ─▶              its last framed message
//	                       ◀─ response ──     its last framed message
//	bytes of the flow, either way

const (
	// betterWait is how long a valid connection waits for one with a higher
	// priority.
	betterWait = 20 * time.Millisecond
	// synAgain is between two attempts to open simultaneously: the first SYN
	// may have met a NAT that did not know the peer yet.
	synAgain  = 150 * time.Millisecond
	nominated = 3 * time.Second // for the response to a nomination
)

// ErrNoPair: no pair of addresses led to a connection.
var ErrNoPair = errors.New("no TCP candidate pair connected")

// Run connects to the peer that has these credentials and candidates, which
// must have been filtered, and returns the connection that the controlling
// side has nominated: bare, with nothing of the checks left in it. It is
// called once, and the session is closed when it returns.
func (s *Session) Run(ctx context.Context, controlling bool, ufrag, pwd string, remote []wire.Candidate) (net.Conn, error) {
	if !wire.ValidCredentials(ufrag, pwd) {
		s.Close()
		return nil, fmt.Errorf("%w: the peer's credentials are not ICE's", ErrNoPair)
	}
	r := &run{s: s, controlling: controlling, remote: stun.Credentials{Ufrag: ufrag, Pwd: pwd},
		valid: make(chan *check), over: make(chan *check)}
	ctx, cancel := context.WithCancel(ctx)
	c, err := r.loop(ctx, remote)
	s.Close()
	cancel()
	r.wg.Wait()
	return c, err
}

// run is the state of Run; its loop's goroutine owns it.
type run struct {
	s           *Session
	controlling bool
	remote      stun.Credentials
	wg          sync.WaitGroup
	valid       chan *check // answered a check
	over        chan *check // ended: chosen, or err

	mu   sync.Mutex // guards last
	last error      // why a connection failed
}

func (r *run) loop(ctx context.Context, remote []wire.Candidate) (net.Conn, error) {
	dials, best := r.dials(remote)
	for _, d := range dials {
		r.wg.Go(func() { r.connect(ctx, d) })
	}
	var good []*check // valid, the best first
	var nominee *check
	better := time.NewTimer(time.Hour)
	defer better.Stop()
	patience := time.NewTimer(time.Hour)
	defer patience.Stop()
	nominate := func() {
		if nominee != nil || len(good) == 0 {
			return
		}
		nominee, good = good[0], good[1:]
		patience.Reset(nominated)
		if err := nominee.nominate(); err != nil {
			nominee.abandon(err)
		}
	}
	for {
		select {
		case in := <-r.s.in:
			k := &check{r: r, c: in.c, first: &in.m, priority: r.inboundPriority(in.c)}
			r.wg.Go(func() { k.run(ctx) })
		case k := <-r.valid:
			if !r.controlling {
				continue
			}
			good = append(good, k)
			slices.SortStableFunc(good, func(a, b *check) int { return int(int64(b.priority) - int64(a.priority)) })
			if k.priority >= best {
				nominate()
			} else if len(good) == 1 {
				better.Reset(betterWait)
			}
		case <-better.C:
			nominate()
		case <-patience.C:
			if nominee != nil {
				nominee.abandon(errors.New("the nomination was not answered"))
			}
		case k := <-r.over:
			if k.err == nil {
				return k.c, nil
			}
			r.failed(k.err)
			good = slices.DeleteFunc(good, func(g *check) bool { return g == k })
			if nominee == k {
				nominee = nil
				nominate()
			}
		case <-ctx.Done():
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.last != nil {
				return nil, fmt.Errorf("%w: %w; %v", ErrNoPair, context.Cause(ctx), r.last)
			}
			return nil, fmt.Errorf("%w: %w", ErrNoPair, context.Cause(ctx))
		case <-r.s.done:
			return nil, net.ErrClosed
		}
	}
}

func (r *run) failed(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil || !errors.Is(err, context.Canceled) {
		r.last = err
	}
}

// dial is a connection that this side opens.
type dial struct {
	from     netip.AddrPort // port 0: any
	to       netip.AddrPort
	again    bool // simultaneous open
	priority uint32
}

// dials pairs what the peer has shown with what there is here (RFC 6544 §6.2),
// and says which priority is the best that a pair can have.
func (r *run) dials(remote []wire.Candidate) (out []dial, best uint32) {
	p := r.s.p
	p.mu.Lock()
	var local []netip.Addr
	for a := range p.listeners {
		local = append(local, a)
	}
	p.mu.Unlock()
	for _, c := range remote {
		switch c.TCP {
		case wire.Passive:
			for _, a := range local {
				if p.cfg.Reaches(a, c.Addr.Addr()) {
					out = append(out, dial{from: netip.AddrPortFrom(a, 0), to: c.Addr, priority: c.Priority})
				}
			}
		case wire.SimOpen:
			for _, at := range r.s.bound {
				if p.cfg.Reaches(at.Addr(), c.Addr.Addr()) {
					out = append(out, dial{from: at, to: c.Addr, again: true, priority: c.Priority})
				}
			}
		}
	}
	for _, d := range out {
		best = max(best, d.priority)
	}
	for _, c := range r.s.candidates {
		if c.TCP == wire.Passive {
			best = max(best, c.Priority)
		}
	}
	return out, best
}

// reaches says whether a connection can lead from one address to another as
// far as they tell.
func reaches(local, remote netip.Addr) bool {
	return local.Is4() == remote.Is4() && local.IsLoopback() == remote.IsLoopback()
}

// inboundPriority is that of the local candidate that a peer has connected to.
func (r *run) inboundPriority(c net.Conn) uint32 {
	at := addrPort(c.LocalAddr())
	var p uint32
	for _, k := range r.s.candidates {
		if k.Addr == at || k.Related == at {
			p = max(p, k.Priority)
		}
	}
	return p
}

// connect opens one connection and checks it.
func (r *run) connect(ctx context.Context, d dial) {
	for {
		err := errPaced
		var c net.Conn
		if r.s.p.cfg.Allow == nil || r.s.p.cfg.Allow(d.to) {
			attempt, cancel := ctx, context.CancelFunc(func() {})
			if d.again {
				attempt, cancel = context.WithTimeout(ctx, 8*synAgain)
			}
			c, err = r.s.p.dial(attempt, d.from, d.to)
			cancel()
		}
		if err == nil {
			k := &check{r: r, c: c, asks: true, priority: d.priority}
			k.run(ctx)
			return
		}
		if ctx.Err() != nil {
			return
		}
		r.failed(err)
		if !d.again && err != errPaced {
			return
		}
		t := time.NewTimer(synAgain)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

var errPaced = errors.New("too many connections to this address")

// check is one connection while messages are framed on it.
type check struct {
	r        *run
	c        net.Conn
	asks     bool          // this side has connected: it speaks first
	first    *stun.Message // what the peer said first
	priority uint32
	err      error // when over; nil: chosen

	mu       sync.Mutex // guards what follows, and writing to c
	asked    stun.TransactionID
	chosen   stun.TransactionID
	closing  bool // our nomination was sent: nothing framed after it
	reported bool
	why      error
}

// run exchanges messages until the connection is chosen, or not.
func (k *check) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { _ = k.c.SetDeadline(longAgo) })
	_ = k.c.SetDeadline(time.Time{})
	k.err = k.messages(ctx)
	k.mu.Lock()
	if k.err != nil && k.why != nil {
		k.err = k.why
	}
	k.mu.Unlock()
	if !stop() && k.err == nil {
		k.err = context.Canceled
	}
	chosen := false
	if k.err != nil {
		_ = k.c.Close()
	}
	select {
	case k.r.over <- k:
		chosen = k.err == nil
	case <-ctx.Done():
	}
	if !chosen && k.err == nil {
		_ = k.c.Close()
	}
}

// messages returns nil when the connection was chosen and the last framed
// message was read and written.
func (k *check) messages(ctx context.Context) error {
	if k.asks {
		if err := k.ask(false); err != nil {
			return err
		}
	}
	for {
		m, err := k.next()
		if err != nil {
			return err
		}
		var done bool
		switch {
		case m.IsRequest():
			done, err = k.request(m)
		case m.IsSuccess():
			done, err = k.response(m)
		default:
			err = stun.ErrMessage
		}
		if done || err != nil {
			return err
		}
		k.mu.Lock()
		report := k.reported
		k.mu.Unlock()
		if !report && k.isValid(m) {
			k.mu.Lock()
			k.reported = true
			k.mu.Unlock()
			select {
			case k.r.valid <- k:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// next is what the peer says next.
func (k *check) next() (stun.Message, error) {
	if m := k.first; m != nil {
		k.first = nil
		return *m, nil
	}
	return readMessage(k.c)
}

// isValid says whether m, which was verified, shows that the connection works
// both ways: a response to our question does, and a question that came over a
// connection of the peer's.
func (k *check) isValid(m stun.Message) bool {
	return m.IsSuccess() || !k.asks
}

// request answers a check of the peer's; done says that it was its nomination.
func (k *check) request(m stun.Message) (done bool, err error) {
	if err := verifyRequest(m, k.r.s.local, k.r.remote, k.r.controlling); err != nil {
		return false, err
	}
	a, err := stun.Success(m.ID(), addrPort(k.c.RemoteAddr()), k.r.s.local.Pwd)
	if err != nil {
		return false, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closing {
		return false, nil // our nomination has crossed it
	}
	return m.Nominates() && !k.r.controlling, writeMessage(k.c, a)
}

// response takes the answer to a check of ours; done says that it was to our
// nomination.
func (k *check) response(m stun.Message) (done bool, err error) {
	if !m.Verify(k.r.remote.Pwd) {
		return false, fmt.Errorf("%w: integrity", stun.ErrMessage)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	switch m.ID() {
	case k.chosen:
		return k.closing, nil
	case k.asked:
		return false, nil
	}
	return false, fmt.Errorf("%w: answers nothing", stun.ErrMessage)
}

// ask sends a check.
func (k *check) ask(nominate bool) error {
	// The priority is what the peer's new candidate would have (RFC 8445
	// §7.1.1), and not what it says of its own: see wire.Ufrag.
	role := stun.Controlled
	if k.r.controlling {
		role = stun.Controlling
	}
	q, id, err := stun.Check{
		Local: k.r.s.local.Ufrag, Remote: k.r.remote, Role: role, Tie: k.r.s.tie, Nominate: nominate,
		Priority: Priority(wire.PeerReflexive, wire.Active, 0),
	}.Message()
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if nominate {
		k.chosen, k.closing = id, true
	} else {
		k.asked = id
	}
	return writeMessage(k.c, q)
}

func (k *check) nominate() error { return k.ask(true) }

// abandon makes the connection's goroutine end with an error.
func (k *check) abandon(err error) {
	k.mu.Lock()
	k.why = err
	k.mu.Unlock()
	_ = k.c.SetDeadline(longAgo)
}
