package pipe

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/race"
	"github.com/idloc/idloc/internal/yardstick"
)

// What routers mark where both ends can be told of it is counted and reaches the
// sender; where one cannot, or the path takes nothing that could be marked, nothing is
// sent that could be.
func TestRepairMarks(t *testing.T) {
	for what, c := range map[string]struct {
		a, b  bool
		eaten bool
		marks bool
	}{
		"both":           {true, true, false, true},
		"only one":       {true, false, false, false},
		"only the other": {false, true, false, false},
		"eaten":          {true, true, true, false},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(20 * time.Millisecond)
				a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
				a.s.ecn, b.s.ecn = c.a, c.b
				var able, marked int
				n.mark = func(_, to netip.AddrPort, d []byte) bool {
					able++
					if c.eaten {
						clear(d)
					}
					if to == b.s.addr && able%10 == 0 {
						marked++
						return true
					}
					return false
				}
				pa, pb := connect(t, a, b)
				send(pa, packet(100))
				<-pb.Ready()
				settle(500 * time.Millisecond)
				keep := func() {
					for range 100 {
						k := pa.Keep(1, false, 0)
						r := k.Room(1000)
						clear(r)
						r[0] = 6
						k.Done()
						settle(5 * time.Millisecond)
					}
				}
				keep()
				settle(10 * time.Second)
				was := able
				keep()
				settle(3 * time.Second)
				s := pa.Status().Repair
				if got := s.Marked > 0; got != c.marks || c.marks && int(s.Marked) < marked {
					t.Errorf("%d were marked, %d counted", marked, s.Marked)
				}
				if able > 0 != c.marks && !c.eaten || c.eaten && able != was || s.Kept > 0 {
					t.Errorf("%d could be marked, %d of these at first: %+v", able, was, s)
				}
			})
		})
	}
}

// Neither keeping, sending and acknowledging nor what comes of it allocates.
func TestRepairNoAllocs(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector makes pools forget")
	}
	n := newNetwork(0)
	a, b := newHost(t, n, 1, "192.0.2.1:1000"), newHost(t, n, 2, "192.0.2.2:1000")
	to, back := &wireTo{addr: a.s.addr, e: b.Endpoint}, &wireTo{addr: b.s.addr, e: a.Endpoint}
	to.at, back.at = back, to
	sa, sb := sessions(t, a, b)
	pb, err := b.Endpoint.Up(sb, Path{back, to.addr})
	if err != nil {
		t.Fatal(err)
	}
	pa, err := a.Endpoint.Up(sa, Path{to, back.addr})
	if err != nil {
		t.Fatal(err)
	}
	send(pa, packet(100))
	<-pb.Ready()
	for _, p := range []*Pipe{pa, pb} {
		p.mu.Lock()
		p.paths.best.Load().srtt = 100 * time.Microsecond
		p.keys.sess.repairs.Store(true)
		p.repair.session = p.keys.sess
		p.repair.mode.Store(uint32(repairOn))
		p.mu.Unlock()
	}
	dst := make([]byte, 0, 2048)
	b.cfg.Handler = opener{func(p *Pipe, d []byte, seg int) {
		for len(d) > 0 {
			n := min(seg, len(d))
			_, _ = p.Open(dst, d[:n])
			d = d[n:]
		}
	}}
	for _, x := range []struct {
		what  string
		next  byte // header
		begin func(flow uint64, v6 bool, class uint8) Kept
	}{{"segments", 6, pa.Keep}, {"datagrams", 17, pa.KeepOnce}} {
		send := func() {
			k := x.begin(1, false, 0)
			for range 16 {
				r := k.Room(1000)
				clear(r)
				r[0] = x.next
			}
			k.Done()
		}
		for range 50 {
			send()
		}
		if got := yardstick.Allocs(200, send); got >= 1 {
			t.Errorf("%v allocations for 16 %s", got, x.what)
		}
	}
}

// wireTo is a Sender that has what it sends arrive at once.
type wireTo struct {
	addr netip.AddrPort
	e    *Endpoint
	at   *wireTo // the Sender that e has
}

func (w *wireTo) LocalAddr() netip.AddrPort { return w.addr }
func (w *wireTo) WriteBatch(b []byte, seg int, _ netip.AddrPort) error {
	w.e.Receive(w.at, w.addr, b, seg)
	return nil
}

// opener is a Handler that is one function.
type opener struct {
	data func(p *Pipe, b []byte, seg int)
}

func (o opener) Data(p *Pipe, b []byte, seg int) { o.data(p, b, seg) }
func (o opener) Large(*Pipe, bool, []byte)       {}
func (o opener) Up(*Pipe)                        {}
func (o opener) Down(*Pipe, error)               {}
func (o opener) Gone(peerid.ID, error)           {}
