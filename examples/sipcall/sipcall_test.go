package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The test binary is the program as well.
func TestMain(m *testing.M) {
	if os.Getenv("IDLOC_SIPCALL") == "1" {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestCall: the whole story over each transport. The rungs of the draft's
// ladder are there in its order, sound goes both ways before and after the
// move, and both calls end.
func TestCall(t *testing.T) {
	for _, transport := range []string{"tcp", "tls", "udp"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			var out bytes.Buffer
			r, err := run(ctx, options{transport: transport, packets: 25}, &out)
			t.Log("\n" + out.String())
			if err != nil {
				t.Fatal(err)
			}
			first, second, ok := strings.Cut(out.String(), "calls back")
			if !ok {
				t.Fatal("fred does not call back")
			}
			scheme := "sip"
			if transport == "tls" {
				scheme = "sips"
			}
			// TLS and TCP connect before the INVITE; over UDP it is itself the
			// packet that is held.
			inOrder(t, first, `mars.example.com\? ─+▶`, `◀─+ its record`, `LSI 198\.\S+ stands for mars`, `first packet held`, `─ offer ─+▶`,
				`│ +│─+ offer ─+▶`, `◀─+ answer`, `◀─+ connectivity checks ─+▶`, `─ first packet ─+▶`,
				`◀─+ SIP/2.0 180 Ringing`, `◀─+ SIP/2.0 200 OK`, `─ ACK `, `moves: `, `BYE `, `◀─+ SIP/2.0 200 OK`)
			inOrder(t, first, `INVITE `+scheme+`:fred@mars.example.com`, `180 Ringing`)
			inOrder(t, first, `─ RTP ─+▶`, `moves: `, `─ RTP goes on ─+▶`)
			inOrder(t, first, `◀─+ RTP ─`, `moves: `, `◀─+ RTP goes on ─`)
			inOrder(t, second, `◀─+ INVITE `+scheme+`:wilma@venus.example.com`, `180 Ringing`, `200 OK`, `ACK `, `BYE `, `200 OK`)
			for _, dir := range []string{toMars, toVenus} {
				whole, move := r.Whole[dir], r.Move[dir]
				if whole.Sent < 25+afterMove || whole.Sent-whole.Lost < 25+afterMove || move.Sent < afterMove || move.Lost > whole.Lost {
					t.Errorf("%s: %+v, around the move %+v", dir, whole, move)
				}
			}
		})
	}
}

// TestRecord: the whole story of an address of record.
func TestRecord(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var out bytes.Buffer
	err := runRecord(ctx, options{packets: 25}, &out)
	t.Log("\n" + out.String())
	if err != nil {
		t.Fatal(err)
	}
	inOrder(t, out.String(), `fred registers at mars`, `fred: REGISTER sip:example.com`, `proxy: SIP/2.0 200 OK`,
		`wilma: INVITE sip:fred@example.com`, `proxy: SIP/2.0 302`, `wilma: INVITE sip:fred@mars.example.com`, `─ INVITE sip:fred@mars`, `◀─+ SIP/2.0 200 OK`, `both hear the other`, `─ BYE `,
		`goes over to pluto`, `302`, `wilma: INVITE sip:fred@pluto.example.com`, `both hear the other`,
		`two phones`, `INVITE sip:fred@pluto`, `486 Busy`, `INVITE sip:fred@mars`, `both hear the other`,
		`he is nowhere`, `404`, `says that she is fred`, `proxy: SIP/2.0 403`, `404`)
}

// inOrder wants lines that match the patterns, one after the other.
func inOrder(t *testing.T, text string, patterns ...string) {
	t.Helper()
	lines := strings.Split(text, "\n")
	for _, p := range patterns {
		re := regexp.MustCompile(p)
		for len(lines) > 0 && !re.MatchString(lines[0]) {
			lines = lines[1:]
		}
		if len(lines) == 0 {
			t.Errorf("no line like %q where it belongs, of %q", p, patterns)
			return
		}
		lines = lines[1:]
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"-h"}, 0, "-transport"},
		{[]string{"fred"}, 2, "Usage: sipcall"},
		{[]string{"-transport", "pigeon"}, 1, `"PIGEON"`},
	} {
		cmd := exec.CommandContext(t.Context(), self, c.args...)
		cmd.Env = append(os.Environ(), "IDLOC_SIPCALL=1")
		out, _ := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != c.code || !strings.Contains(string(out), c.want) {
			t.Errorf("%q: exit code %d, want %d with %q: %s", c.args, cmd.ProcessState.ExitCode(), c.code, c.want, out)
		}
	}
}
