package resolver

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

var spaces = regexp.MustCompile(`[ \t]+`)

// TestDig asks for every kind of answer with dig, over UDP and TCP: what an
// unmodified resolver reads of us, not what our own library does.
func TestDig(t *testing.T) {
	dig, err := exec.LookPath("dig")
	if err != nil {
		t.Skip("dig is not installed")
	}
	host, port, err := net.SplitHostPort(serve(t, testServer(t, upstream(t, make(chan string)))))
	if err != nil {
		t.Fatal(err)
	}
	const (
		v4zone = `18\.198\.in-addr\.arpa\.`
		soa    = ` IN SOA _dns\.example\.com\. hostmaster\.example\.com\. `
	)
	for _, c := range []struct {
		args   string   // dig's
		status string   // in its header
		want   []string // patterns that must be there, or, with "!", must not
	}{
		// Answers.
		{"mars.example.com A", "NOERROR", []string{`flags: qr aa rd ra;`, `mars\.example\.com\. 60 IN A 198\.18\.0\.2\n`}},
		{"mars.example.com AAAA", "NOERROR", []string{`60 IN AAAA 2001:21::2\n`}},
		{"mars.example.com TXT", "NOERROR", []string{`60 IN TXT "idloc=` + mars.String() + `"\n`}},
		{"mars.example.com ANY", "NOERROR", []string{`ANSWER: 3,`, `IN A `, `IN AAAA `, `IN TXT `}},
		{mars.Label() + ".example.com A", "NOERROR", []string{`60 IN A 198\.18\.0\.2\n`}},
		{"-x 198.18.0.2", "NOERROR", []string{`2\.0\.` + v4zone + ` 60 IN PTR mars\.example\.com\.\n`}},
		{"-x 2001:21::2", "NOERROR", []string{`60 IN PTR mars\.example\.com\.\n`}},
		{"-x 198.18.0.53", "NOERROR", []string{`IN PTR _dns\.example\.com\.\n`}},
		{"example.com SOA", "NOERROR", []string{`ANSWER: 1,`, `5` + soa}},
		{"example.com NS", "NOERROR", []string{`60 IN NS _dns\.example\.com\.\n`}},
		{"_dns.example.com A", "NOERROR", []string{`IN A 198\.18\.0\.53\n`}},
		{"18.198.in-addr.arpa SOA", "NOERROR", []string{v4zone + ` 5` + soa}},
		{"18.198.in-addr.arpa NS", "NOERROR", []string{`IN NS _dns\.example\.com\.\n`}},
		{"localhost A", "NOERROR", []string{`IN A 127\.0\.0\.1\n`}},
		{"good.net A", "NOERROR", []string{`60 IN A 192\.0\.2\.1\n`, `! aa`}},

		// No data: NOERROR, no answer, the zone's SOA with what may be remembered.
		{"mars.example.com MX", "NOERROR", []string{`ANSWER: 0, AUTHORITY: 1`, `example\.com\. 5` + soa}},
		{"mars.example.com HTTPS", "NOERROR", []string{`ANSWER: 0, AUTHORITY: 1`, soa}},
		{"example.com A", "NOERROR", []string{`ANSWER: 0, AUTHORITY: 1`, soa}},
		{"_dns.example.com AAAA", "NOERROR", []string{`ANSWER: 0, AUTHORITY: 1`, soa}},
		{"2.0.18.198.in-addr.arpa A", "NOERROR", []string{`ANSWER: 0, AUTHORITY: 1`, v4zone + ` 5` + soa}},
		{"0.18.198.in-addr.arpa PTR", "NOERROR", []string{`ANSWER: 0, AUTHORITY: 1`}}, // names lie below: RFC 8020

		// No such name: NXDOMAIN and the SOA.
		{"venus.example.com A", "NXDOMAIN", []string{`flags: qr aa rd ra;`, `AUTHORITY: 1`, `example\.com\. 5` + soa}},
		{"venus.example.com MX", "NXDOMAIN", []string{soa}},
		{"_sip._udp.mars.example.com SRV", "NXDOMAIN", []string{soa}},
		{"-- -x.example.com A", "NXDOMAIN", []string{soa}},
		{"-x 198.18.0.9", "NXDOMAIN", []string{v4zone + ` 5` + soa}},
		{"-x 2001:21::9", "NXDOMAIN", []string{soa}},
		{"mars.example.com.corp.example A", "NXDOMAIN", []string{`ANSWER: 0`}},
		{"x.onion A", "NXDOMAIN", nil},
		{"x.invalid A", "NXDOMAIN", nil},
		{"bad.net A", "NXDOMAIN", []string{`! aa`}},

		// Not known now: SERVFAIL and why (RFC 8914).
		{"down.example.com A", "SERVFAIL", []string{`! aa`, `AUTHORITY: 0`, `EDE: 0 \(Other\): \(too few replicas answered\)`}},
		{"full.example.com A", "SERVFAIL", []string{`EDE: 0 .*no LSI left`}},
		{"down.example.com.lan A", "SERVFAIL", nil},

		// What upstream may not say.
		{"rebind.net A", "NOERROR", []string{`IN A 192\.0\.2\.2\n`, `!198\.18`, `!mars`}},

		// Refused.
		{"example.com AXFR +noidnout", "", []string{`Transfer failed`}},
		{"-c CH version.bind TXT", "REFUSED", nil},
		{"-c ANY mars.example.com A", "REFUSED", nil},
		{"good.net A +norecurse", "REFUSED", nil},
		{"mars.example.com A +norecurse", "NOERROR", []string{`flags: qr aa ra;`, `198\.18\.0\.2`}},

		// EDNS (RFC 6891).
		{"mars.example.com A +noedns", "NOERROR", []string{`!OPT PSEUDOSECTION`, `198\.18\.0\.2`}},
		{"mars.example.com A +bufsize=4096", "NOERROR", []string{`EDNS: version: 0, flags:; udp: 1232`}},
		{"mars.example.com A +bufsize=0", "NOERROR", []string{`198\.18\.0\.2`}},
		{"mars.example.com A +dnssec", "NOERROR", []string{`flags: do; udp: 1232`}},
		{"mars.example.com A +ednsflags=0x7fff", "NOERROR", []string{`EDNS: version: 0, flags:; udp`}}, // unknown flags are not copied
		{"mars.example.com A +edns=1 +noednsnegotiation", "BADVERS", []string{`EDNS: version: 0`, `ANSWER: 0`}},
		{"mars.example.com A +ednsopt=65001:0102", "NOERROR", []string{`198\.18\.0\.2`, `!OPT=65001`}}, // unknown options are ignored
		{"mars.example.com A +cookie +nsid +subnet=192.0.2.0/24 +padding=128", "NOERROR", []string{`198\.18\.0\.2`}},

		// Case: the question's letters come back, in the owner of records too.
		{"mArS.eXAMple.cOM A", "NOERROR", []string{`;mArS\.eXAMple\.cOM\. IN A\n`, `\nmArS\.eXAMple\.cOM\. 60 IN A 198`}},
		{"eXample.com SOA", "NOERROR", []string{`\neXample\.com\. 5` + soa}},
		{"2.0.18.198.IN-addr.ARPA PTR", "NOERROR", []string{`\n2\.0\.18\.198\.IN-addr\.ARPA\. 60 IN PTR`}},
		{"VENUS.example.com A", "NXDOMAIN", []string{`;VENUS\.example\.com\.`}},
		{"GooD.Net A", "NOERROR", []string{`;GooD\.Net\.`, `\nGooD\.Net\. 60 IN A`}},

		// Truncation: TC without EDNS, and all of it by TCP.
		{"big.net TXT +ignore +notcp", "NOERROR", []string{`flags: qr tc rd ra;`, `rcvd: ([1-9]|[1-9][0-9]|1[01][0-9][0-9]|[1-9][0-9][0-9]|12[0-3][0-9])\n`}},
		{"big.net TXT +noedns +ignore +notcp", "NOERROR", []string{`flags: qr tc rd ra;`, `rcvd: ([1-9]|[1-9][0-9]|[1-4][0-9][0-9]|50[0-9]|51[012])\n`}},
		{"big.net TXT", "NOERROR", []string{`ANSWER: 100,`, `! tc `}},

		// Malformed.
		{"mars.example.com A +header-only", "FORMERR", []string{`QUERY: 0, ANSWER: 0`}},
		{"mars.example.com TYPE41 +noedns", "FORMERR", nil}, // OPT is no type to ask for
		{"mars.example.com A +opcode=NOTIFY", "NOTIMP", nil},
		{"mars.example.com A +opcode=UPDATE", "NOTIMP", nil},
		{"mars.example.com A +opcode=15", "NOTIMP", nil},
		{"mars.example.com A +zflag", "NOERROR", []string{`198\.18\.0\.2`}}, // a reserved bit, to be ignored
		{"mars.example.com A +aaflag +raflag +tcflag +cdflag +adflag", "NOERROR", []string{`198\.18\.0\.2`, `flags: qr aa rd ra cd;`}},
	} {
		t.Run(c.args, func(t *testing.T) {
			t.Parallel()
			for _, network := range []string{"+notcp", "+tcp"} {
				args := append([]string{"@" + host, "-p", port, "+time=60", "+tries=1", network}, strings.Fields(c.args)...)
				if strings.Contains(c.args, "+notcp") && network == "+tcp" {
					continue
				}
				if rest, ok := strings.CutPrefix(c.args, "-- "); ok { // a name that looks like a flag
					f := strings.Fields(rest)
					args = append(args[:5], "-q", f[0], "-t", f[1])
				}
				out, err := exec.CommandContext(t.Context(), dig, args...).CombinedOutput()
				if err != nil && c.status != "" {
					t.Fatalf("dig %v: %v: %s", args, err, out)
				}
				out = spaces.ReplaceAll(out, []byte(" ")) // dig aligns in columns
				if m := regexp.MustCompile(`status: ([A-Z0-9]+),`).FindSubmatch(out); c.status != "" && (m == nil || string(m[1]) != c.status) {
					t.Errorf("dig %v: want %s: %s", args, c.status, out)
				}
				for _, w := range c.want {
					p, not := strings.CutPrefix(w, "!")
					if regexp.MustCompile(p).Match(out) == not {
						t.Errorf("dig %v: %q: %s", args, w, out)
					}
				}
			}
		})
	}
}

