package idloc_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
)

// TestPageShowsHowPeersAreReached: the page tells peers with a direct pipe, with
// a relayed one, with a connection but no pipe, and with nothing, apart.
func TestPageShowsHowPeersAreReached(t *testing.T) {
	t.Parallel()
	chromium := program(t, "chromium", "chromium-browser", "google-chrome")
	at := netip.MustParseAddrPort
	peer := func(b byte, name string) idloc.Peer {
		return idloc.Peer{ID: idloc.PeerID{b, 1}, Name: name + ".example.com"}
	}
	path := func(kind string) []idloc.PathStatus {
		return []idloc.PathStatus{{Kind: kind, Local: at("192.0.2.1:1"), Remote: at("192.0.2.2:2"), Active: true}}
	}
	status := idloc.Status{
		Self: idloc.SelfStatus{Peer: peer(1, "earth"), Authority: true, Proposals: []idloc.Proposal{{
			ID: "0123456789ab", What: "revoke <b>pluto</b>", By: "earth", Approved: []string{"earth"}, Needs: 2, Mine: true,
		}}},
		Peers: []idloc.PeerStatus{
			{Peer: peer(2, "luna"), LastError: "offer: the peer is offline"},
			{Peer: peer(3, "mars"), Connected: true, Paths: path("direct"), RTT: 5 * time.Millisecond, Invitation: "0123456789abcdef", Delegate: "juno.example.com",
				Repair: idloc.RepairStatus{On: true, State: "on, cruise", Rate: 92.1e6, RTT: 50 * time.Millisecond, Smoothed: 57 * time.Millisecond, InFlight: 120_000, Window: 240_000, Sent: 3100, Repaired: 31, Late: 2}},
			{Peer: peer(4, "titan"), Contact: idloc.ContactStatus{Addr: at("203.0.113.7:1"), RTT: 12 * time.Millisecond, Server: true}},
			{Peer: peer(5, "venus"), Connected: true, Paths: path("relayed"), Contact: idloc.ContactStatus{Addr: at("203.0.113.8:1")}},
		},
	}
	body, err := json.Marshal(status)
	if err != nil {
		t.Fatal(err)
	}
	rule, err := json.Marshal(map[string]any{
		"authorities": []idloc.Authority{{Name: "founder", Key: strings.Repeat("a", 64), Self: true}, {Name: "recovery", Key: strings.Repeat("b", 64), Recovery: true}},
		"threshold":   2,
		"history": []idloc.Happening{
			{Time: time.Unix(1, 0), What: "promoted", Whom: "recovery", By: []string{"founder"}, Keys: []string{"a"}},
			{Time: time.Unix(2, 0), What: "granted", Text: "allow mars to open tcp at earth", By: []string{"founder", "venus"}, Keys: []string{"a", "c"}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(os.DirFS("page")))
	mux.HandleFunc("GET /status.json", func(w http.ResponseWriter, r *http.Request) { w.Write(body) })
	mux.HandleFunc("GET /events.json", func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("[]")) })
	mux.HandleFunc("GET /authorities.json", func(w http.ResponseWriter, r *http.Request) { w.Write(rule) })
	page := httptest.NewServer(mux)
	defer page.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	browse := func(args ...string) string {
		t.Helper()
		args = append([]string{"--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
			"--user-data-dir=" + filepath.Join(t.TempDir(), "profile"), "--virtual-time-budget=3000"}, args...)
		out, err := exec.CommandContext(ctx, chromium, append(args, page.URL+"/")...).Output()
		if err != nil {
			var e *exec.ExitError
			if errors.As(err, &e) {
				t.Fatalf("%s: %v: %s", chromium, err, e.Stderr)
			}
			t.Fatal(err)
		}
		return string(out)
	}
	dom := browse("--dump-dom")
	for _, kind := range []string{"direct", "relayed", "contact", "member"} {
		for _, want := range []string{`class="edge ` + kind + `"`, `class="dot ` + kind + `"`, `<i class="k ` + kind + `"></i>`} {
			if n := strings.Count(dom, want); n != 1 {
				t.Errorf("the page has %d times %s, want once", n, want)
			}
		}
	}
	// Peers stand in the order of how near they are, and each says how.
	rest := dom
	for _, want := range []string{
		"<h3>mars.example.com</h3>", "direct 192.0.2.1:1",
		"repair on, cruise · shortest RTT 50 ms, smoothed 57 ms · 31 of 3100 packets sent again, 2 had only been late", "may send 92.1 Mbit/s", "in flight 120.0 kB", "of at most 240.0 kB", "came by invitation 0123456789abcdef, through juno.example.com",
		"<h3>venus.example.com</h3>", "relayed 192.0.2.1:1",
		"<h3>titan.example.com</h3>", "connected, no pipe · at 203.0.113.7:1 · RTT 12 ms · serves the database",
		"<h3>luna.example.com</h3>", "not connected", "offer: the peer is offline",
		"2 of 2 have to agree; this node is one of them", "founder, this node", "key aaaaaaaaaaaaaaaa<", "key bbbbbbbbbbbbbbbb, on paper",
		"<h3>revoke &lt;b&gt;pluto&lt;/b&gt;</h3>", "proposal 0123456789ab, of earth, until ", "1 of 2 signatures: earth · this node has approved it",
		"<td>granted</td><td></td><td>founder, venus</td><td>allow mars to open tcp at earth</td>", "<td>promoted</td><td>recovery</td><td>founder</td><td></td>",
	} {
		_, after, ok := strings.Cut(rest, want)
		if !ok {
			t.Errorf("the page has no %s there", want)
			continue
		}
		rest = after
	}
	if !strings.Contains(dom, "<title>titan.example.com: connected, no pipe</title>") {
		t.Error("the picture does not say how titan is reached")
	}
	if t.Failed() {
		t.Logf("%s", dom)
	}
}

// TestAuthoritiesJSON: what the page says of who rules the overlay is what the node says,
// and of what was done the newest 50.
func TestAuthoritiesJSON(t *testing.T) {
	t.Parallel()
	earth := found(t, idloc.Config{})
	page := inside(t, earth)
	var said struct {
		Authorities []idloc.Authority `json:"authorities"`
		Threshold   int               `json:"threshold"`
		History     []idloc.Happening `json:"history"`
	}
	read := func(path string, v any) {
		t.Helper()
		if err := json.Unmarshal([]byte(get(t, page.URL+path)), v); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	read("/authorities.json", &said)
	if a := said.Authorities; len(a) != 1 || a[0].Name != "founder" || !a[0].Self || len(a[0].Key) != 64 || said.Threshold != 1 || said.History == nil || len(said.History) != 0 {
		t.Errorf("of an overlay in which nothing was done: %+v", said)
	}
	if text := get(t, page.URL+"/history.json"); strings.TrimSpace(text) != "[]" {
		t.Errorf("a history of nothing: %s", text)
	}
	for range 60 {
		if _, err := earth.Invite(idloc.InviteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := earth.SetGrants(t.Context(), "allow everybody to open tcp at earth"); err != nil {
		t.Fatal(err)
	}
	var all []idloc.Happening
	read("/authorities.json", &said)
	read("/history.json", &all)
	h := said.History
	if len(all) != 61 || len(h) != 50 || h[49].What != "granted" || h[49].Text != "allow everybody to open tcp at earth" || len(h[49].By) != 1 || h[0].What != "invited" || h[0].Key != all[11].Key {
		t.Errorf("the page has %d happenings of %d: %+v", len(h), len(all), h[len(h)-1:])
	}
}
