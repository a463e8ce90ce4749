package lsi

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/leaktest"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/yardstick"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func testPeer(n int) (id peerid.ID) {
	binary.BigEndian.PutUint64(id[:], uint64(n)+1)
	return id
}

type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func testTable(t testing.TB, cfg Config) *Table {
	t.Helper()
	cfg.Self = testPeer(1 << 30)
	table, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	return table
}

func mustAssign(t testing.TB, table *Table, id peerid.ID) netip.Addr {
	t.Helper()
	v4, _, _, err := table.Assign(id)
	if err != nil {
		t.Fatal(err)
	}
	return v4
}

func TestContextID(t *testing.T) {
	sum := sha256.Sum256([]byte("idloc: ORCHIDv2 context ID for LSIs, draft-matthews-p2psip-id-loc"))
	if contextID != [16]byte(sum[:16]) {
		t.Error("the context ID is not what its comment says")
	}
}

func TestORCHID(t *testing.T) {
	a, b := orchid([32]byte{1}, testPeer(1)), orchid([32]byte{2}, testPeer(1))
	if a == b || a == orchid([32]byte{1}, testPeer(2)) {
		t.Error("overlay or peer does not change the ORCHID")
	}
	if !orchidPrefix.Contains(a) || a.As16()[3] != 0x21 {
		t.Errorf("ORCHID %v: prefix or OGA ID is wrong", a)
	}
}

func TestAddresses(t *testing.T) {
	table := testTable(t, Config{Prefix4: netip.MustParsePrefix("10.7.0.0/16")})
	v4, v6 := table.Self()
	if v4.String() != "10.7.0.1" || table.Resolver().String() != "10.7.0.53" {
		t.Errorf("self %v, resolver %v", v4, table.Resolver())
	}
	for _, a := range []netip.Addr{v4, v6, netip.AddrFrom16(v4.As16())} {
		if id, ok := table.Peer(a); !ok || id != table.self.peer {
			t.Errorf("Peer(%v) = %v, %v", a, id, ok)
		}
	}
	for n := range 100 {
		a, b, fresh, err := table.Assign(testPeer(n))
		if err != nil || !fresh || a == table.Resolver() {
			t.Fatalf("Assign %d = %v, %v, %v", n, a, fresh, err)
		}
		if again, _, fresh, _ := table.Assign(testPeer(n)); again != a || fresh {
			t.Fatalf("second Assign %d = %v, %v", n, again, fresh)
		}
		for _, addr := range []netip.Addr{a, b} {
			if id, ok := table.Peer(addr); !ok || id != testPeer(n) {
				t.Fatalf("Peer(%v) = %v, %v", addr, id, ok)
			}
		}
		if x, y, ok := table.Of(testPeer(n)); x != a || y != b || !ok {
			t.Fatalf("Of = %v, %v, %v", x, y, ok)
		}
	}
	for _, s := range []string{"10.7.0.0", "10.7.255.255", "10.7.0.53", "10.8.0.1", "::1"} {
		if id, ok := table.Peer(netip.MustParseAddr(s)); ok {
			t.Errorf("Peer(%s) = %v", s, id)
		}
	}
	if _, ok := table.Peer(netip.Addr{}); ok {
		t.Error("the zero address has a peer")
	}
}

func TestBadPrefixes(t *testing.T) {
	for _, s := range []string{"10.0.0.0/30", "10.0.0.0/7", "2001:db8::/32", "127.0.0.0/16", "224.0.0.0/16", "169.254.0.0/16"} {
		if _, err := New(Config{Prefix4: netip.MustParsePrefix(s), Self: testPeer(0)}); err == nil {
			t.Errorf("prefix %s was taken", s)
		}
	}
	if _, err := New(Config{}); err == nil {
		t.Error("a table without own peer ID")
	}
}

func TestReuse(t *testing.T) {
	c := &clock{time.Unix(1e9, 0)}
	table := testTable(t, Config{Prefix4: netip.MustParsePrefix("10.0.0.0/29"), Now: c.now})
	for n := range 4 {
		mustAssign(t, table, testPeer(n))
		c.t = c.t.Add(time.Second)
	}
	refused := func(when string) {
		t.Helper()
		if _, _, _, err := table.Assign(testPeer(9)); !errors.Is(err, ErrExhausted) {
			t.Fatalf("%s: %v, want ErrExhausted", when, err)
		}
	}
	refused("under lease")
	table.Pin(testPeer(0))
	table.Pin(testPeer(0))
	table.Unpin(testPeer(0))
	c.t = c.t.Add(DefaultTTL)
	for n := 1; n < 4; n++ {
		mustAssign(t, table, testPeer(n)) // renewed: only peer 0 is old
	}
	c.t = c.t.Add(DefaultQuarantine)
	refused("pinned, others leased")
	table.Unpin(testPeer(0))
	c.t = c.t.Add(DefaultTTL - time.Second)
	refused("quarantine") // peers 1 to 3 have a second to go
	c.t = c.t.Add(time.Second)
	old, old6, _ := table.Of(testPeer(1))
	if a := mustAssign(t, table, testPeer(9)); a != old {
		t.Errorf("reused %v, not the least recently used %v", a, old)
	}
	if _, _, ok := table.Of(testPeer(1)); ok {
		t.Error("the former peer still has LSIs")
	}
	if _, ok := table.Peer(old6); ok {
		t.Error("the former peer's IPv6 LSI still leads to it")
	}
	c.t = c.t.Add(-time.Hour) // a clock set back neither frees nor breaks
	mustAssign(t, table, testPeer(2))
	if table.Pin(testPeer(1)) {
		t.Error("Pin of a peer without LSIs")
	}
	table.Unpin(testPeer(1))
}

