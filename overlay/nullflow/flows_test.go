package nullflow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/null"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/wire"
)

// A TCP flow has the LSIs' addresses, runs over a real connection, with TLS
// where the policies want it, and is gone on both sides after its Close.
func TestTCP(t *testing.T) {
	t.Parallel()
	for _, policy := range []uint8{wire.PolicyPlain, wire.PolicyTLS} {
		t.Run(fmt.Sprint("policy ", policy), func(t *testing.T) {
			t.Parallel()
			a, b := pair(t, policy, wire.PolicyPlain)
			x, y := dialTCP(t, a, b)
			if l, r := x.LocalAddr().String(), x.RemoteAddr().String(); l != "198.18.0.1:4000" || r != "198.18.0.2:80" ||
				y.LocalAddr().String() != r || y.RemoteAddr().String() != l {
				t.Errorf("conns %v-%v and %v-%v", l, r, y.LocalAddr(), y.RemoteAddr())
			}
			talk(t, x, y)
			sa, sb := a.Status(), b.Status()
			if len(sa) != 1 || len(sb) != 1 {
				t.Fatalf("status %+v and %+v", sa, sb)
			}
			want := Flow{Peer: b.id, Opener: true, Local: 4000, Remote: 80}
			if s := sa[0]; s.Flow != want || s.TLS != (policy == wire.PolicyTLS) || s.RealPeer != sb[0].RealLocal || s.RealPeer.Addr() != home || s.Moved != 0 {
				t.Errorf("status %+v", s)
			}
			if want = (Flow{Peer: a.id, Local: 80, Remote: 4000}); sb[0].Flow != want || sb[0].TLS != sa[0].TLS {
				t.Errorf("the peer's status %+v", sb[0])
			}
			_, _ = x.Close(), y.Close()
			eventually(t, "both have forgotten the flow", func() bool { return len(a.Status())+len(b.Status()) == 0 })
			eventually(t, "the LSIs are released", func() bool { return a.over.Load() == 2 && b.over.Load() == 1 })
			for _, s := range []*side{a, b} {
				for _, k := range []event.Kind{event.Candidates, event.PairChosen, event.FlowUp, event.FlowClosed} {
					eventually(t, string(k), func() bool { return s.emitted(k) == 1 })
				}
			}
		})
	}
}

// The stricter policy counts, whoever has it, and nothing is open afterwards.
func TestPolicies(t *testing.T) {
	t.Parallel()
	const refuse, tls, plain = wire.PolicyRefuse, wire.PolicyTLS, wire.PolicyPlain
	for _, c := range []struct {
		mine, theirs uint8
		tcp, udp     bool
	}{
		{refuse, plain, false, false}, {plain, refuse, false, false}, {refuse, refuse, false, false},
		{tls, plain, true, false}, {plain, tls, true, false}, {tls, tls, true, false},
		{plain, plain, true, true},
	} {
		t.Run(fmt.Sprintf("%d to %d", c.mine, c.theirs), func(t *testing.T) {
			t.Parallel()
			a, b := pair(t, c.mine, c.theirs)
			conn, err := a.DialTCP(t.Context(), Flow{Peer: b.id, Local: 1, Remote: 2}, func() {})
			if err == nil {
				conn.Close()
				wait(t, b.accepted).Close()
			}
			if c.tcp != (err == nil) || err != nil && !errors.Is(err, ErrForbidden) {
				t.Errorf("TCP: %v", err)
			}
			end, err := a.DialUDP(t.Context(), Flow{Peer: b.id, Local: 1, Remote: 2})
			if err == nil {
				end()
			}
			if c.udp != (err == nil) || err != nil && !errors.Is(err, ErrForbidden) {
				t.Errorf("UDP: %v", err)
			}
		})
	}
}

// A node whose paths are through relays shows no real address.
func TestRelaysOnly(t *testing.T) {
	t.Parallel()
	a := newSide(t, 1, wire.PolicyPlain, func(c *Config) { c.RelaysOnly = true })
	b := newSide(t, 2, wire.PolicyPlain)
	a.to, b.to = b, a
	for _, p := range [][2]*side{{a, b}, {b, a}} {
		if _, err := p[0].DialTCP(t.Context(), Flow{Peer: p[1].id, Local: 1, Remote: 2}, func() {}); !errors.Is(err, ErrForbidden) {
			t.Errorf("TCP: %v", err)
		}
		if _, err := p[0].DialUDP(t.Context(), Flow{Peer: p[1].id, Local: 1, Remote: 2}); !errors.Is(err, ErrForbidden) {
			t.Errorf("UDP: %v", err)
		}
	}
}

