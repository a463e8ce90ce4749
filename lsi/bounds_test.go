package lsi

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/peerid"
)

// The ORCHID of a peer is what RFC 7343 says, computed outside of this program:
// 2001:20::/28, OGA ID 1, the middle 96 bits of the hash.
func TestORCHIDVector(t *testing.T) {
	var overlay [32]byte
	var peer peerid.ID
	for i := range 32 {
		overlay[i], peer[i] = byte(i), byte(0x40+i)
	}
	if got, want := orchid(overlay, peer), netip.MustParseAddr("2001:21:75ef:28df:fd0:5573:7d5b:bc3a"); got != want {
		t.Errorf("%v, want %v", got, want)
	}
	if orchidPrefix != netip.MustParsePrefix("2001:20::/28") || ogaSHA256 != 1 {
		t.Errorf("prefix %v, OGA ID %d", orchidPrefix, ogaSHA256)
	}
}

// Two saved entries with one address: the second peer gets another, and the first
// keeps it, whichever of them was seen later.
func TestSavedTwice(t *testing.T) {
	c := &clock{time.Unix(1e9, 0)}
	a := netip.MustParseAddr("10.0.0.9")
	first := Entry{Peer: testPeer(1), V4: a, Seen: c.t.Add(-2 * time.Minute)}
	second := Entry{Peer: testPeer(2), V4: a, Seen: c.t.Add(-time.Minute)}
	for _, saved := range [][]Entry{{first, second}, {second, first}} {
		table := testTable(t, Config{Prefix4: netip.MustParsePrefix("10.0.0.0/24"), Now: c.now, Saved: saved})
		one, _, ok1 := table.Of(testPeer(1))
		two, _, ok2 := table.Of(testPeer(2))
		if !ok1 || !ok2 || one != a || two == a {
			t.Errorf("%v and %v", one, two)
		}
		if id, ok := table.Peer(a); !ok || id != testPeer(1) {
			t.Errorf("%v leads to %v", a, id)
		}
		if n, _ := table.Len(); n != 2 {
			t.Errorf("%d entries", n)
		}
	}
}

// Saved addresses that are no peer's here give way: the node's own, the
// resolver's, the first and the last of the prefix, and what is no IPv4 address.
func TestSavedElsewhere(t *testing.T) {
	c := &clock{time.Unix(1e9, 0)}
	var saved []Entry
	addrs := []string{"10.0.0.0", "10.0.0.1", "10.0.0.53", "10.0.0.255", "10.0.1.0", "9.255.255.255", "2001:21::1", "::ffff:10.0.0.7"}
	for i, s := range addrs {
		saved = append(saved, Entry{Peer: testPeer(i), V4: netip.MustParseAddr(s), Seen: c.t})
	}
	saved = append(saved, Entry{Peer: testPeer(100), V4: netip.MustParseAddr("10.0.0.2"), Seen: c.t}, Entry{Peer: testPeer(101), Seen: c.t},
		Entry{V4: netip.MustParseAddr("10.0.0.4"), Seen: c.t})
	table := testTable(t, Config{Prefix4: netip.MustParsePrefix("10.0.0.0/24"), Now: c.now, Saved: saved})
	if a, _, ok := table.Of(testPeer(100)); !ok || a.String() != "10.0.0.2" {
		t.Errorf("what fits became %v", a)
	}
	seen := map[netip.Addr]bool{}
	for _, s := range saved[:len(saved)-1] {
		a, _, ok := table.Of(s.Peer)
		last := a.As4()[3]
		if !ok || seen[a] || !table.prefix.Contains(a) || last == 0 || last == 1 || last == 53 || last == 255 {
			t.Errorf("%v became %v", s.V4, a)
		}
		seen[a] = true
	}
	if n, _ := table.Len(); n != len(addrs)+2 {
		t.Errorf("%d entries", n)
	}
	self, _ := table.Self()
	if id, _ := table.Peer(self); id != table.self.peer {
		t.Error("the node's own LSI leads elsewhere")
	}
}

