package resolver

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/lsi"
)

// stuck is a database that answers when it is released, or when the question
// is given up.
type stuck struct {
	asked   chan struct{} // one for each question
	release chan struct{}
}

func newStuck() *stuck {
	return &stuck{make(chan struct{}, 4096), make(chan struct{})}
}

func (s *stuck) Resolve(ctx context.Context, _ string) (peerid.ID, string, error) {
	s.asked <- struct{}{}
	select {
	case <-s.release:
		return peerid.ID{}, "", ErrNotFound
	case <-ctx.Done():
		return peerid.ID{}, "", ctx.Err()
	}
}

func serverOf(t testing.TB, cfg Config) *Server {
	t.Helper()
	cfg.Domain = "example.com"
	if cfg.LSIs == nil {
		cfg.LSIs = lsis{}
	}
	if cfg.Names == nil {
		cfg.Names = database{}
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func pack(t testing.TB, m *dns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Close with questions of every kind under way ends them all and returns.
func TestCloseInFlight(t *testing.T) {
	db := newStuck()
	blackHole, err := net.ListenPacket("udp", "127.0.0.1:0") // takes questions, answers none
	if err != nil {
		t.Fatal(err)
	}
	defer blackHole.Close()
	s := serverOf(t, Config{Names: db, Upstream: Static(blackHole.LocalAddr().(*net.UDPAddr).AddrPort())})
	addr := serve(t, s)

	for i, network := range []string{"udp", "tcp"} {
		c, err := net.Dial(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		q := pack(t, ask(fmt.Sprintf("a%d.example.com.", i), dns.TypeA))
		if network == "tcp" {
			q = frame(q)
		}
		if _, err := c.Write(q); err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan error, 3)
	go func() { _, _, _, err := s.Lookup(context.Background(), "b.example.com"); ended <- err }()
	go func() {
		_, err := s.NetResolver().LookupNetIP(context.Background(), "ip4", "c.example.com")
		ended <- err
	}()
	go func() {
		_, err := s.NetResolver().LookupNetIP(context.Background(), "ip4", "elsewhere.net")
		ended <- err
	}()
	for range 4 {
		<-db.asked
	}
	if _, _, err := blackHole.ReadFrom(make([]byte, 512)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range cap(ended) {
		if err := <-ended; err == nil {
			t.Error("a question that Close interrupted has an answer")
		}
	}
	if _, _, _, err := s.Lookup(context.Background(), "mars.example.com"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Lookup after Close: %v", err)
	}
	if _, err := s.NetResolver().Dial(context.Background(), "udp", ""); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Dial after Close: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// What a guesser sends before the true answer is passed over: by the content,
// and by the kernel if it comes from another address (RFC 5452 §9).
func TestSpoofedUpstream(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	elsewhere, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer elsewhere.Close()
	answer := func(q *dns.Msg, ip string) *dns.Msg {
		a := new(dns.Msg).SetReply(q)
		rr, err := dns.NewRR(q.Question[0].Name + " 60 A " + ip)
		if err != nil {
			t.Error(err)
		}
		a.Answer = []dns.RR{rr}
		return a
	}
	lies := []func(q *dns.Msg) []byte{
		func(*dns.Msg) []byte { return []byte("garbage") },
		func(*dns.Msg) []byte { return nil },
		func(q *dns.Msg) []byte { a := answer(q, "192.0.2.66"); a.Id++; return pack(t, a) },
		func(q *dns.Msg) []byte { a := answer(q, "192.0.2.66"); a.Response = false; return pack(t, a) },
		func(q *dns.Msg) []byte { a := answer(q, "192.0.2.66"); a.Question = nil; return pack(t, a) },
		func(q *dns.Msg) []byte {
			a := answer(q, "192.0.2.66")
			a.Question[0].Name = "other.net."
			return pack(t, a)
		},
		func(q *dns.Msg) []byte {
			a := answer(q, "192.0.2.66")
			a.Question[0].Qtype = dns.TypeAAAA
			return pack(t, a)
		},
		func(q *dns.Msg) []byte { b := pack(t, answer(q, "192.0.2.66")); return b[:len(b)-1] },
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 4096)
		n, from, err := pc.ReadFrom(b)
		if err != nil {
			t.Error(err)
			return
		}
		parsed := func() *dns.Msg {
			q := new(dns.Msg)
			if err := q.Unpack(b[:n]); err != nil {
				t.Error(err)
			}
			return q
		}
		elsewhere.WriteTo(pack(t, answer(parsed(), "192.0.2.66")), from)
		for _, lie := range lies {
			pc.WriteTo(lie(parsed()), from)
		}
		pc.WriteTo(pack(t, answer(parsed(), "192.0.2.1")), from)
	}()
	s := serverOf(t, Config{Upstream: Static(pc.LocalAddr().(*net.UDPAddr).AddrPort())})
	a := s.Answer(context.Background(), ask("bank.net.", dns.TypeA))
	<-done
	if len(a.Answer) != 1 || a.Answer[0].(*dns.A).A.String() != "192.0.2.1" {
		t.Errorf("answer is\n%v", a)
	}
}

// A server that answers about itself, or over TCP another question, is passed
// over for the next; when none is left the client hears so.
func TestUpstreamFailover(t *testing.T) {
	pc, l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{}, 2)
	ended := make(chan struct{}, 2)
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		a := new(dns.Msg).SetReply(q)
		switch _, tcp := w.RemoteAddr().(*net.TCPAddr); {
		case tcp:
			a.Question[0].Name = "other.net."
		case q.Question[0].Name == "cut.net.":
			a.Truncated = true
		default:
			a.Rcode = dns.RcodeRefused
		}
		w.WriteMsg(a)
	})
	for _, srv := range []*dns.Server{{PacketConn: pc, Handler: handler}, {Listener: l, Handler: handler}} {
		srv.NotifyStartedFunc = func() { started <- struct{}{} }
		go func() { srv.ActivateAndServe(); ended <- struct{}{} }()
		t.Cleanup(func() { srv.Shutdown(); <-ended })
	}
	<-started
	<-started
	bad := l.Addr().(*net.TCPAddr).AddrPort()
	good := upstream(t, make(chan string))

	s := serverOf(t, Config{Upstream: Static(bad, good)})
	if a := s.Answer(context.Background(), ask("good.net.", dns.TypeA)); len(a.Answer) != 1 {
		t.Errorf("a server that refuses ends the search:\n%v", a)
	}
	s = serverOf(t, Config{Upstream: Static(bad)})
	if a := s.Answer(context.Background(), ask("good.net.", dns.TypeA)); a.Rcode != dns.RcodeServerFailure {
		t.Errorf("all servers refuse:\n%v", a)
	}
	// The truncated answer is worth more than none.
	if a := s.Answer(context.Background(), ask("cut.net.", dns.TypeA)); a.Rcode != dns.RcodeSuccess {
		t.Errorf("no answer over TCP:\n%v", a)
	}
	s = serverOf(t, Config{Upstream: Static(bad), Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("no network")
	}})
	if a := s.Answer(context.Background(), ask("good.net.", dns.TypeA)); a.Rcode != dns.RcodeServerFailure {
		t.Errorf("no network:\n%v", a)
	}
}

// Under more names than are asked for at once the rest get an error, not
// memory; and all is well when the load is gone.
func TestFlightLimit(t *testing.T) {
	db := newStuck()
	s := serverOf(t, Config{Names: db, Timeout: time.Minute})
	var wg sync.WaitGroup
	for i := range maxFlights {
		wg.Go(func() {
			if _, _, _, err := s.Lookup(context.Background(), fmt.Sprintf("n%d.example.com", i)); !errors.Is(err, ErrNotFound) {
				t.Error(err)
			}
		})
	}
	for range maxFlights {
		<-db.asked
	}
	_, _, _, err := s.Lookup(context.Background(), "one-more.example.com")
	var de *net.DNSError
	if !errors.Is(err, errBusy) || !errors.As(err, &de) || !de.IsTemporary || de.IsNotFound {
		t.Errorf("beyond the limit: %v", err)
	}
	// Who asks for a name that is being asked for shares the answer.
	wg.Go(func() { s.Lookup(context.Background(), "n0.example.com") })
	close(db.release)
	wg.Wait()
	if _, _, _, err := s.Lookup(context.Background(), "one-more.example.com"); !errors.Is(err, ErrNotFound) {
		t.Errorf("after the load: %v", err)
	}
	if n := len(s.names.byName); n != 0 {
		t.Errorf("%d names remembered", n)
	}
}

// A flood of questions is dropped beyond maxBusy, TCP connections beyond
// maxConns are closed; afterwards the server answers.
func TestFlood(t *testing.T) {
	db := newStuck()
	s := serverOf(t, Config{Names: db, Timeout: time.Minute})
	addr := serve(t, s)
	c, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	send := func(i int) {
		t.Helper()
		if _, err := c.Write(pack(t, ask(fmt.Sprintf("n%d.example.com.", i), dns.TypeA))); err != nil {
			t.Fatal(err)
		}
	}
	for i := range maxBusy { // one after the other: the socket's own buffer is no part of this
		send(i)
		<-db.asked
	}
	for i := range 200 {
		send(maxBusy + i)
	}
	var conns []net.Conn
	for range maxConns + 1 {
		tc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer tc.Close()
		conns = append(conns, tc)
	}
	last := conns[maxConns]
	last.SetReadDeadline(time.Now().Add(2 * time.Minute))
	if n, err := last.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("connection %d: read %d bytes, %v", maxConns+1, n, err)
	}
	if n := len(s.busy); n != maxBusy {
		t.Errorf("%d questions at once, want %d", n, maxBusy)
	}
	close(db.release)
	for _, tc := range conns {
		tc.Close()
	}
	// Some of the answers may find the client's buffer full.
	exchange(t, addr, ask("mars.example.com.", dns.TypeA))
}

