package main

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
)

func TestPicture(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 12, 1, 12, 0, 0, 0, time.Local)
	id := func(b byte) idloc.PeerID { return idloc.PeerID{b, 1} }
	peer := func(b byte, name, lsi string) idloc.Peer {
		p := idloc.Peer{ID: id(b), Name: name}
		if lsi != "" {
			p.LSI4 = netip.MustParseAddr(lsi)
		}
		return p
	}
	at := netip.MustParseAddrPort
	s := idloc.Status{
		Self: idloc.SelfStatus{
			Peer: peer(1, "earth.example.com", "198.18.0.1"), Port: 4000, Addrs: []netip.AddrPort{at("192.0.2.1:4000"), at("[2001:db8::1]:4000")},
			Founder: true, Server: true, Reached: true, NAT: "none", NotAfter: now.Add(29*24*time.Hour + time.Hour), Warnings: []string{"Config.Dir is open"},
		},
		Peers: []idloc.PeerStatus{
			{Peer: peer(2, "mars.example.com", "198.18.0.2"), Connected: true, RTT: 1234 * time.Microsecond, BytesSent: 999, BytesReceived: 1_250_000,
				Paths: []idloc.PathStatus{{Kind: "relayed", Via: id(3)}, {Kind: "direct", Remote: at("203.0.113.9:77"), Active: true}}},
			{Peer: peer(3, "venus.example.com", "198.18.0.3"), Connected: true, RTT: 80 * time.Millisecond, BytesSent: 123_456,
				Paths: []idloc.PathStatus{{Kind: "relayed", Via: id(2), Active: true}}},
			{Peer: peer(4, "luna.example.com", "198.18.0.4"), Contact: idloc.ContactStatus{Addr: at("203.0.113.7:1"), RTT: 12 * time.Millisecond}},
			{Peer: peer(5, "", ""), LastError: "offer: the peer is offline"},
		},
	}
	last := id(5).String()
	last = "…" + last[len(last)-8:]
	want := `earth.example.com  198.18.0.1  founder, serves the database
│  UDP port 4000 at 192.0.2.1, 2001:db8::1
│  reached by members unasked; NAT: none
│  membership until 2026-12-30 13:00, 29 days left
│  page at 127.0.0.1:8080
│  tcp at 127.0.0.1:5000 goes to mars:22
│  WARNING: Config.Dir is open
│
├━━ mars.example.com   198.18.0.2      direct, 203.0.113.9:77  1.2 ms  ↑ 999 B  ↓ 1.2 MB
├┅┅ venus.example.com  198.18.0.3      relayed by mars.example.com  80 ms  ↑ 123 kB  ↓ 0 B
├── luna.example.com   198.18.0.4      connected, no pipe; at 203.0.113.7:1  12 ms
└ × ` + last + `          –               not connected
                         last: offer: the peer is offline
`
	var out strings.Builder
	picture(&out, gatewayStatus{s, []service{{What: "page", Addr: "127.0.0.1:8080"}, {What: "tcp", Addr: "127.0.0.1:5000", To: "mars:22"}}}, now)
	if out.String() != want {
		t.Errorf("the picture is\n%s\nwant\n%s", out.String(), want)
	}

	s = idloc.Status{Self: idloc.SelfStatus{Peer: peer(1, "mars.example.com", "198.18.0.1"), Port: 4000, Alone: true, AloneWhy: "nobody answers", NotAfter: now.Add(-time.Hour)}}
	want = `mars.example.com  198.18.0.1  member, not confirmed yet
│  UDP port 4000 at no address
│  ALONE: no member is reached, trying on: nobody answers
│  membership until 2026-12-01 11:00, OVER
╵  no other member is known
`
	out.Reset()
	picture(&out, gatewayStatus{Status: s}, now)
	if out.String() != want {
		t.Errorf("the picture is\n%s\nwant\n%s", out.String(), want)
	}
}

func TestUnits(t *testing.T) {
	t.Parallel()
	for n, want := range map[uint64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 99_949: "99.9 kB", 99_950: "100 kB", 999_499: "999 kB", 999_500: "1.0 MB", 1e12: "1.0 TB", 5e15: "5000 TB"} {
		if got := size(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{-1: "OVER", time.Minute: "1 min left", 47 * time.Hour: "47 hours left", 48 * time.Hour: "2 days left"} {
		if got := left(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

// TestToken: a token is described from its argument and from standard input, and
// none of its secret is told.
func TestToken(t *testing.T) {
	t.Parallel()
	earth := up(t, t.TempDir(), "create", "-name", "earth", "example.com")
	token := strings.TrimSpace(must(t)(tell(t, earth.dir, "invite", "-relay", "-expires", "90m", "mars")))
	out := must(t)(tell(t, earth.dir, "token", token))
	for _, want := range []string{"admits     one member: mars.example.com\n", " min left\n", "issued by  an authority, such as the founder\n", "may        dial, listen, forward data for others\n", "members at 127.0.0.1:"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if all, _ := tell(t, earth.dir, "invitations"); !strings.Contains(all, strings.Fields(out[strings.Index(out, "\nID "):])[1]) {
		t.Errorf("the ID in\n%s\nis not in\n%s", out, all)
	}
	if strings.Contains(out, token[20:40]) {
		t.Errorf("the token is in\n%s", out)
	}
	var later strings.Builder
	if err := describe(&later, token, false, time.Now().Add(2*time.Hour)); err != nil || !strings.Contains(later.String(), "OVER: ask for another") {
		t.Errorf("a token that has expired: %v\n%s", err, later.String())
	}
	later.Reset()
	if err := describe(&later, token, true, time.Now()); err != nil || !strings.Contains(later.String(), `"name": "mars"`) {
		t.Errorf("JSON: %v\n%s", err, later.String())
	}
	if out, err := tell(t, earth.dir, "token", "hello"); err == nil || !strings.Contains(out, "not an idloc token") {
		t.Errorf("no token: %v, %s", err, out)
	}
}