// TestRawQueries sends what dig cannot, over UDP and TCP. The server answers
// FORMERR, or nothing to what is no query, and lives.
func TestRawQueries(t *testing.T) {
	addr := serve(t, testServer(t))
	q := ask("mars.example.com.", dns.TypeA)
	q.Id = 0x1d10
	good := pack(t, q)
	edit := func(at int, b ...byte) []byte {
		c := bytes.Clone(good)
		copy(c[at:], b)
		return c
	}
	type raw struct {
		desc  string
		b     []byte
		rcode int // -1: no answer
	}
	cases := []raw{
		{"nothing", nil, -1},
		{"a response", edit(2, 0x81), -1},
		{"a label of 64 bytes", edit(12, 64), dns.RcodeFormatError},
		{"a pointer to itself", edit(12, 0xc0, 12), dns.RcodeFormatError},
		{"a pointer beyond the end", edit(12, 0xff, 0xff), dns.RcodeFormatError},
		{"a reserved kind of label", edit(12, 0x80), dns.RcodeFormatError},
		{"two questions said, one there", edit(4, 0, 2), dns.RcodeFormatError},
		{"65,535 records said, none there", edit(10, 0xff, 0xff), dns.RcodeFormatError},
		{"an answer in the query", edit(6, 0, 1), dns.RcodeFormatError},
		{"a transfer", pack(t, ask("example.com.", dns.TypeIXFR)), dns.RcodeRefused},
		{"no question, no name", good[:12], dns.RcodeFormatError},
	}
	for n := range len(good) {
		rcode := dns.RcodeFormatError
		if n < headerLen {
			rcode = -1
		}
		cases = append(cases, raw{"cut", good[:n], rcode})
	}
	for _, c := range cases {
		for _, network := range []string{"udp", "tcp"} {
			conn, err := net.Dial(network, addr)
			if err != nil {
				t.Fatal(err)
			}
			conn.SetDeadline(time.Now().Add(2 * time.Minute))
			send := func(b []byte) {
				if network == "tcp" {
					b = frame(b)
				}
				if _, err := conn.Write(b); err != nil {
					t.Errorf("%s, %d bytes, %s: %v", c.desc, len(c.b), network, err)
				}
			}
			send(c.b)
			if c.rcode < 0 && network == "udp" {
				send(good) // whose answer is then the first to come
			}
			b := make([]byte, 4096)
			n, err := readMessage(conn, network, b)
			conn.Close()
			if c.rcode < 0 && network == "tcp" {
				if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("%s, %d bytes over TCP: %x, %v; want the end of the connection", c.desc, len(c.b), b[:n], err)
				}
				continue
			}
			want := max(c.rcode, 0)
			if err != nil || n < headerLen || b[2]&0x80 == 0 || int(b[3]&15) != want ||
				len(c.b) >= 2 && binary.BigEndian.Uint16(b) != binary.BigEndian.Uint16(c.b) {
				t.Errorf("%s, %d bytes over %s: %x, %v", c.desc, len(c.b), network, b[:n], err)
			}
		}
	}
}