// exchange asks over TCP, on one connection after the other until one of them
// has an answer.
func exchange(t *testing.T, addr string, q *dns.Msg) *dns.Msg {
	t.Helper()
	client := dns.Client{Net: "tcp", Timeout: 30 * time.Second}
	for deadline := time.Now().Add(2 * time.Minute); ; {
		a, _, err := client.Exchange(q, addr)
		if err == nil {
			return a
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

var unknownNames = flag.Int("unknown-names", 50_000, "how many names TestUnknownNames asks for")

// Names that nobody has, any number of them, give no peer an LSI, and no memory.
func TestUnknownNames(t *testing.T) {
	table, err := lsi.New(lsi.Config{Self: mars})
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	s := serverOf(t, Config{LSIs: table})
	before, _ := table.Len()
	var wg sync.WaitGroup
	const workers = 8
	for w := range workers {
		wg.Go(func() {
			for i := w; i < *unknownNames; i += workers {
				if _, _, _, err := s.Lookup(context.Background(), fmt.Sprintf("u%d.example.com", i)); !errors.Is(err, ErrNotFound) {
					t.Errorf("name %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if after, _ := table.Len(); after != before {
		t.Errorf("%d LSIs, %d before", after, before)
	}
	if n := len(s.names.byName); n != 0 {
		t.Errorf("%d names remembered", n)
	}
}

// A failure of the database is remembered for a moment and not for longer.
func TestFailureIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked int
		s := serverOf(t, Config{Names: counting{&asked}})
		for range 5 {
			if _, _, _, err := s.Lookup(t.Context(), "down.example.com"); err == nil || errors.Is(err, ErrNotFound) {
				t.Fatal(err)
			}
		}
		if asked != 1 {
			t.Errorf("asked %d times for a name that failed", asked)
		}
		time.Sleep(failureTTL)
		s.Lookup(t.Context(), "down.example.com")
		if asked != 2 {
			t.Errorf("asked %d times, a failure is remembered for ever", asked)
		}
		if !s.Owns("Mars.Example.COM.") || s.Owns("badexample.com") {
			t.Error("Owns is wrong about the domain's border")
		}
	})
}

type counting struct{ n *int }

func (c counting) Resolve(ctx context.Context, name string) (peerid.ID, string, error) {
	*c.n++
	return database{}.Resolve(ctx, name)
}

// The in-process connection keeps net.Conn's promises.
func TestProcessConn(t *testing.T) {
	db := newStuck()
	defer close(db.release)
	s := serverOf(t, Config{Names: db})
	dial := func() net.Conn {
		c, err := s.NetResolver().Dial(context.Background(), "udp", "")
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := dial()
	c.SetReadDeadline(time.Now().Add(-time.Second))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, context.DeadlineExceeded) && !isTimeout(err) {
		t.Errorf("Read after the deadline: %v", err)
	}
	c.Close()
	c = dial()
	read := make(chan error, 1)
	go func() { _, err := c.Read(make([]byte, 1)); read <- err }()
	c.Close()
	if err := <-read; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read during Close: %v", err)
	}
	if _, err := c.Write([]byte{0}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write after Close: %v", err)
	}
	if c.LocalAddr().Network() != "dns" || c.RemoteAddr().String() == "" {
		t.Errorf("addresses %v, %v", c.LocalAddr(), c.RemoteAddr())
	}
	// A query in pieces, then garbage.
	c = dial()
	defer c.Close()
	for _, b := range frame([]byte("x")) {
		if _, err := c.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := c.Read(make([]byte, 10)); err == nil {
		t.Errorf("garbage is answered with %d bytes", n)
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// Our own server in the host's configuration is not asked: it would ask us.
func TestNoLoop(t *testing.T) {
	s := serverOf(t, Config{Prefixes: prefixes})
	addr := netip.MustParseAddrPort(serve(t, s))
	// The sockets are known when they answer.
	exchange(t, addr.String(), ask("mars.example.com.", dns.TypeA))
	s.cfg.Upstream = Static(addr, netip.AddrPort{}, netip.MustParseAddrPort("198.18.0.53:53"), netip.MustParseAddrPort("[::ffff:198.18.0.53]:53"))
	if left := s.upstreams(); len(left) != 0 {
		t.Errorf("would ask %v", left)
	}
}

// mirror is a connection to a DNS server that asks us in turn: the host's
// own, configured to ask this one about everything.
type mirror struct {
	net.Conn // nil: what is not below is not called
	ask      func([]byte) []byte
	asked    *atomic.Int32
	query    []byte
	ended    chan struct{}
	once     sync.Once
}

func (m *mirror) Write(b []byte) (int, error) {
	m.asked.Add(1)
	m.query = append([]byte(nil), b...)
	return len(b), nil
}

func (m *mirror) Read(b []byte) (int, error) {
	answered := make(chan []byte, 1)
	go func() { answered <- m.ask(m.query) }()
	select {
	case a := <-answered:
		return copy(b, a), nil
	case <-m.ended:
		return 0, net.ErrClosed
	}
}

func (m *mirror) SetDeadline(time.Time) error { m.once.Do(func() { close(m.ended) }); return nil }
func (m *mirror) Close() error                { return m.SetDeadline(time.Time{}) }

// A question for which the host's DNS server asks us again goes round once,
// with another ID too, and ends as a failure.
func TestUpstreamAsksUs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *Server
		var asked atomic.Int32
		ask53 := func(b []byte) []byte {
			b[0]++ // servers between hosts choose their own ID
			a := s.reply(context.Background(), b, true)
			if a != nil {
				a[0]--
			}
			return a
		}
		s = serverOf(t, Config{
			Upstream: Static(netip.MustParseAddrPort("127.0.0.53:53"), netip.MustParseAddrPort("127.0.0.54:53")),
			Dial: func(context.Context, string, string) (net.Conn, error) {
				return &mirror{ask: ask53, asked: &asked, ended: make(chan struct{})}, nil
			},
		})
		a := s.Answer(t.Context(), ask("good.net.", dns.TypeA))
		if a.Rcode != dns.RcodeServerFailure || asked.Load() != 2 {
			t.Errorf("%s after %d questions to 2 servers", dns.RcodeToString[a.Rcode], asked.Load())
		}
		// It is not remembered: the configuration may be put right.
		if n := len(s.outside.open); n != 0 {
			t.Errorf("%d questions are still open", n)
		}
	})
}

// Many who ask for the same name outside at once share one question, and each
// hears the letters that it asked with.
func TestUpstreamIsAskedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		hold := make(chan struct{})
		answer := func(b []byte) []byte {
			<-hold
			q := new(dns.Msg)
			if err := q.Unpack(b); err != nil {
				t.Error(err)
			}
			a := new(dns.Msg).SetReply(q)
			rr, err := dns.NewRR("good.net. 60 A 192.0.2.1") // not in the letters of the question
			if err != nil {
				t.Error(err)
			}
			a.Answer = []dns.RR{rr}
			return pack(t, a)
		}
		s := serverOf(t, Config{
			Upstream: Static(netip.MustParseAddrPort("192.0.2.53:53")),
			Dial: func(context.Context, string, string) (net.Conn, error) {
				return &mirror{ask: answer, asked: &asked, ended: make(chan struct{})}, nil
			},
		})
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				name := []string{"good.net.", "GooD.neT.", "GOOD.NET."}[i%3]
				a := new(dns.Msg)
				err := a.Unpack(s.reply(t.Context(), pack(t, ask(name, dns.TypeA)), true))
				if err != nil || len(a.Answer) != 1 || a.Question[0].Name != name || a.Answer[0].Header().Name != name {
					t.Errorf("%s: %v, %v", name, a, err)
				}
			})
		}
		wg.Go(func() { // another type is another question
			s.reply(t.Context(), pack(t, ask("good.net.", dns.TypeAAAA)), true)
		})
		synctest.Wait()
		close(hold)
		wg.Wait()
		if n := asked.Load(); n != 2 {
			t.Errorf("50 equal questions and another became %d", n)
		}
	})
}