// What the peer's node does not take is refused, without a candidate shown.
func TestRefused(t *testing.T) {
	t.Parallel()
	a, b := pair(t, wire.PolicyPlain, wire.PolicyPlain)
	no := error(syscall.ECONNREFUSED)
	b.refuses.Store(&no)
	ended := 0
	_, err := a.DialTCP(t.Context(), Flow{Peer: b.id, Local: 1, Remote: 2}, func() { ended++ })
	var e *Error
	if !errors.Is(err, ErrRefused) || !errors.As(err, &e) || e.Stage != StageOffer || ended != 1 {
		t.Errorf("TCP: %v, ended %d times", err, ended)
	}
	if _, err := a.DialUDP(t.Context(), Flow{Peer: b.id, Local: 1, Remote: 2}); !errors.Is(err, ErrRefused) {
		t.Errorf("UDP: %v", err)
	}
	r, err := a.Ask(t.Context(), b.id, a.Flows.local(nil, wire.Flow{Kind: wire.FlowOpen, Protocol: wire.FlowTCP, ID: newFlowID(), OpenerPort: 1, ListenerPort: 2, Policy: wire.PolicyPlain}))
	if err != nil || r.Flow.Kind != wire.FlowRefused || len(r.Candidates) != 0 {
		t.Errorf("answer %+v, %v", r, err)
	}
}

// The application's own conn refused by Handler ends the flow on both sides.
func TestNotTaken(t *testing.T) {
	t.Parallel()
	a := newSide(t, 1, wire.PolicyPlain)
	b := newSide(t, 2, wire.PolicyPlain, func(c *Config) {
		c.Handler.TCP = func(Flow) (func(net.Conn) error, error) {
			return func(net.Conn) error { return errors.New("the backlog is full") }, nil
		}
	})
	a.to, b.to = b, a
	c, err := a.DialTCP(t.Context(), Flow{Peer: b.id, Local: 1, Remote: 2}, func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Read: %v", err)
	}
	eventually(t, "the flow has ended", func() bool { return len(b.Status()) == 0 })
}

// A local address goes away in the middle of a stream, on the opener's side and on
// the other: the stream goes on from another, and no byte is lost or doubled.
func TestTCPMoves(t *testing.T) {
	t.Parallel()
	for name, opener := range map[string]bool{"opener": true, "listener": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := pair(t, wire.PolicyTLS, wire.PolicyTLS)
			x, y := dialTCP(t, a, b)
			defer x.Close()
			defer y.Close()
			talk(t, x, y)
			mover := b
			if opener {
				mover = a
			}
			mover.move("127.0.0.2")
			talk(t, x, y)
			for _, s := range []*side{a, b} {
				eventually(t, "the flow has moved", func() bool { return s.Status()[0].Moved == 1 && s.emitted(event.FlowMoved) == 1 })
			}
			if s := mover.Status()[0]; s.RealLocal.Addr() != netip.MustParseAddr("127.0.0.2") {
				t.Errorf("after the move %+v", s)
			}
		})
	}
}

// Both sides lose the path at once, again and again: one attempt stands each
// time, and the bytes are complete.
func TestBothMove(t *testing.T) {
	t.Parallel()
	a, b := pair(t, wire.PolicyPlain, wire.PolicyPlain)
	a.mu.Lock()
	a.twice = true // and each offer comes twice
	a.mu.Unlock()
	x, y := dialTCP(t, a, b)
	defer x.Close()
	defer y.Close()
	for i := range 3 {
		go a.move(fmt.Sprintf("127.0.0.%d", 10+i))
		b.move(fmt.Sprintf("127.0.0.%d", 20+i))
		talk(t, x, y)
	}
	eventually(t, "both are where they went", func() bool {
		sa, sb := a.Status()[0], b.Status()[0]
		return sa.RealLocal.Addr().String() == "127.0.0.12" && sb.RealLocal.Addr().String() == "127.0.0.22" &&
			sa.RealLocal == sb.RealPeer && sb.RealLocal == sa.RealPeer
	})
}

