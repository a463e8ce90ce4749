package grants

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/idloc/idloc/overlay/membership"
)

// TestErrors: each says what was expected and what stands there.
func TestErrors(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 64)
	for _, test := range []struct{ text, want string }{
		// The first word.
		{"venus may open tcp 22 at mars", `line 1: expected "allow", "expect" or "tag", found "venus"`},
		{"deny venus to open tcp 22 at mars", `found "deny": what no rule allows is not allowed`},
		{"Permit venus to open tcp 22 at mars", `found "permit": write "allow"`},
		{"test venus may open tcp 22 at mars", `found "test": write "expect"`},
		{", allow", `expected "allow", "expect" or "tag", found ","`},

		// Who.
		{"allow", `expected a name, tag:NAME or everybody, found the end of the line`},
		{"allow to open tcp 22 at mars", `expected a name, tag:NAME or everybody before "to open"`},
		{"allow venus, to open tcp 22 at mars", `expected a name, tag:NAME or everybody before "to open"`},
		{"allow venus,,mars to open tcp 22 at mars", `expected a name, tag:NAME or everybody, found ","`},
		{"allow venus pluto to open tcp 22 at mars", `expected a comma or "to", found "pluto"`},
		{"allow venus, new only to open tcp at mars", `expected a comma or "to", found ", new only"`},
		{"allow * to open tcp 22 at mars", `found "*": write "everybody"`},
		{"allow venus, Venus to open tcp 22 at mars", `"venus" stands there twice`},
		{"allow venus, venus.example.internal to open tcp 22 at mars", `"venus.example.internal" stands there twice`},
		{"allow everybody, everybody to open tcp 22 at mars", `"everybody" stands there twice`},

		// Names and tags.
		{"allow ve_nus to open tcp 22 at mars", `no name of a member: not a host label: "ve_nus": only a-z, 0-9 and hyphens`},
		{"allow -venus to open tcp 22 at mars", `"-venus": begins or ends with a hyphen`},
		{"allow " + long + " to open tcp 22 at mars", `longer than 63 characters`},
		{"allow " + strings.Repeat(long, 4) + " to open tcp 22 at mars", `not a host label: "` + long[:maxQuoted] + `"… is longer than 253 characters`},
		{"allow k51qzi5uqu5dh71qgwangrt6r0nd4094i88nsady6qgd1dhjcyfsaf to open tcp 22 at mars", `looks like a peer ID`},
		{"allow tag: web to open tcp 22 at mars", `"tag:" names no tag: write it without a space, such as "tag:web"`},
		{"allow tag:we_b to open tcp 22 at mars", `no tag: not a host label: "we_b"`},
		{"allow tag:tag:web to open tcp 22 at mars", `no tag: not a host label: "tag:web"`},
		{"allow tag:web.example.internal to open tcp 22 at mars", `no tag: not a host label`},
		{"allow group:web to open tcp 22 at mars", `expected a name, tag:NAME or everybody, found "group:web"`},
		{"allow mars:22 to open tcp 22 at mars", `found "mars:22"`},
		{"allow venus.example.com to open tcp 22 at mars", `"venus.example.com" is not below "example.internal"`},
		{"allow example.internal to open tcp 22 at mars", `"example.internal" is not below "example.internal"`},
		{"allow a.venus.example.internal to open tcp 22 at mars", `"a.venus": only a-z`},
		{"allow .example.internal to open tcp 22 at mars", `not a host label: "": empty`},
		{"allow 10.0.0.1 to open tcp 22 at mars", `"10.0.0.1" is not below`},
		{"allow v\u0435nus to open tcp 22 at mars", `"v\u0435nus" has a character that is not ASCII, which only a comment may have`}, // Cyrillic
		{"allow venu\u017f to open tcp 22 at mars", `"venu\u017f" has a character`},                                                  // lower case of it is s
		{"allow \u212aate to open tcp 22 at mars", `"\u212aate" has a character`},                                                    // and of it k
		{"allow venus\u00a0to open tcp 22 at mars", `"venus\u00a0to" has a character`},
		{"allow \uff41 to open tcp 22 at mars", `"\uff41" has a character`},

		// Keywords.
		{"allow venus open tcp 22 at mars", `expected a comma or "to", found "open"`},
		{"allow venus to tcp 22 at mars", `expected "open", found "tcp"`},
		{"allow venus to", `expected "open", found the end of the line`},
		{"allow venus to open tcp 22 on mars", `expected a comma or "at", found "on"`},
		{"allow venus to open tcp 22", `expected a comma or "at", found the end of the line`},

		// What.
		{"allow venus to open", `expected tcp, udp or everything, found the end of the line`},
		{"allow venus to open at mars", `expected tcp, udp or everything, found "at"`},
		{"allow venus to open tcp 22, at mars", `expected tcp, udp or everything, found "at"`},
		{"allow venus to open tcp 22,, udp at mars", `expected tcp, udp or everything, found ","`},
		{"allow venus to open icmp at mars", `found "icmp"`},
		{"allow venus to open any at mars", `found "any": write "everything"`},
		{"allow venus to open 22 at mars", `found "22": write each port with its network, such as "tcp 80"`},
		{"allow venus to open * at mars", `found "*": write "everything"`},
		{"allow venus to open all at mars", `found "all": write "everything"`},
		{"allow venus to open anything at mars", `found "anything": write "everything"`},
		{"allow venus to open tcp :80 at mars", `expected a comma or "at", found ":80"`},
		{"allow venus to open tcp ports 22 at mars", `expected a number after "tcp", found "ports": write "tcp 80"`},
		{"allow venus to open tcp", `expected a comma or "at", found the end of the line`},
		{"allow venus to open port 22 at mars", `found "port": write each port with its network`},
		{"allow venus to open tcp port 22 at mars", `expected a number after "tcp", found "port": write "tcp 80"`},
		{"allow venus to open tcp 22, 80 at mars", `found "80": write each port with its network`},
		{"allow venus to open tcp 22 80 at mars", `expected a comma or "at", found "80": write each port with its network, such as "tcp 80, tcp 443"`},
		{"allow venus to open everything 80 at mars", `expected a comma or "at", found "80"`},
		{"allow venus to open tcp:22 at mars", `found "tcp:22": write a space between network and port, such as "tcp 80"`},
		{"allow venus to open udp/53 at mars", `such as "udp 80"`},
		{"allow venus to open 53/udp at mars", `found "53/udp": write the network before the port, such as "udp 80"`},
		{"allow venus to open tcp 22, tcp 22 at mars", `"tcp 22" stands there twice`},
		{"allow venus to open udp 5, tcp 22, tcp 22-22 at mars", `"tcp 22-22" stands there twice`},
		{"allow venus to open tcp, tcp at mars", `"tcp" stands there twice`},
		{"allow venus to open everything, everything at mars", `"everything" stands there twice`},

		// Ports.
		{"allow venus to open tcp 0 at mars", `"0" is no port: ports are 1 to 65535`},
		{"allow venus to open tcp 65536 at mars", `"65536" is no port: ports are 1 to 65535`},
		{"allow venus to open tcp 99999999999999999999999 at mars", `is no port: ports are 1 to 65535`},
		{"allow venus to open tcp 080 at mars", `"080" is no port: write "80"`},
		{"allow venus to open tcp 0-90 at mars", `"0" is no port`},
		{"allow venus to open tcp 80-70000 at mars", `"70000" is no port`},
		{"allow venus to open tcp 80-http at mars", `"http" is no port: a port is a number`},
		{"allow venus to open tcp 8o at mars", `"8o" is no port: a port is a number`},
		{"allow venus to open tcp 1_0 at mars", `"1_0" is no port: a port is a number`},
		{"allow venus to open tcp http at mars", `expected a comma or "at", found "http"`},
		{"allow venus to open tcp 90-80 at mars", `"90-80" is no range: write "80-90"`},
		{"allow venus to open tcp 80-90-100 at mars", `"90-100" is no port`},
		{"allow venus to open tcp 80- at mars", `a port is missing in "80-": write a range without spaces, such as "80-90"`},
		{"allow venus to open tcp -80 at mars", `a port is missing in "-80"`},
		{"allow venus to open tcp - at mars", `a port is missing in "-"`},
		{"allow venus to open tcp 80 - 90 at mars", `found "-": write a range without spaces, such as "80-90"`},
		{"allow venus to open tcp 80- 90 at mars", `a port is missing in "80-"`},

		// At whom, and the end.
		{"allow venus to open tcp 22 at", `expected a name, tag:NAME or everybody, found the end of the line`},
		{"allow venus to open tcp 22 at mars,", `expected a name, tag:NAME or everybody, found the end of the line`},
		{"allow venus to open tcp 22 at mars pluto", `expected a comma or the end of the line, found "pluto"`},
		{"allow venus to open tcp 22 at mars, mars", `"mars" stands there twice`},
		{"allow venus to open tcp 22 at mars new only", `a comma is missing before "new only"`},
		{"allow venus to open tcp 22 at new only", `expected a name, tag:NAME or everybody before "new only"`},
		{"allow venus to open tcp 22 at , new only", `expected a name, tag:NAME or everybody, found ", new only"`},
		{"allow venus to open tcp 22 at mars, new only, pluto", `expected the end of the line after "new only", found ","`},
		{"allow venus to open tcp 22 at mars, new only today", `expected the end of the line after "new only", found "today"`},
		{"allow venus to open tcp 22 at mars, new only, new only", `expected the end of the line after "new only", found ", new only"`},
		{"allow venus to open tcp 22, new only at mars", `expected a comma or "at", found ", new only"`},

		// Expectations.
		{"expect", `expected a name, tag:NAME or everybody, found the end of the line`},
		{"expect may open tcp 22 at mars", `expected a name, tag:NAME or everybody before "may open"`},
		{"expect may not open tcp 22 at mars", `expected a name, tag:NAME or everybody before "may not"`},
		{"expect venus can open tcp 22 at mars", `expected "may", found "can"`},
		{"expect venus may tcp 22 at mars", `expected "open", found "tcp"`},
		{"expect venus may not", `expected "open", found the end of the line`},
		{"expect venus may open", `expected tcp, udp or everything, found the end of the line`},
		{"expect venus may open tcp 22", `expected "at", found the end of the line`},
		{"expect venus may open tcp 22 at", `expected a name, tag:NAME or everybody, found the end of the line`},
		{"expect venus, pluto may open tcp 22 at mars", `an expectation has no lists: write a line for each`},
		{"expect venus may open tcp 22, tcp 23 at mars", `an expectation has no lists`},
		{"expect venus may open tcp 22 at mars, pluto", `an expectation has no lists`},
		{"expect venus may open tcp 22 at mars, new only", `expected the end of the line, found ", new only"`},
		{"expect venus may open tcp 22 at mars today", `expected the end of the line, found "today"`},
		{"expect ve_nus may open tcp 22 at mars", `not a host label: "ve_nus"`},
		{"expect venus may open tcp 0 at mars", `"0" is no port`},
		{"expect venus may open tcp 22 at ma_rs", `not a host label: "ma_rs"`},
		{"expect everybody may not open tcp 22 at mars", `"everybody" cannot stand beside "may not"`},
		{"expect venus may not open tcp 22 at everybody", `"everybody" cannot stand beside "may not"`},

		// What cannot be seen.
		{"# a\x00b", `the character U+0000 may not stand in a policy`},
		{"allow everybody to open everything at everybody\rallow venus to open tcp 22 at mars", `the character U+000D may not stand`},
		{"# \x1b[2K", `the character U+001B may not stand`},
		{"# \u202e", `the character U+202E may not stand`},
		{"# \u2066", `the character U+2066 may not stand`},
		{"# a\u2028allow", `the character U+2028 may not stand`},
		{"# a\u2029allow", `the character U+2029 may not stand`},
		{"# a\u0085allow", `the character U+0085 may not stand`},
		{"# a\xff", `not UTF-8`},
		{"allow\vvenus", `the character U+000B may not stand`},
		{"\n\ufeffallow a to open tcp at b", `line 2: "\ufeffallow" has a character that is not ASCII`},
	} {
		p, err := Parse(test.text, testDomain)
		if err == nil {
			t.Errorf("%q was taken", test.text)
			continue
		}
		var line *LineError
		if p != nil || !strings.Contains(err.Error(), test.want) || !errors.As(err, &line) || !strings.HasPrefix(err.Error(), "line ") {
			t.Errorf("%q: %v\nwant %s", test.text, err, test.want)
		}
		if len(err.Error()) > 300 {
			t.Errorf("%q: the error has %d bytes", test.text, len(err.Error()))
		}
		if strings.Contains(test.want, "not a host label") && !errors.Is(err, membership.ErrBadLabel) {
			t.Errorf("%q: %v does not wrap ErrBadLabel", test.text, err)
		}
	}
}