// When not all saved entries fit, those go first that lie in the prefix, then the
// ones seen longest ago; and none stays without a lease that ends.
func TestSavedTooMany(t *testing.T) {
	c := &clock{time.Unix(1e9, 0)}
	var saved []Entry
	for i := range 6 {
		saved = append(saved, Entry{Peer: testPeer(i), V4: netip.MustParseAddr("192.0.2.1"), Seen: c.t.Add(time.Duration(-i) * time.Second)})
	}
	inside := Entry{Peer: testPeer(50), V4: netip.MustParseAddr("10.0.0.5"), Seen: c.t.Add(time.Hour)} // of a clock that was ahead
	table := testTable(t, Config{Prefix4: netip.MustParsePrefix("10.0.0.0/29"), Now: c.now, Saved: append(saved, inside)})
	if a, _, ok := table.Of(testPeer(50)); !ok || a != inside.V4 {
		t.Errorf("%v became %v", inside.V4, a)
	}
	for i := range 6 {
		if _, _, ok := table.Of(testPeer(i)); ok != (i >= 3) {
			t.Errorf("peer %d has LSIs: %v", i, ok)
		}
	}
	if n, room := table.Len(); n != 4 || room != 4 {
		t.Errorf("%d of %d", n, room)
	}
	for _, e := range table.Entries() {
		want := c.t.UTC()
		if e.Peer != testPeer(50) {
			for _, s := range saved {
				if s.Peer == e.Peer {
					want = s.Seen.UTC()
				}
			}
		}
		if !e.Seen.Equal(want) {
			t.Errorf("%v was seen %v, want %v", e.Peer, e.Seen, want)
		}
	}
	// The one that was seen longest ago goes first, the one of the wrong clock
	// last.
	c.t = c.t.Add(DefaultTTL + DefaultQuarantine)
	for i, former := range []int{5, 4, 3, 50} {
		want, _, _ := table.Of(testPeer(former))
		if a := mustAssign(t, table, testPeer(60+i)); a != want {
			t.Errorf("reused %v, not %v of peer %d", a, want, former)
		}
	}
}

// Entries of pinned peers are seen now, those of others when their lease began;
// they are in order, without a monotonic clock, and without the node's own.
func TestEntriesSeen(t *testing.T) {
	start := time.Unix(1e9, 5)
	c := &clock{start}
	table := testTable(t, Config{Prefix4: netip.MustParsePrefix("10.0.0.0/22"), Now: c.now})
	mustAssign(t, table, testPeer(0))
	mustAssign(t, table, testPeer(1))
	if !table.Pin(testPeer(1)) || !table.Pin(table.self.peer) {
		t.Fatal("not pinned")
	}
	table.Unpin(table.self.peer)
	c.t = c.t.Add(time.Minute)
	mustAssign(t, table, testPeer(2))
	got := table.Entries()
	want := []Entry{
		{testPeer(0), netip.MustParseAddr("10.0.0.2"), start.UTC()},
		{testPeer(1), netip.MustParseAddr("10.0.0.3"), c.t.UTC()},
		{testPeer(2), netip.MustParseAddr("10.0.0.4"), c.t.UTC()},
	}
	if len(got) != len(want) {
		t.Fatal(got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%+v, want %+v", got[i], want[i])
		}
	}
	c.t = c.t.Add(time.Minute)
	table.Unpin(testPeer(1))
	table.Unpin(testPeer(1)) // one too many
	c.t = c.t.Add(time.Minute)
	if e := table.Entries()[1]; !e.Seen.Equal(start.Add(2 * time.Minute)) {
		t.Errorf("after Unpin: %v", e.Seen)
	}
	if err := func() error { _, _, _, err := table.Assign(peerid.ID{}); return err }(); !errors.Is(err, peerid.ErrInvalid) {
		t.Errorf("Assign of nobody: %v", err)
	}
}

// Pins of a peer are counted, also while others come and go.
func TestPins(t *testing.T) {
	c := &clock{time.Unix(1e9, 0)}
	table := testTable(t, Config{Prefix4: netip.MustParsePrefix("10.0.0.0/29"), Now: c.now, TTL: time.Second, Quarantine: time.Second})
	for n := range 4 {
		mustAssign(t, table, testPeer(n))
	}
	for range 3 {
		table.Pin(testPeer(2))
	}
	mustAssign(t, table, testPeer(2)) // a lease that begins anew while pinned
	c.t = c.t.Add(time.Hour)
	for i, former := range []int{0, 1, 3} {
		want, _, _ := table.Of(testPeer(former))
		if a := mustAssign(t, table, testPeer(10+i)); a != want {
			t.Errorf("reused %v, not %v", a, want)
		}
	}
	if _, _, _, err := table.Assign(testPeer(20)); !errors.Is(err, ErrExhausted) || err.Error() != "no free LSI: all 4 addresses of 10.0.0.0/29 are in use or in quarantine" {
		t.Errorf("one pinned, the others leased: %v", err)
	}
	table.Unpin(testPeer(2))
	table.Unpin(testPeer(2))
	c.t = c.t.Add(time.Second)
	if _, _, _, err := table.Assign(testPeer(20)); !errors.Is(err, ErrExhausted) {
		t.Errorf("still pinned once: %v", err)
	}
	want, _, _ := table.Of(testPeer(2))
	table.Unpin(testPeer(2))
	c.t = c.t.Add(2*time.Second - 1)
	for i := range 3 {
		mustAssign(t, table, testPeer(10+i)) // renewed
	}
	if _, _, _, err := table.Assign(testPeer(20)); !errors.Is(err, ErrExhausted) {
		t.Errorf("in quarantine: %v", err)
	}
	c.t = c.t.Add(1)
	if a := mustAssign(t, table, testPeer(20)); a != want {
		t.Errorf("reused %v, not %v", a, want)
	}
}