// A peer that does not know the flow any more ends it.
func TestPeerForgot(t *testing.T) {
	t.Parallel()
	a, b := pair(t, wire.PolicyPlain, wire.PolicyPlain)
	x, y := dialTCP(t, a, b)
	defer x.Close()
	defer y.Close()
	restarted := newSide(t, 2, wire.PolicyPlain)
	restarted.to = a
	a.mu.Lock()
	a.to = restarted
	a.mu.Unlock()
	b.mu.Lock()
	b.to = nil
	b.mu.Unlock()
	a.move("127.0.0.2")
	_ = x.SetReadDeadline(time.Now().Add(patience))
	if _, err := x.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Read: %v", err)
	}
}

// A policy that has become stricter ends what it does not allow.
func TestStricterSince(t *testing.T) {
	t.Parallel()
	a, b := pair(t, wire.PolicyPlain, wire.PolicyPlain)
	x, y := dialTCP(t, a, b)
	defer x.Close()
	defer y.Close()
	f := b.all()[0]
	w := a.all()[0].about(wire.FlowResume)
	w.Epoch, w.Policy = 9, wire.PolicyTLS
	r, err := a.Ask(t.Context(), b.id, a.Flows.local(nil, w))
	if err != nil || r.Flow.Kind != wire.FlowForbidden {
		t.Errorf("answer %+v, %v", r.Flow, err)
	}
	if f.epoch != 0 {
		t.Errorf("the attempt was begun: epoch %d", f.epoch)
	}
}

// Datagrams go both ways, over other addresses after a move, until the flow ends.
func TestUDP(t *testing.T) {
	t.Parallel()
	a, b := pair(t, wire.PolicyPlain, wire.PolicyPlain)
	end, err := a.DialUDP(t.Context(), Flow{Peer: b.id, V6: true, Local: 5000, Remote: 53})
	if err != nil {
		t.Fatal(err)
	}
	toB, toA := wait(t, a.sends), wait(t, b.sends)
	exchange := func(what string) {
		t.Helper()
		for _, d := range []struct {
			send func([]byte) error
			got  chan []byte
		}{{toB, b.got}, {toA, a.got}} {
			eventually(t, what, func() bool { // a datagram may be lost while the flow moves
				if err := d.send([]byte(what)); err != nil {
					t.Fatal(err)
				}
				select {
				case got := <-d.got:
					return string(got) == what
				case <-time.After(100 * time.Millisecond):
					return false
				}
			})
		}
	}
	exchange("on the first path")
	if s := a.Status()[0]; !s.UDP || !s.V6 || !s.Opener || s.TLS {
		t.Errorf("status %+v", s)
	}
	a.move("127.0.0.2")
	eventually(t, "the flow has moved", func() bool { return a.Status()[0].Moved == 1 && b.Status()[0].Moved == 1 })
	exchange("on the second path")
	b.move("127.0.0.3")
	eventually(t, "the flow has moved again", func() bool { return a.Status()[0].Moved == 2 && b.Status()[0].Moved == 2 })
	exchange("on the third path")
	end()
	if n := len(a.Status()); n != 0 || a.over.Load() != 1 {
		t.Errorf("%d flows, released %d times", n, a.over.Load())
	}
	if err := toB([]byte("late")); err != nil {
		t.Errorf("a datagram to a flow that has ended: %v", err)
	}
	b.Close()
	if n := len(b.Status()); n != 0 || b.over.Load() != 1 {
		t.Errorf("the peer: %d flows, released %d times", n, b.over.Load())
	}
}

