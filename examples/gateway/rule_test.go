package main

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
)

// until asks again and again, in this process, as members tell each other in their own time.
func until(t testing.TB, want, dir, cmd string) string {
	t.Helper()
	re := regexp.MustCompile(want)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for begin := time.Now(); ; <-tick.C {
		var out, errOut bytes.Buffer
		err := run(t.Context(), []string{cmd, "-dir", dir}, strings.NewReader(""), &out, &errOut)
		if err == nil && re.Match(out.Bytes()) {
			return out.String()
		}
		if time.Since(begin) > time.Minute {
			t.Fatalf("%s does not say %q: %v, %s%s", cmd, want, err, &out, &errOut)
		}
	}
}

// TestWithoutTheFounder: whom the founder has promoted rules on when it is lost with its
// folder, and a recovery line makes another one an authority.
func TestWithoutTheFounder(t *testing.T) {
	t.Parallel()
	earth, mars := pair(t)
	venus := up(t, t.TempDir(), "join", must(t)(tell(t, earth.dir, "invite", "venus")))
	if out := must(t)(tell(t, earth.dir, "authorities")); !regexp.MustCompile(`^founder  [0-9a-f]{16}  this node\n1 of 1 have to agree$`).MatchString(out) {
		t.Errorf("at first: %q", out)
	}
	if out, err := tell(t, mars.dir, "promote", "mars"); err == nil || !strings.Contains(out, "policy") {
		t.Errorf("a member promotes itself: %v, %s", err, out)
	}
	if out := must(t)(tell(t, earth.dir, "promote", "mars")); out != "mars is an authority" {
		t.Errorf("promote: %q", out)
	}
	var line, said bytes.Buffer
	if err := run(t.Context(), []string{"recovery", "-dir", earth.dir}, strings.NewReader(""), &line, &said); err != nil || !strings.HasPrefix(line.String(), "recover1 ") || !strings.Contains(said.String(), "shown once") {
		t.Errorf("recovery: %v, %q, %q", err, &line, &said)
	}
	must(t)(tell(t, earth.dir, "threshold", "2"))
	for cmd, arg := range map[string]string{"threshold": "many", "unattended": "long", "demote": "nobody"} {
		if out, err := tell(t, earth.dir, cmd, arg); err == nil || !strings.Contains(out, arg) {
			t.Errorf("%s %s: %v, %s", cmd, arg, err, out)
		}
	}
	until(t, "2 of 3", mars.dir, "authorities")
	until(t, "2 of 3", venus.dir, "authorities")

	// One proposes, which is no failure, and another approves.
	pending := func(what, out string) string {
		t.Helper()
		m := regexp.MustCompile(`not in force yet: .*proposal ([0-9a-f]+), to ` + what + `.*, has 1 of 2 signatures; another authority says: gateway approve ID$`).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("%q is no proposal to %s", out, what)
		}
		return m[1]
	}
	spare := must(t)(tell(t, earth.dir, "invite"))
	id := pending("revoke invitation", must(t)(tell(t, earth.dir, "withdraw", spare)))
	if out := until(t, id, mars.dir, "proposals"); !regexp.MustCompile(`^` + id + `  revoke invitation [0-9a-f]+  by founder  1 of 2\n$`).MatchString(out) {
		t.Errorf("proposals: %q", out)
	}
	if out := must(t)(tell(t, mars.dir, "approve", id[:6])); out != id[:6]+" is in force" {
		t.Errorf("approve: %q", out)
	}
	until(t, "^$", earth.dir, "proposals")

	// The founder is lost.
	until(t, "revoked", venus.dir, "history")
	earth.stop()
	if err := os.RemoveAll(earth.dir); err != nil {
		t.Fatal(err)
	}
	if token := must(t)(tell(t, mars.dir, "invite", "io")); !strings.HasPrefix(token, "idloc1") {
		t.Errorf("invite: %q", token)
	}
	if out, err := tell(t, venus.dir, "recover", "recover1", "aaaa"); err == nil || !strings.Contains(out, "recovery line") {
		t.Errorf("no recovery line: %v, %s", err, out)
	}
	var out bytes.Buffer
	if err := run(t.Context(), []string{"recover", "-dir", venus.dir, "-"}, &line, &out, &out); err != nil {
		t.Fatal(err)
	}
	must(t)(tell(t, mars.dir, "approve", pending("promote venus", strings.TrimSpace(out.String()))))
	until(t, `(?m)^venus .* this node$`, venus.dir, "authorities")

	// venus signs with its own key and with the line: that is two.
	must(t)(tell(t, venus.dir, "demote", "-void", "founder"))
	must(t)(tell(t, venus.dir, "unattended", "2160h"))
	must(t)(tell(t, venus.dir, "demote", "mars"))
	must(t)(tell(t, venus.dir, "revoke", "mars"))
	text := must(t)(tell(t, venus.dir, "history"))
	for _, want := range []string{`  promoted +mars +by founder\n`, `  threshold +have 2 authorities .*by founder\n`, `  promoted +venus +by `, `  demoted +founder .*by `, `  unattended +2160h`, `  demoted +mars +by `, `  revoked +mars +by `} {
		if !regexp.MustCompile(want).MatchString(text + "\n") {
			t.Errorf("no %q in the history\n%s", want, text)
		}
	}
	var all []idloc.Happening
	if err := json.Unmarshal([]byte(must(t)(tell(t, venus.dir, "history", "-json"))), &all); err != nil || len(all) < 8 {
		t.Errorf("history -json: %v, %d", err, len(all))
	}
	var r ruled
	if err := json.Unmarshal([]byte(must(t)(tell(t, venus.dir, "authorities", "-json"))), &r); err != nil || len(r.Authorities) != 2 || r.Threshold != 2 {
		t.Errorf("authorities -json: %v, %+v", err, r)
	}
}