// A clock that is set back makes no lease longer than it would have been.
func TestClockSetBack(t *testing.T) {
	c := &clock{time.Unix(1e9, 0)}
	table := testTable(t, Config{Prefix4: netip.MustParsePrefix("10.0.0.0/29"), Now: c.now})
	mustAssign(t, table, testPeer(0))
	c.t = c.t.Add(-time.Hour)
	mustAssign(t, table, testPeer(1))
	for _, e := range table.Entries() {
		if !e.Seen.Equal(time.Unix(1e9, 0)) {
			t.Errorf("seen %v", e.Seen)
		}
	}
}

// All addresses of several pages lead to their peers, those of the last ones too;
// neighbours of the prefix lead to none.
func TestManyPages(t *testing.T) {
	for _, bits := range []int{22, 20} {
		base := netip.MustParsePrefix(fmt.Sprintf("10.64.0.0/%d", bits))
		table := testTable(t, Config{Prefix4: base})
		_, room := table.Len()
		if room != 1<<(32-bits)-4 || len(table.pages) != 1<<(32-bits)/256 {
			t.Fatalf("/%d: room for %d, %d pages", bits, room, len(table.pages))
		}
		seen := map[netip.Addr]peerid.ID{}
		for n := range room {
			a, b, fresh, err := table.Assign(testPeer(n))
			if err != nil || !fresh {
				t.Fatal(n, err)
			}
			if _, twice := seen[a]; twice || !base.Contains(a) || a == table.Resolver() {
				t.Fatalf("%v for peer %d", a, n)
			}
			seen[a], seen[b] = testPeer(n), testPeer(n)
		}
		if _, _, _, err := table.Assign(testPeer(room)); !errors.Is(err, ErrExhausted) {
			t.Errorf("one more than there is room for: %v", err)
		}
		for a, id := range seen {
			if got, ok := table.Peer(a); !ok || got != id {
				t.Fatalf("%v leads to %v", a, got)
			}
		}
		if got := table.Entries(); len(got) != room {
			t.Errorf("%d entries", len(got))
		} else {
			for i := 1; i < len(got); i++ {
				if !got[i-1].V4.Less(got[i].V4) {
					t.Fatalf("%v before %v", got[i-1].V4, got[i].V4)
				}
			}
		}
		last := netip.MustParseAddr(map[int]string{22: "10.64.4.0", 20: "10.64.16.0"}[bits])
		for _, a := range []netip.Addr{last, last.Prev(), base.Addr().Prev(), base.Addr()} {
			if id, ok := table.Peer(a); ok {
				t.Errorf("%v leads to %v", a, id)
			}
		}
	}
}

// Which prefixes are taken, both sides of each bound, and what is said of others.
func TestPrefixBounds(t *testing.T) {
	for s, says := range map[string]string{
		"10.0.0.0/8": "", "10.0.0.0/29": "", "10.1.2.3/24": "", "100.64.0.0/10": "",
		"10.0.0.0/7": "/8 to /29", "10.0.0.0/30": "/8 to /29", "2001:db8::/16": "IPv4", "::ffff:10.0.0.0/104": "IPv4",
		"0.0.0.0/8": "cannot be LSIs", "127.0.0.0/8": "cannot be LSIs", "224.0.0.0/8": "cannot be LSIs", "169.254.0.0/16": "cannot be LSIs",
	} {
		p := netip.MustParsePrefix(s)
		table, err := New(Config{Prefix4: p, Self: testPeer(0)})
		if says != "" {
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %v", s, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", s, err)
			continue
		}
		if v4, v6 := table.Prefixes(); v4 != p.Masked() || v6 != orchidPrefix {
			t.Errorf("%s: %v, %v", s, v4, v6)
		}
		table.Close()
	}
	if minBits != 8 || maxBits != 29 || selfOffset != 1 || resolverOffset != 53 {
		t.Error("an offset or a bound changed")
	}
	for s, want := range map[string]string{"10.0.0.0/29": "10.0.0.6", "10.0.0.0/26": "10.0.0.53", "10.0.0.0/27": "10.0.0.30", "10.3.0.0/16": "10.3.0.53"} {
		table := testTable(t, Config{Prefix4: netip.MustParsePrefix(s)})
		if got := table.Resolver(); got.String() != want {
			t.Errorf("%s: resolver %v", s, got)
		}
	}
	for _, bad := range []Config{{TTL: -1}, {Quarantine: -1}} {
		bad.Self = testPeer(0)
		if _, err := New(bad); err == nil {
			t.Errorf("TTL %v, quarantine %v", bad.TTL, bad.Quarantine)
		}
	}
	want := [...]string{"198.18.0.0/16", "198.19.0.0/16"}
	for i, p := range defaultPrefixes {
		if p.String() != want[i] {
			t.Errorf("default prefix %v", p)
		}
	}
	if DefaultTTL != 5*time.Minute || DefaultQuarantine != 10*time.Minute {
		t.Error("a default changed")
	}
}