// Flows that nobody pinned, the kernel's, keep their peer's LSIs as well.
func TestInUse(t *testing.T) {
	c := &clock{time.Unix(1e9, 0)}
	used := map[netip.Addr]bool{}
	table := testTable(t, Config{Prefix4: netip.MustParsePrefix("10.0.0.0/29"), Now: c.now, InUse: func() map[netip.Addr]bool { return used }})
	for n := range 4 {
		mustAssign(t, table, testPeer(n))
	}
	v4, _, _ := table.Of(testPeer(0))
	_, v6, _ := table.Of(testPeer(1))
	used[v4], used[v6] = true, true
	c.t = c.t.Add(DefaultTTL + DefaultQuarantine)
	for n, former := range []int{2, 3} {
		want, _, _ := table.Of(testPeer(former))
		if a := mustAssign(t, table, testPeer(10+n)); a != want {
			t.Errorf("reused %v, not %v, which nobody uses", a, want)
		}
	}
	if _, _, _, err := table.Assign(testPeer(12)); !errors.Is(err, ErrExhausted) {
		t.Errorf("all others in use: %v", err)
	}
	clear(used)
	c.t = c.t.Add(DefaultTTL + DefaultQuarantine)
	if a := mustAssign(t, table, testPeer(12)); a != v4 {
		t.Errorf("reused %v, not %v, whose flows have ended", a, v4)
	}
}

func TestCollision(t *testing.T) {
	table := testTable(t, Config{})
	one := orchid([32]byte{}, testPeer(1))
	table.orchid = func([32]byte, peerid.ID) netip.Addr { return one }
	_, a, _, _ := table.Assign(testPeer(1))
	v4, b, _, err := table.Assign(testPeer(2))
	if a != one || b.IsValid() || !v4.IsValid() || err != nil {
		t.Errorf("first %v, second %v, %v, %v", a, v4, b, err)
	}
	if id, _ := table.Peer(one); id != testPeer(1) {
		t.Errorf("Peer = %v", id)
	}
}

func TestRestart(t *testing.T) {
	c := &clock{time.Unix(1e9, 0)}
	p := netip.MustParsePrefix("10.0.0.0/29")
	first := testTable(t, Config{Prefix4: p, Now: c.now})
	want := map[peerid.ID]netip.Addr{}
	for _, n := range []int{3, 1, 2} {
		want[testPeer(n)] = mustAssign(t, first, testPeer(n))
		c.t = c.t.Add(time.Minute)
	}
	saved := first.Entries()
	first.Close()
	second := testTable(t, Config{Prefix4: p, Now: c.now, Saved: append(saved, saved[0], Entry{})})
	for id, a := range want {
		if got, _, ok := second.Of(id); got != a || !ok {
			t.Errorf("after restart %v, before %v", got, a)
		}
	}
	mustAssign(t, second, testPeer(7))
	if _, _, _, err := second.Assign(testPeer(8)); !errors.Is(err, ErrExhausted) {
		t.Errorf("a lease ended with the restart: %v", err)
	}
	moved := testTable(t, Config{Prefix4: netip.MustParsePrefix("10.9.0.0/24"), Now: c.now, Saved: saved})
	for id := range want {
		if got, _, ok := moved.Of(id); !ok || !moved.prefix.Contains(got) {
			t.Errorf("in another prefix: %v, %v", got, ok)
		}
	}
}

func TestPrefixesOfOneProcess(t *testing.T) {
	tables := make([]*Table, 3)
	for i := range tables {
		tables[i] = testTable(t, Config{})
	}
	if tables[0].prefix == tables[1].prefix {
		t.Errorf("two tables share %v while another is free", tables[0].prefix)
	}
	for _, table := range tables {
		table.Close()
		table.Close()
	}
	if len(taken.n) != 0 {
		t.Errorf("still taken: %v", taken.n)
	}
	if _, _, _, err := tables[0].Assign(testPeer(0)); !errors.Is(err, ErrClosed) {
		t.Errorf("Assign after Close: %v", err)
	}
	hinted := testTable(t, Config{Saved: []Entry{{Peer: testPeer(0), V4: netip.MustParseAddr("198.19.0.9")}}})
	if a, _, _ := hinted.Of(testPeer(0)); a.String() != "198.19.0.9" {
		t.Errorf("saved LSI became %v", a)
	}
}