// Which of two attempts stands.
func TestAdmit(t *testing.T) {
	t.Parallel()
	low, high := peerid.ID{1}, peerid.ID{2}
	for _, c := range []struct {
		name      string
		self      peerid.ID
		epoch     uint32 // of the peer's offer
		installed uint32
		under     *attempt // under way
		want      Verdict
	}{
		{"nothing under way", low, 1, 0, nil, Answered},
		{"older than what is in use", low, 1, 1, nil, Busy},
		{"of two equal ones the smaller peer's: ours", low, 3, 0, &attempt{epoch: 3, ours: true}, Glare},
		{"of two equal ones the smaller peer's: theirs", high, 3, 0, &attempt{epoch: 3, ours: true}, Answered},
		{"a higher epoch takes over from ours", low, 4, 0, &attempt{epoch: 3, ours: true}, Answered},
		{"a lower one does not", high, 2, 0, &attempt{epoch: 3, ours: true}, Glare},
		{"their own newer one is under way", high, 3, 0, &attempt{epoch: 3}, Busy},
		{"a newer one of theirs takes over", high, 4, 0, &attempt{epoch: 3}, Answered},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			peer := low
			if c.self == low {
				peer = high
			}
			f := &flow{fs: &Flows{cfg: Config{Self: c.self}, ctx: t.Context()}, Flow: Flow{Peer: peer}, installed: c.installed}
			var cause error
			if a := c.under; a != nil {
				ctx, cancel := context.WithCancelCause(t.Context())
				a.done, a.cancel, f.attempt, f.epoch = make(chan struct{}), cancel, a, a.epoch
				go func() {
					<-ctx.Done()
					cause = context.Cause(ctx)
					f.stop(a)
				}()
				defer func() {
					if a.cancel(nil); c.want == Answered && !errors.Is(cause, errOvertaken) {
						t.Errorf("the one before ended by %v", cause)
					}
				}()
			}
			a, _, v := f.admit(c.epoch)
			if v != c.want || (a != nil) != (v == Answered) {
				t.Fatalf("verdict %d, attempt %v", v, a)
			}
			if a == nil {
				return
			}
			if a.epoch != c.epoch || a.ours || f.attempt != a || f.epoch != c.epoch {
				t.Errorf("attempt %+v of flow with epoch %d", a, f.epoch)
			}
			f.stop(a)
			if f.attempt != nil {
				t.Error("stop leaves the attempt")
			}
		})
	}
}

// Who did not open the flow waits for the opener, and who waits for the other's
// attempt makes none of his own.
func TestBegin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &flow{fs: &Flows{ctx: t.Context()}, Flow: Flow{Opener: true}}
		start := time.Now()
		_, a, err := f.begin(t.Context())
		if err != nil || a.epoch != 1 || !a.ours || time.Since(start) != 0 {
			t.Fatalf("%+v, %v, after %v", a, err, time.Since(start))
		}
		go func() {
			time.Sleep(time.Second)
			f.stop(a)
		}()
		if _, _, err := f.begin(t.Context()); !errors.Is(err, errOvertaken) || time.Since(start) != time.Second {
			t.Errorf("beside another: %v after %v", err, time.Since(start))
		}

		f.Opener, start = false, time.Now()
		_, a, err = f.begin(t.Context())
		if err != nil || time.Since(start) != openerFirst {
			t.Fatalf("the listener began after %v, %v", time.Since(start), err)
		}
		f.stop(a)
		go func() {
			time.Sleep(openerFirst / 2)
			b, _, _ := f.admit(9)
			f.stop(b)
		}()
		if _, _, err = f.begin(t.Context()); !errors.Is(err, errOvertaken) {
			t.Errorf("the opener was first: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		f.Opener = true
		if _, _, err = f.begin(ctx); err != nil {
			t.Error(err)
		}
		if _, _, err = f.begin(ctx); !errors.Is(err, errOvertaken) || ctx.Err() == nil {
			t.Errorf("the end of the context: %v", err)
		}
	})
}

// Answers to offers are kept, the newest of them.
func TestAnswersKept(t *testing.T) {
	t.Parallel()
	var as answers
	first, mine := as.of([16]byte{1})
	if again, more := as.of([16]byte{1}); !mine || more || again != first {
		t.Error("the same session has two answers")
	}
	for i := range answersMax {
		as.of([16]byte{2, byte(i), byte(i >> 8)})
	}
	if _, more := as.of([16]byte{1}); !more {
		t.Error("the oldest is kept for ever")
	}
}

// Members that were put out lose their flows, others keep them.
func TestEndUnless(t *testing.T) {
	t.Parallel()
	a, b := pair(t, wire.PolicyPlain, wire.PolicyPlain)
	x, y := dialTCP(t, a, b)
	defer x.Close()
	defer y.Close()
	var chains []string
	a.EndUnless(func(chain []byte, p peerid.ID) bool {
		chains = append(chains, string(chain))
		return p == b.id
	})
	if !slices.Equal(chains, []string{"c\x02"}) {
		t.Errorf("asked about %q", chains)
	}
	talk(t, x, y)
	a.EndUnless(func([]byte, peerid.ID) bool { return false })
	if n := len(a.Status()); n != 0 {
		t.Errorf("%d flows are left", n)
	}
	_ = y.SetReadDeadline(time.Now().Add(patience))
	if _, err := y.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the peer's Read: %v", err)
	}
}