// The default prefix of a table is the one that the fewest overlap; saved entries
// decide ties only.
func TestDefaultPrefix(t *testing.T) {
	in19 := []Entry{{Peer: testPeer(0), V4: netip.MustParseAddr("198.19.0.9")}}
	first := testTable(t, Config{})
	if first.prefix != defaultPrefixes[0] {
		t.Errorf("the first table has %v", first.prefix)
	}
	second := testTable(t, Config{Saved: []Entry{{Peer: testPeer(0), V4: netip.MustParseAddr("198.18.0.9")}}})
	if second.prefix != defaultPrefixes[1] {
		t.Errorf("the second, whose entries lie in the first's, has %v", second.prefix)
	}
	wide := testTable(t, Config{Prefix4: netip.MustParsePrefix("198.19.128.0/17")})
	third := testTable(t, Config{Saved: in19})
	if third.prefix != defaultPrefixes[0] {
		t.Errorf("the third has %v, where two are", third.prefix)
	}
	for _, table := range []*Table{first, second, wide, third} {
		table.Close()
	}
	fourth := testTable(t, Config{Saved: in19})
	if fourth.prefix != defaultPrefixes[1] {
		t.Errorf("with all free, one whose entries lie in the second has %v", fourth.prefix)
	}
}

// An index holds what it was given through growth and removals, and stays as
// small as it may.
func TestIndex(t *testing.T) {
	x := newIndex(func(e *entry) peerid.ID { return e.peer })
	check := func(from, to int) {
		t.Helper()
		for n := range to {
			if got := x.get(testPeer(n)); (got != nil) != (n >= from) || got != nil && got.peer != testPeer(n) {
				t.Fatalf("%d of [%d, %d): %v", n, from, to, got)
			}
		}
	}
	if x.get(testPeer(0)) != nil || len(*x.table.Load()) != 64 {
		t.Error("an empty index")
	}
	var all []*entry
	for n := range 48 {
		all = append(all, &entry{peer: testPeer(n)})
		x.put(all[n])
	}
	if len(*x.table.Load()) != 64 || x.used != 48 || x.live != 48 {
		t.Errorf("%d slots, %d used, %d live", len(*x.table.Load()), x.used, x.live)
	}
	all = append(all, &entry{peer: testPeer(48)})
	x.put(all[48])
	if len(*x.table.Load()) != 256 || x.used != 49 || x.live != 49 {
		t.Errorf("one beyond three quarters: %d slots, %d used, %d live", len(*x.table.Load()), x.used, x.live)
	}
	check(0, 49)
	for n := range 40 {
		x.remove(all[n])
		x.remove(all[n])
	}
	check(40, 49)
	if x.live != 9 || x.used != 49 {
		t.Errorf("%d used, %d live", x.used, x.live)
	}
	for n := 49; n < 2000; n++ { // a few at a time: what went makes room
		all = append(all, &entry{peer: testPeer(n)})
		x.put(all[n])
		x.remove(all[n-9])
		if len(*x.table.Load()) > 256 {
			t.Fatalf("%d slots for %d entries", len(*x.table.Load()), x.live)
		}
	}
	check(1991, 2000)
}

// The node's own LSIs are nobody else's, however often it talks to itself, and
// however long ago that was.
func TestOwnStay(t *testing.T) {
	c := &clock{time.Unix(1e9, 0)}
	table := testTable(t, Config{Prefix4: netip.MustParsePrefix("10.0.0.0/29"), Now: c.now})
	own := testPeer(1 << 30)
	v4, v6 := table.Self()
	if !table.Pin(own) {
		t.Error("Pin of the node itself")
	}
	table.Unpin(own)
	for n := range 8 { // twice what there is room for
		if a := mustAssign(t, table, testPeer(n)); a == v4 {
			t.Errorf("peer %d has the node's own LSI", n)
		}
		c.t = c.t.Add(DefaultTTL + DefaultQuarantine)
	}
	for _, a := range []netip.Addr{v4, v6} {
		if id, ok := table.Peer(a); !ok || id != own {
			t.Errorf("%v leads to %v", a, id)
		}
	}
}