// TestNoDomain: full names need one.
func TestNoDomain(t *testing.T) {
	t.Parallel()
	const text = "allow venus.example.internal to open tcp 22 at mars"
	if _, err := Parse(text, ""); !errors.Is(err, membership.ErrBadLabel) || !strings.Contains(err.Error(), `"venus.example.internal" has dots: write a member's label alone`) {
		t.Error(err)
	}
	for _, domain := range []string{"example.internal", "Example.Internal."} {
		if _, err := Parse(text, domain); err != nil {
			t.Errorf("%s: %v", domain, err)
		}
	}
}

// TestAllErrors: each line that is wrong is told, with its own number, up to ten.
func TestAllErrors(t *testing.T) {
	t.Parallel()
	_, err := Parse("allow a to open tcp at b\nallow\r\n\n# allow\nallow a to open tcp 0 at b\nexpect", "")
	want := `line 2: expected a name, tag:NAME or everybody, found the end of the line
line 5: "0" is no port: ports are 1 to 65535
line 6: expected a name, tag:NAME or everybody, found the end of the line`
	if err == nil || err.Error() != want {
		t.Errorf("%v\nwant\n%s", err, want)
	}
	for n, last := range map[int]string{
		9:  "line 9: ",
		10: "line 10: ",
		11: "and one more line is wrong",
		12: "and 2 more lines are wrong",
	} {
		_, err := Parse(strings.Repeat("allow\n", n), "")
		lines := strings.Split(fmt.Sprint(err), "\n")
		if len(lines) != min(n, maxErrors+1) || !strings.HasPrefix(lines[len(lines)-1], last) {
			t.Errorf("%d lines: %v", n, err)
		}
	}
	_, err = Parse(strings.Repeat("x", MaxText), "")
	if len(fmt.Sprint(err)) > 200 {
		t.Errorf("an error of %d bytes", len(err.Error()))
	}
}

// TestLongWords: words of a name's length are looked at, longer ones only counted, and
// no error repeats more of one than its beginning.
func TestLongWords(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{
		maxQuoted:     `line 1: expected "allow", "expect" or "tag", found "` + strings.Repeat("x", maxQuoted) + `"`,
		maxQuoted + 1: `line 1: expected "allow", "expect" or "tag", found "` + strings.Repeat("x", maxQuoted) + `"…`,
	} {
		if _, err := Parse(strings.Repeat("x", n), ""); err == nil || err.Error() != want {
			t.Errorf("%d: %v", n, err)
		}
	}
	for n, want := range map[int]string{maxParty: "longer than 63 characters", maxParty + 1: "longer than 253 characters"} {
		if _, err := Parse("allow "+strings.Repeat("x", n), ""); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%d: %v", n, err)
		}
	}
}

func TestTooLong(t *testing.T) {
	t.Parallel()
	if _, err := Parse(strings.Repeat("#", MaxText), ""); err != nil {
		t.Error(err)
	}
	_, err := Parse(strings.Repeat("\n", MaxText+1), "")
	if !errors.Is(err, ErrTooLong) || !strings.Contains(err.Error(), "32769 bytes, at most 32768") {
		t.Error(err)
	}
}
