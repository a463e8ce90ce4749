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
		Self: idloc.SelfStatus{Peer: peer(1, "earth")},
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
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(os.DirFS("page")))
	mux.HandleFunc("GET /status.json", func(w http.ResponseWriter, r *http.Request) { w.Write(body) })
	mux.HandleFunc("GET /events.json", func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("[]")) })
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
		"repair on, cruise · RTT 50 ms, smoothed 57 ms · 31 repaired of 3100, 2 late", "rate 92.1 Mbit/s", "in flight 120.0 kB", "window 240.0 kB", "came by invitation 0123456789abcdef, through juno.example.com",
		"<h3>venus.example.com</h3>", "relayed 192.0.2.1:1",
		"<h3>titan.example.com</h3>", "connected, no pipe · at 203.0.113.7:1 · RTT 12 ms · serves the database",
		"<h3>luna.example.com</h3>", "not connected", "offer: the peer is offline",
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
	if shots := os.Getenv("IDLOC_SCREENSHOTS"); shots != "" { // a folder to keep pictures in
		for _, size := range []string{"400,1600", "1600,1200"} {
			browse("--window-size="+size, "--screenshot="+filepath.Join(shots, "reached-"+strings.ReplaceAll(size, ",", "x")+".png"))
		}
	}
}
