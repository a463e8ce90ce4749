package netstack

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/idloc/idloc/internal/difftest"
	"github.com/idloc/idloc/internal/inner"
	"github.com/idloc/idloc/shim/shimtest"
)

var crashPrograms = flag.Int("crash.programs", 60, "how many programs TestProgramsThatCrash runs")

// faulty is a link that damages what comes in: what a stack with a fault would
// have done.
type faulty struct {
	*link
	fault func(th header.TCP, payload int) (drop bool)
	hits  atomic.Int64
}

// Deliver implements shim.Upper.
func (f *faulty) Deliver(h *inner.Header, b buffer.Buffer) {
	hl := ipLen(h.V6)
	flat := b.Flatten()
	if th := header.TCP(flat[hl:]); len(th) >= header.TCPMinimumSize && f.fault(th, len(th)-int(th.DataOffset())) {
		f.hits.Add(1)
		b.Release()
		return
	}
	b.Release()
	f.link.Deliver(h, buffer.MakeWithData(flat))
}

// world is the rig for programs.
func (r *rig) world() *difftest.World {
	side := func(n *node, far netip.Addr) difftest.Side {
		return difftest.Side{
			Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
				ap, err := netip.ParseAddrPort(address)
				if err != nil {
					return nil, err
				}
				return n.DialTCP(ctx, network, netip.AddrPort{}, ap)
			},
			Listen: func(network, address string) (net.Listener, error) {
				_, p, _ := net.SplitHostPort(address)
				port, err := strconv.ParseUint(p, 10, 16)
				if err != nil {
					return nil, err
				}
				return n.ListenTCP(network, netip.AddrPortFrom(netip.Addr{}, uint16(port)), 0)
			},
			Far: func(bool) string { return far.String() },
		}
	}
	return &difftest.World{Name: "stacks", V4: true, Limit: time.Minute,
		Sides: [2]difftest.Side{side(r.a, r.a4), side(r.b, r.b4)}}
}

// The programs that compare a node with the kernel find what is wrong with a
// stack: each of these faults shows within a few of them, as a call that does
// not return, as bytes that are missing, or as another error.
func TestProgramsFindFaults(t *testing.T) {
	for name, fault := range map[string]func(th header.TCP, payload int) bool{
		"the FIN is skipped": func(th header.TCP, payload int) bool {
			th[13] &^= byte(header.TCPFlagFin)
			return false
		},
		"a reset is dropped": func(th header.TCP, _ int) bool { return th.Flags()&header.TCPFlagRst != 0 },
		"a FIN is a reset": func(th header.TCP, payload int) bool {
			if th.Flags()&header.TCPFlagFin != 0 && payload == 0 {
				th[13] = byte(header.TCPFlagRst | header.TCPFlagAck)
			}
			return false
		},
		"a reset is a FIN": func(th header.TCP, payload int) bool {
			if th.Flags()&header.TCPFlagRst != 0 {
				th[13] = byte(header.TCPFlagFin | header.TCPFlagAck)
			}
			return false
		},
		"a byte is changed": func(th header.TCP, payload int) bool {
			if payload > 500 {
				th[len(th)-1] ^= 1
			}
			return false
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantDifference(t, 100, func(r *rig) *difftest.World {
				r.b.Shim.Attach(&faulty{link: r.b.link, fault: fault})
				return r.world()
			})
		})
	}
	t.Run("the last segment is lost", func(t *testing.T) {
		t.Parallel()
		wantDifference(t, 100, func(r *rig) *difftest.World {
			w := r.world()
			dial := w.Sides[0].Dial
			w.Sides[0].Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				c, err := dial(ctx, network, address)
				if err != nil {
					return nil, err
				}
				return &forgetful{tcpConn: c.(*tcpConn)}, nil
			}
			return w
		})
	})
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		if d := firstDifference(100, newRig(t).world()); d != nil {
			t.Error(d)
		}
	})
}

