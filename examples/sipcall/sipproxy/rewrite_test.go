package sipproxy

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/emiago/sipgo/sip"
)

// here is a translator of a host on which venus is 198.18.0.1 and mars 198.18.0.7.
func here() *translator {
	at := map[string]netip.Addr{"venus.example.com": netip.MustParseAddr("198.18.0.1"), "mars.example.com": netip.MustParseAddr("198.18.0.7")}
	return &translator{
		domain: "example.com",
		nameOf: func(a netip.Addr) string {
			for name, b := range at {
				if a == b {
					return name
				}
			}
			return ""
		},
		addrOf: func(_ context.Context, name string) (netip.Addr, bool) { a, ok := at[name]; return a, ok },
	}
}

var lines = []struct{ here, away string }{
	{"v=0", "v=0"},
	{"o=- 1 1 IN IP4 198.18.0.1", "o=- 1 1 IN IP4 venus.example.com"},
	{"c=IN IP4 198.18.0.7", "c=IN IP4 mars.example.com"},
	{"c=IN IP4 192.0.2.1", "c=IN IP4 192.0.2.1"},
	{"c=IN IP4 0.0.0.0", "c=IN IP4 0.0.0.0"},
	{"c=IN IP4 224.2.1.1/127", "c=IN IP4 224.2.1.1/127"},
	{"c=IN IP6 2001:21::1", "c=IN IP6 2001:21::1"},
	{"s=IN IP4 198.18.0.1", "s=IN IP4 198.18.0.1"},
	{"m=audio 4000 RTP/AVP 0 8", "m=audio 4000 RTP/AVP 0 8"},
	{"a=rtcp:4001 IN IP4 198.18.0.1", "a=rtcp:4001 IN IP4 venus.example.com"},
	{"a=rtcp:4001", "a=rtcp:4001"},
	{"a=candidate:1 1 UDP 1 198.18.0.1 4000 typ host", "a=candidate:1 1 UDP 1 venus.example.com 4000 typ host"},
	{"a=candidate:1 1 UDP 1 192.0.2.1 4000 typ srflx raddr 198.18.0.1 rport 4000", "a=candidate:1 1 UDP 1 192.0.2.1 4000 typ srflx raddr venus.example.com rport 4000"},
	{"a=note:198.18.0.1", "a=note:198.18.0.1"},
	{"", ""},
}

// TestRewrite: what leaves has names, and what comes back has the addresses that it had;
// nothing else changes, to the last byte.
func TestRewrite(t *testing.T) {
	t.Parallel()
	const head = "INVITE sip:fred@HERE:5070;transport=udp SIP/2.0\r\n" +
		"Via: SIP/2.0/UDP 198.18.0.1:5070;branch=z9hG4bKx\r\n" +
		"Record-Route: <sip:HERE;lr>\r\nRoute: <sip:THERE:5080;lr>\r\nContact: \"Wilma\" <sip:wilma@HERE:5070;ob>;q=0.5\r\n" +
		"From: <sip:wilma@198.18.0.1>;tag=a\r\nTo: <sip:fred@198.18.0.7>\r\nCall-ID: a@198.18.0.1\r\nCSeq: 1 INVITE\r\nContent-Type: application/SDP; x=y\r\n"
	var near, far strings.Builder
	for _, l := range lines {
		near.WriteString(l.here + "\r\n")
		far.WriteString(l.away + "\r\n")
	}
	build := func(here, there, body string) *sip.Request {
		m, err := sip.ParseMessage([]byte(strings.NewReplacer("THERE", there, "HERE", here).Replace(head) + "\r\n" + body))
		if err != nil {
			t.Fatal(err)
		}
		m.SetBody([]byte(body)) // its length
		return m.(*sip.Request)
	}
	m := build("198.18.0.1", "198.18.0.7", near.String())
	here().outward(m)
	if want := build("venus.example.com", "mars.example.com", far.String()).String(); m.String() != want {
		t.Errorf("outward:\n%s\nwant\n%s", m, want)
	}
	here().inward(t.Context(), m)
	if want := build("198.18.0.1", "198.18.0.7", near.String()).String(); m.String() != want {
		t.Errorf("inward:\n%s\nwant\n%s", m, want)
	}
}

// TestRewriteBounds: a message has few names looked up, and each once.
func TestRewriteBounds(t *testing.T) {
	t.Parallel()
	asked := 0
	tr := &translator{domain: "example.com", addrOf: func(context.Context, string) (netip.Addr, bool) { asked++; return netip.Addr{}, false }}
	var body strings.Builder
	for i := range 1000 {
		body.WriteString("c=IN IP4 x" + strings.Repeat("y", i%50) + ".example.com\r\n")
	}
	m := sip.NewRequest(sip.INVITE, sip.Uri{Host: "mars.example.com"})
	ct := sip.ContentTypeHeader("application/sdp")
	m.AppendHeader(&ct)
	m.SetBody([]byte(body.String()))
	tr.inward(t.Context(), m)
	if asked != namesMax || string(m.Body()) != body.String() {
		t.Errorf("%d names are looked up, want %d", asked, namesMax)
	}
}

func FuzzSDP(f *testing.F) {
	for _, l := range lines {
		f.Add(l.here)
		f.Add(l.away + "\r\n" + l.here)
	}
	f.Fuzz(func(t *testing.T, body string) {
		if same := changeSDP(body, func(host string) string { return host }); same != body {
			t.Errorf("%q becomes %q", body, same)
		}
		changed := changeSDP(body, func(string) string { return "x" })
		if strings.Count(changed, "\n") != strings.Count(body, "\n") {
			t.Errorf("%q becomes %q", body, changed)
		}
	})
}

func TestWeight(t *testing.T) {
	t.Parallel()
	for info, want := range map[string]int{"": 1000, "q=1": 1000, "q=0.7": 700, "q=0": 0, "q=0.001": 1, "q=2": 1000, "q=-1": 1000, "q=NaN": 1000, "q=x": 1000, "port=1": 1000} {
		if got := weight(info); got != want {
			t.Errorf("%q: %d, want %d", info, got, want)
		}
	}
	for thousandths, want := range map[int]string{0: "0", 1: "0.001", 250: "0.25", 700: "0.7", 1000: "1"} {
		if got := quality(thousandths); got != want || weight("q="+got) != thousandths {
			t.Errorf("%d: %q, want %q", thousandths, got, want)
		}
	}
}