func TestUnknownAllocateNothing(t *testing.T) {
	table := testTable(t, Config{})
	mustAssign(t, table, testPeer(0))
	r := rand.New(rand.NewPCG(1, 2))
	p6 := orchidPrefix.Addr().As16()
	one := func() {
		a := [4]byte{198, byte(18 + r.IntN(2)), byte(r.Uint32()), byte(r.Uint32())}
		table.Peer(netip.AddrFrom4(a))
		b := p6
		binary.BigEndian.PutUint64(b[8:], r.Uint64())
		table.Peer(netip.AddrFrom16(b))
		table.Of(testPeer(1 + r.IntN(1<<30)))
	}
	if n := yardstick.Allocs(1_000_000, one); n != 0 {
		t.Errorf("%v allocations per lookup", n)
	}
	if n, _ := table.Len(); n != 1 {
		t.Errorf("%d peers have LSIs, want 1", n)
	}
}

func TestConcurrent(t *testing.T) {
	table := testTable(t, Config{Prefix4: netip.MustParsePrefix("10.0.0.0/25"), TTL: 1, Quarantine: 1})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 0))
			for range 5000 {
				id := testPeer(r.IntN(400))
				v4, v6, _, err := table.Assign(id)
				if err != nil {
					continue
				}
				if table.Pin(id) {
					if a, b, ok := table.Of(id); !ok || table.span.addr(1) == a {
						t.Errorf("pinned peer has %v, %v, %v", a, b, ok)
					} else if got, ok := table.Peer(a); !ok || got != id {
						t.Errorf("pinned LSI %v leads elsewhere", a)
					}
					table.Unpin(id)
				}
				table.Peer(v4)
				table.Peer(v6)
				table.Entries()
			}
		})
	}
	wg.Wait()
}

// FuzzTable holds the table against a plain map.
func FuzzTable(f *testing.F) {
	f.Add([]byte{0, 1, 0, 2, 1, 1, 3, 200, 0, 3, 0, 4, 0, 5, 2, 1, 3, 255, 0, 6})
	f.Fuzz(func(t *testing.T, ops []byte) {
		c := &clock{time.Unix(1e9, 0)}
		table := testTable(t, Config{Prefix4: netip.MustParsePrefix("10.0.0.0/28"), Now: c.now})
		defer table.Close()
		type use struct {
			addr netip.Addr
			seen time.Time
			pins int
		}
		model := map[peerid.ID]*use{}
		for i := 0; i+1 < len(ops); i += 2 {
			id := testPeer(int(ops[i+1]) % 32)
			u := model[id]
			switch ops[i] % 4 {
			case 0:
				a, _, fresh, err := table.Assign(id)
				if err != nil {
					for _, u := range model {
						if u.pins == 0 && c.t.Sub(u.seen) >= DefaultTTL+DefaultQuarantine {
							t.Fatalf("exhausted although one could be reused: %v", err)
						}
					}
					continue
				}
				if fresh == (u != nil) || u != nil && u.addr != a {
					t.Fatalf("Assign = %v, fresh %v; had %+v", a, fresh, u)
				}
				if u == nil {
					for other, o := range model {
						if o.addr == a {
							if o.pins > 0 || c.t.Sub(o.seen) < DefaultTTL+DefaultQuarantine {
								t.Fatalf("%v taken from a peer that uses it", a)
							}
							delete(model, other)
						}
					}
					u = &use{addr: a}
					model[id] = u
				}
				u.seen = c.t
			case 1:
				if table.Pin(id) != (u != nil) {
					t.Fatal("Pin disagrees")
				}
				if u != nil {
					u.pins++
				}
			case 2:
				table.Unpin(id)
				if u != nil && u.pins > 0 {
					if u.pins--; u.pins == 0 {
						u.seen = c.t
					}
				}
			case 3:
				c.t = c.t.Add(time.Duration(ops[i+1]) * 10 * time.Second)
			}
		}
		if n, _ := table.Len(); n != len(model) || len(table.Entries()) != n {
			t.Fatalf("%d entries, want %d", n, len(model))
		}
		for id, u := range model {
			if got, ok := table.Peer(u.addr); !ok || got != id {
				t.Fatalf("Peer(%v) = %v, %v", u.addr, got, ok)
			}
		}
	})
}

func BenchmarkLookup(b *testing.B) {
	table := testTable(b, Config{})
	for n := range 60000 {
		mustAssign(b, table, testPeer(n))
	}
	v4, v6, _ := table.Of(testPeer(30000))
	for _, bench := range []struct {
		name string
		f    func()
	}{
		{"Peer4", func() { table.Peer(v4) }},
		{"Peer6", func() { table.Peer(v6) }},
		{"Of", func() { table.Of(testPeer(30000)) }},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				bench.f()
			}
		})
	}
}