// crashing is the rig for a program in which a process crashes. The other side hears
// of it by gone: mostly as from the next process in that place.
func (r *rig) crashing(gone func(n, far *node)) *difftest.World {
	w := r.world()
	for i, n := range []*node{r.a, r.b} {
		far := []*node{r.b, r.a}[i]
		w.Sides[i].Crash = func() error {
			// Who has dialled takes a connection for made before it is.
			for began := time.Now(); opening(far); time.Sleep(time.Millisecond) { // nothing tells
				if time.Since(began) > time.Minute {
					return errors.New("a handshake goes on")
				}
			}
			r.net.SetFilter(func(_, _ *shimtest.Node, _ []byte, _ int) []byte { return nil })
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			_ = n.Stack.Close(ctx) // unheard
			if p := n.Pipes.Pipe(far.ID); p != nil {
				p.Close(nil) // likewise
			}
			had := make(map[*tcp.Endpoint]int)
			for ep := range far.endpoints() {
				if k, err := ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption); err == nil {
					had[ep] = k
				}
			}
			gone(n, far)
			for ep, k := range had {
				if left, _ := ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption); left < k {
					return fmt.Errorf("of %d bytes that had come %d can be read", k, left)
				}
			}
			return nil
		}
	}
	return w
}

// opening says whether a peer's handshake is under way at n.
func opening(n *node) bool {
	for ep := range n.endpoints() {
		if ep.EndpointState() == tcp.StateSynRecv {
			return true
		}
	}
	return false
}

// nextProcess is how a peer hears of a crash.
func nextProcess(n, far *node) { far.Pipes.PeerStarted(n.ID, n.Pipes.Start()+1) }

// Programs in which a process crashes show the other side what package difftest
// says of that, and find what is wrong with it.
func TestProgramsThatCrash(t *testing.T) {
	t.Parallel()
	check := func(t *testing.T, seed uint64, limit time.Duration, gone func(n, far *node)) (difference string) {
		p := difftest.Generate(seed, difftest.Options{Exits: true, Crash: true})
		return p.Check(func(p *difftest.Program) *difftest.Transcript {
			w := newRig(t).crashing(gone)
			w.Limit = limit
			return p.Run(w)
		}, false)
	}
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		for seed := range uint64(*crashPrograms) {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				if d := check(t, seed, time.Minute, nextProcess); d != "" {
					t.Error(d)
				}
			})
		}
	})
	for name, gone := range map[string]func(n, far *node){
		"nobody hears of it": func(_, _ *node) {},
		"streams look whole": func(n, far *node) {
			v4, v6, _ := far.Table.Of(n.ID)
			far.peerGone(v4, v6, true)
		},
		"what had come is lost": func(n, far *node) {
			for ep := range far.endpoints() {
				if a, ok := remoteOf(ep); ok && a.IsValid() && !a.IsUnspecified() {
					ep.Abort()
				}
			}
			nextProcess(n, far)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(100) {
				if d := check(t, seed, time.Second, gone); d != "" {
					t.Log(d)
					return
				}
			}
			t.Error("not found by 100 programs")
		})
	}
}

// forgetful keeps the last small Write back until there is another, as a stack
// would that loses what Close should send.
type forgetful struct {
	*tcpConn
	kept []byte
}

func (f *forgetful) Write(b []byte) (int, error) {
	if f.writeDeadline.passed() || len(f.kept) > 0 || len(b) == 0 || len(b) > 1000 {
		kept := f.kept
		f.kept = nil
		if _, err := f.tcpConn.Write(kept); err != nil {
			return 0, err
		}
		return f.tcpConn.Write(b)
	}
	f.kept = append(f.kept, b...)
	return len(b), nil
}

func wantDifference(t *testing.T, programs uint64, with func(r *rig) *difftest.World) {
	w := with(newRig(t))
	w.Limit = time.Second // what hangs, hangs
	d := firstDifference(programs, w)
	if d == nil {
		t.Fatalf("not found by %d programs", programs)
	}
	t.Log(d)
}

// firstDifference runs programs until one differs.
func firstDifference(programs uint64, w *difftest.World) error {
	for seed := range programs {
		if d := difftest.Generate(seed, difftest.Options{}).Check(func(p *difftest.Program) *difftest.Transcript { return p.Run(w) }, false); d != "" {
			return errors.New(d)
		}
	}
	return nil
}
