package idloctest_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	. "github.com/idloc/idloc/idloc/idloctest"

	"github.com/pion/transport/v3"
)

// peer is a host with one socket.
type peer struct {
	*Host
	transport.UDPConn
	t testing.TB
}

func newPeer(t testing.TB, h *Host) *peer {
	t.Helper()
	c, err := h.Net().ListenUDP("udp", &net.UDPAddr{IP: h.Addrs()[0].AsSlice()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &peer{h, c, t}
}

func (p *peer) at() netip.AddrPort { return p.LocalAddr().(*net.UDPAddr).AddrPort() }

func (p *peer) send(to netip.AddrPort, text string) {
	p.t.Helper()
	if _, err := p.WriteTo([]byte(text), net.UDPAddrFromAddrPort(to)); err != nil {
		p.t.Fatal(err)
	}
}

// recv returns what comes, "" if nothing does. On a perfect link whatever was
// sent is there already; still, what must come is waited for long, since this
// goroutine may sleep between setting a deadline and reading.
func (p *peer) recv(within time.Duration) (text string, from netip.AddrPort) {
	p.t.Helper()
	p.SetReadDeadline(time.Now().Add(within))
	b := make([]byte, 2000)
	n, a, err := p.ReadFromUDP(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return "", from
	}
	if err != nil {
		p.t.Fatal(err)
	}
	ap := a.AddrPort()
	return string(b[:n]), netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

const (
	soon     = 20 * time.Millisecond // for what must not come
	patience = 2 * time.Minute       // for what must, sooner or later; go test finds what hangs
)

// within is how long to wait for what must come, or must not.
func within(must bool) time.Duration {
	if must {
		return patience
	}
	return soon
}

// TestKinds holds each box to RFC 4787: how many mappings three destinations
// make, and who may send to them.
func TestKinds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind                          Kind
		mappings                      int
		samePort, otherPort, stranger bool // who gets in at the first mapping
	}{
		{FullCone, 1, true, true, true},
		{AddressRestricted, 1, true, true, false},
		{PortRestricted, 1, true, false, false},
		{Symmetric, 3, true, false, false},
		{Kind{Mapping: AddressDependent, Filtering: AddressDependent}, 2, true, true, false},
		{OneToOne, 1, true, true, true},
	} {
		t.Run(c.kind.String(), func(t *testing.T) {
			lab := New(t, Seed(1))
			in := newPeer(t, lab.Host("in", BehindNAT(c.kind)))
			a, b, x := newPeer(t, lab.Host("a")), newPeer(t, lab.Host("b")), newPeer(t, lab.Host("x"))
			a2 := newPeer(t, a.Host)
			seen := map[netip.AddrPort]bool{}
			var first netip.AddrPort
			for _, p := range []*peer{a, b, a2} {
				if p == a2 && c.mappings != 3 && c.kind.Filtering == AddressPortDependent {
					continue // do not open the filter for it
				}
				in.send(p.at(), "hello")
				text, from := p.recv(patience)
				if text != "hello" {
					t.Fatal("did not get out")
				}
				if seen[from] = true; !first.IsValid() {
					first = from
				}
			}
			if len(seen) != c.mappings {
				t.Errorf("%d mappings, want %d", len(seen), c.mappings)
			}
			for _, s := range []struct {
				who  *peer
				want bool
				what string
			}{{a, c.samePort, "whom it sent to"}, {a2, c.otherPort, "another port"}, {x, c.stranger, "a stranger"}} {
				s.who.send(first, "in")
				if text, from := in.recv(within(s.want)); (text == "in") != s.want || s.want && from != s.who.at() {
					t.Errorf("%s: got in %v, want %v", s.what, text == "in", s.want)
				}
			}
		})
	}
}

func TestRebindLifetimeAndHairpin(t *testing.T) {
	t.Parallel()
	lab := New(t, Seed(1))
	in := newPeer(t, lab.Host("in", BehindNAT(Kind{Lifetime: soon}, PortRestricted)))
	a := newPeer(t, lab.Host("a"))
	in.send(a.at(), "1")
	_, one := a.recv(patience)
	in.Rebind()
	a.send(one, "old")
	if text, _ := in.recv(soon); text != "" {
		t.Error("a forgotten mapping works")
	}
	in.send(a.at(), "2")
	_, two := a.recv(patience)
	if two == one || two.Addr() != one.Addr() {
		t.Errorf("rebound from %v to %v", one, two)
	}
	in.SetReadDeadline(time.Now().Add(2 * soon)) // the inner box's mapping ends
	in.ReadFromUDP(nil)
	a.send(two, "late")
	if text, _ := in.recv(soon); text != "" {
		t.Error("an expired mapping works")
	}

	box := lab.NAT(FullCone)
	b, c := newPeer(t, lab.Host("b", Behind(box))), newPeer(t, lab.Host("c", Behind(box)))
	b.send(a.at(), "who am I")
	_, outer := a.recv(patience)
	c.send(outer, "hairpin")
	if text, from := b.recv(patience); text != "hairpin" || from.Addr() != outer.Addr() {
		t.Errorf("%q from %v", text, from)
	}
}

// TestLink counts what arrives of many datagrams.
func TestLink(t *testing.T) {
	t.Parallel()
	const n = 2000
	for _, c := range []struct {
		name     string
		link     Link
		min, max int
	}{
		{"perfect", Link{}, n, n},
		{"loss", Link{Loss: 0.25}, n * 65 / 100, n * 85 / 100},
		{"bursts", Link{Loss: 0.12, Burst: 20}, n * 70 / 100, n * 98 / 100},
		{"duplicates", Link{Dup: 0.5}, n * 140 / 100, n * 160 / 100},
		{"reordering", Link{Reorder: 0.5}, n, n},
		{"too large", Link{MTU: 31}, 0, 0},
		{"just fits", Link{MTU: 32}, n, n},
		{"jitter", Link{Delay: time.Millisecond, Jitter: time.Millisecond}, n, n},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			lab := New(t, Seed(1))
			a, b := newPeer(t, lab.Host("a", Over(c.link))), newPeer(t, lab.Host("b"))
			for i := range n {
				a.send(b.at(), string([]byte{byte(i >> 8), byte(i), 0, 0}))
			}
			got, swapped, last := 0, 0, -1
			for {
				text, _ := b.recv(within(got < c.min))
				if text == "" {
					break
				}
				got++
				i := int(text[0])<<8 | int(text[1])
				if i < last {
					swapped++
				}
				last = i
			}
			if got < c.min || got > c.max {
				t.Errorf("%d of %d, want %d to %d", got, n, c.min, c.max)
			}
			if (swapped > 0) != (c.link.Reorder > 0) {
				t.Errorf("%d out of order", swapped)
			}
			if s := a.Sent(); s.Packets != n || s.Bytes != 4*n {
				t.Errorf("sent %+v", s)
			}
		})
	}
}

func TestFirewallCutAndFilter(t *testing.T) {
	t.Parallel()
	lab := New(t)
	a, b := newPeer(t, lab.Host("a")), newPeer(t, lab.Host("b"))
	w := newPeer(t, lab.Host("w", ReachesOnly(a.Host)))
	ok := func(from, to *peer, want bool, what string) {
		t.Helper()
		from.send(to.at(), "x")
		if text, _ := to.recv(within(want)); (text == "x") != want {
			t.Errorf("%s: passes %v, want %v", what, text == "x", want)
		}
	}
	ok(w, a, true, "to the one")
	ok(a, w, true, "from the one")
	ok(w, b, false, "to another")
	ok(b, w, false, "from another")
	lab.Cut(a.Host, b.Host)
	ok(a, b, false, "cut")
	lab.Heal(a.Host, b.Host)
	ok(a, b, true, "healed")
	lab.Filter(func(p Packet) bool { return p.From != a.Host || string(p.Payload) != "x" })
	ok(a, b, false, "filtered")
	ok(b, a, true, "not filtered")
}