// What peers have opened ends if it is not wanted any more, and what this side has opened
// stays.
func TestEndOpened(t *testing.T) {
	t.Parallel()
	a, b := pair(t, wire.PolicyPlain, wire.PolicyPlain)
	x, y := dialTCP(t, a, b)
	defer x.Close()
	defer y.Close()
	if n := a.EndOpened(func(Flow) bool { return false }); n != 0 {
		t.Errorf("%d of its own have ended", n)
	}
	if n := b.EndOpened(func(f Flow) bool { return f.Peer == a.id && !f.Opener && !f.UDP }); n != 0 {
		t.Errorf("%d that are wanted have ended", n)
	}
	talk(t, x, y)
	if n := b.EndOpened(func(Flow) bool { return false }); n != 1 {
		t.Errorf("%d have ended", n)
	}
	_ = x.SetReadDeadline(time.Now().Add(patience))
	if _, err := x.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the opener's Read: %v", err)
	}
}

// Close ends flows and Dials; offers and Dials after it come to nothing.
func TestClose(t *testing.T) {
	t.Parallel()
	a, b := pair(t, wire.PolicyPlain, wire.PolicyPlain)
	x, y := dialTCP(t, a, b)
	defer y.Close()
	hangs := make(chan struct{})
	a.loses(func(pipe.Local) error { close(hangs); <-a.ctx.Done(); return a.ctx.Err() })
	dialled := make(chan error)
	go func() {
		_, err := a.DialTCP(t.Context(), Flow{Peer: b.id, Local: 1, Remote: 2}, func() {})
		dialled <- err
	}()
	wait(t, hangs)
	a.Close()
	if err := wait(t, dialled); err == nil {
		t.Error("a Dial under way has come through")
	}
	if _, err := x.Write([]byte("late")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write: %v", err)
	}
	a.Close()
	if _, err := a.DialTCP(t.Context(), Flow{Peer: b.id}, func() {}); err == nil {
		t.Error("a Dial after Close")
	}
	if _, err := b.Ask(t.Context(), a.id, b.Flows.local(nil, wire.Flow{Kind: wire.FlowOpen, Protocol: wire.FlowTCP, ID: newFlowID(), OpenerPort: 1, ListenerPort: 2, Policy: wire.PolicyPlain})); !errors.Is(err, errVerdict) {
		t.Errorf("an offer after Close: %v", err)
	}
}

// Answers that are about something else, or say no, are errors.
func TestAsk(t *testing.T) {
	t.Parallel()
	for kind, want := range map[wire.FlowKind]error{
		wire.FlowOpen: nil, wire.FlowResume: nil, wire.FlowForbidden: ErrForbidden, wire.FlowRefused: ErrRefused,
		wire.FlowUnknown: null.ErrReset, wire.FlowNoWay: nil,
	} {
		fs := &Flows{cfg: Config{Offers: &scripted{kind: kind}, Chain: func() []byte { return nil }}}
		_, err := fs.ask(t.Context(), peerid.ID{}, nil, wire.Flow{})
		var e *Error
		switch {
		case kind == wire.FlowOpen || kind == wire.FlowResume:
			if err != nil {
				t.Errorf("%v: %v", kind, err)
			}
		case !errors.As(err, &e) || e.Stage != StageOffer || want != nil && !errors.Is(err, want):
			t.Errorf("%v: %v", kind, err)
		}
	}
	fs := &Flows{cfg: Config{Offers: otherAnswer{}, Chain: func() []byte { return nil }}}
	if _, err := fs.ask(t.Context(), peerid.ID{}, nil, wire.Flow{ID: [16]byte{1}}); err == nil {
		t.Error("an answer about another flow is taken")
	}
}

type otherAnswer struct{}

func (otherAnswer) Ask(context.Context, peerid.ID, pipe.Local) (pipe.Remote, error) {
	return pipe.Remote{Encapsulation: wire.Null, Flow: wire.Flow{Kind: wire.FlowOpen, ID: [16]byte{2}}}, nil
}
