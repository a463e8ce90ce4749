package establish

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/ice"
)

// station is a socket with checks of package ice on it.
type station struct {
	Checks
	port  *socket.Port
	turns int // how often pairs through TURN servers were asked for
}

func newStation(t *testing.T) *station {
	t.Helper()
	d := ice.NewDemux(ice.DemuxConfig{})
	s := &station{}
	var err error
	s.port, err = socket.Listen(socket.Config{Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, OnSTUN: d.Handle})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.port.Close() })
	nobody := func([]wire.Candidate) []ice.TURNPair { s.turns++; return nil }
	s.Checks = Checks{
		Config: func(bool) ice.Config {
			return ice.Config{Demux: d, Conns: s.port.Conns(), Mapped: func(*socket.Conn) []netip.AddrPort { return nil }}
		},
		Pairs: func(bool, []wire.Candidate) []ice.TURNPair { return nobody(nil) }, Allocated: nobody,
	}
	return s
}

func (s *station) agent(t *testing.T, turn, silent bool) Agent {
	t.Helper()
	a, err := s.New(turn, silent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

func remoteOf(a Agent) (r pipe.Remote) {
	r.Ufrag, r.Pwd = a.Credentials()
	r.Candidates = a.Candidates()
	return r
}

// Two agents find the path between their sockets; the one that was checked with before
// it knew the peer has heard where that is.
func TestChecksFindAPath(t *testing.T) {
	t.Parallel()
	a, b := newStation(t), newStation(t)
	x, y := a.agent(t, false, false), b.agent(t, false, false)
	if c := y.Candidates(); len(c) != 1 || c[0].Addr != b.port.Conns()[0].LocalAddr() {
		t.Fatalf("candidates %v", c)
	}
	if x.TURN() != nil {
		t.Error("an agent without TURN has checks through servers")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	type result struct {
		path pipe.Path
		err  error
	}
	first := make(chan result, 1)
	x.Begin(true, remoteOf(y))
	go func() {
		p, err := x.Check(ctx, true, remoteOf(y), y.Candidates())
		first <- result{p, err}
	}()
	r := <-first // y answers before it knows of x
	if r.err != nil || r.path.Remote != y.Candidates()[0].Addr || r.path.Local != pipe.Sender(a.port.Conns()[0]) {
		t.Fatalf("%v, %v", r.path, r.err)
	}
	y.Begin(false, remoteOf(x))
	heard := y.Heard()
	if len(heard) == 0 || heard[0].Path.Remote != a.port.Conns()[0].LocalAddr() || heard[0].Size < 20 {
		t.Errorf("heard %v", heard)
	}
	p, err := y.Check(ctx, false, remoteOf(x), x.Candidates())
	if err != nil || p.Remote != a.port.Conns()[0].LocalAddr() {
		t.Errorf("%v, %v", p, err)
	}
	if got := x.Succeeded(); len(got) != 1 || got[0].Remote != r.path.Remote {
		t.Errorf("succeeded %v", got)
	}
}

// A peer that knows the address and not the password is not answered, and checks end
// with their context.
func TestChecksOfALiar(t *testing.T) {
	t.Parallel()
	a, b := newStation(t), newStation(t)
	x, y := a.agent(t, false, false), b.agent(t, false, false)
	lie := remoteOf(y)
	lie.Pwd = remoteOf(x).Pwd
	x.Begin(true, lie)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if p, err := x.Check(ctx, true, lie, y.Candidates()); err == nil {
		t.Errorf("a path %v", p)
	}
	if got := x.Succeeded(); len(got) != 0 {
		t.Errorf("succeeded %v", got)
	}
	y.Begin(false, remoteOf(x))
	if got := y.Heard(); len(got) != 0 {
		t.Errorf("heard %v", got)
	}
}

// Where no server lends an address there are no pairs through one, also later.
func TestChecksWithoutServers(t *testing.T) {
	t.Parallel()
	a := newStation(t)
	turn := a.agent(t, true, false).TURN()
	if turn == nil {
		t.Fatal("no checks through servers")
	}
	defer turn.Close()
	candidates := []wire.Candidate{{Type: wire.Host, Addr: netip.MustParseAddrPort("192.0.2.1:1"), Foundation: "h", Priority: 1}}
	if turn.Pairs(candidates) {
		t.Error("there are pairs")
	}
	turn.AddRemote(candidates)
	turn.AddLocal(candidates)
	if a.turns != 3 {
		t.Errorf("asked %d times for pairs", a.turns)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if p, err := turn.Check(ctx, pipe.Remote{}, candidates); err == nil {
		t.Errorf("a path %v", p)
	}
}
