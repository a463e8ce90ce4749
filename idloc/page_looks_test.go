package idloc_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
)

// planets are names of members, as long and as short as people give them.
var planets = []string{"mars", "venus", "luna", "titan", "io", "europa", "ganymede", "callisto", "enceladus", "mimas", "triton", "charon", "build-server-eu-central-1"}

// overlayOf is what the page of a node is told that knows some members: each way to be
// reached is there, and one that failed.
func overlayOf(members int, now time.Time) (status idloc.Status, events []idloc.Event, past []any) {
	id := func(i int) idloc.PeerID { return idloc.PeerID{byte(i + 1), byte(i >> 8), 0x2a, 7: 9} }
	lsi := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i + 1)}) }
	at := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i + 1)}), uint16(40000+i))
	}
	status.Self = idloc.SelfStatus{
		Peer: idloc.Peer{ID: id(0), Name: "earth.example.com", LSI4: lsi(0), LSI6: netip.MustParseAddr("2001:20:3f5a:91c2:8e01:77aa:5b1d:c0de")}, Domain: "example.com",
		Port: 41641, Addrs: []netip.AddrPort{netip.MustParseAddrPort("192.168.1.20:41641"), netip.MustParseAddrPort("[2001:db8:1:2:3456:789a:bcde:f012]:41641")},
		Mapped: []netip.AddrPort{netip.MustParseAddrPort("198.51.100.7:41641")}, NAT: "endpoint-independent", UDP: "works", Reached: true,
		ReachedBy: idloc.ReachStatus{From: at(3), Local: netip.MustParseAddrPort("192.168.1.20:41641"), At: now.Add(-3 * time.Hour)},
		Ported:    idloc.PortMapping{Protocol: "PCP", Addr: netip.MustParseAddrPort("198.51.100.7:41641")}, Clocks: members, ClockOff: -2 * time.Second,
		Probes:   []idloc.ProbeStatus{{Addr: at(1), By: "STUN", Heard: true, Seen: netip.MustParseAddrPort("198.51.100.7:41641"), RTT: 23 * time.Millisecond, At: now.Add(-time.Minute)}, {Addr: at(2), By: "QUIC", At: now.Add(-2 * time.Minute)}},
		Warnings: []string{"Config.Addrs: this host does not have 192.0.2.77"}, NotAfter: now.Add(29 * 24 * time.Hour), Founder: true, Authority: true, Confirmed: true, Server: true, DNS: netip.MustParseAddr("198.18.255.254"), Records: members, Members: members * 2 / 3, Servers: members / 3,
	}
	for i := 1; i < members; i++ {
		name := planets[(i-1)%len(planets)]
		if i > len(planets) {
			name += "-" + strconv.Itoa(i)
		}
		p := idloc.PeerStatus{Peer: idloc.Peer{ID: id(i), Name: name + ".example.com", LSI4: lsi(i), LSI6: netip.MustParseAddr("2001:20:1::").Next()}, Invitation: "0123456789abcdef"}
		path := idloc.PathStatus{Kind: "direct", Local: status.Self.Addrs[0], Remote: at(i), Active: true, RTT: time.Duration(i) * 1700 * time.Microsecond}
		switch i % 6 {
		case 1, 2:
			if i%6 == 2 {
				path.Kind, path.Via = "relayed", id(1)
			}
			p.Connected, p.Encapsulation, p.AEAD, p.MTU, p.RTT = true, "outer-UDP", "AES-256-GCM", 1452, path.RTT
			p.Paths = []idloc.PathStatus{path}
			p.BytesSent, p.BytesReceived, p.Rekeys = 48_300_000, 1_270_000_000, 12
			p.Contact = idloc.ContactStatus{Addr: at(i), RTT: path.RTT, Server: true}
			if i == 1 {
				p.Repair = idloc.RepairStatus{On: true, State: "on, cruise", Rate: 92.1e6, RTT: path.RTT, Smoothed: 2 * path.RTT, InFlight: 120_000, Window: 240_000, Sent: 3100, Repaired: 31, Late: 2}
			}
		case 3, 4:
			p.Contact = idloc.ContactStatus{Addr: at(i), RTT: path.RTT}
		case 5:
			p.LastError = "offer: the peer is offline: tried for 10 s through 3 members"
		}
		status.Peers = append(status.Peers, p)
		if !p.Connected {
			continue
		}
		points := [][4]uint64{}
		for k := range 60 {
			points = append(points, [4]uint64{uint64(now.Add(time.Duration(k-60) * 10 * time.Second).UnixMilli()), uint64(k * (k%7 + 3) * 90_000), uint64(k * k * 60_000), uint64(path.RTT) + uint64(k%5*400_000)})
		}
		past = append(past, map[string]any{"peer": p.ID, "points": points})
	}
	first := status.Peers[0]
	step := func(ms int, e idloc.Event) {
		e.Time, e.Seq = now.Add(time.Duration(ms-5000)*time.Millisecond), uint64(len(events)+1)
		events = append(events, e)
	}
	step(0, idloc.Event{Kind: idloc.EventNameAsked, Name: first.Name})
	step(40, idloc.Event{Kind: idloc.EventNameResolved, Name: first.Name, Peer: first.ID, Duration: 40 * time.Millisecond})
	step(41, idloc.Event{Kind: idloc.EventMiss, Peer: first.ID, LSI: first.LSI4})
	step(95, idloc.Event{Kind: idloc.EventAnswerReceived, Peer: first.ID, Via: status.Peers[len(status.Peers)-1].ID, Duration: 53 * time.Millisecond})
	step(131, idloc.Event{Kind: idloc.EventPairChosen, Peer: first.ID, Local: status.Self.Addrs[0], Remote: at(1), Duration: 36 * time.Millisecond})
	step(149, idloc.Event{Kind: idloc.EventPipeUp, Peer: first.ID, Local: status.Self.Addrs[0], Remote: at(1), Duration: 108 * time.Millisecond})
	step(168, idloc.Event{Kind: idloc.EventDialed, Peer: first.ID, Name: first.Name + ":80", Detail: "tcp", Duration: 168 * time.Millisecond})
	last := status.Peers[len(status.Peers)-1]
	step(2168, idloc.Event{Kind: idloc.EventDialed, Peer: last.ID, Name: last.Name + ":22", Detail: "tcp", Duration: 2 * time.Second, Stage: idloc.StageOffer, Err: "dial tcp " + last.Name + ":22: offer: the peer is offline: tried for 2 s through 3 members"})
	status.Drops = map[string]uint64{"socket: unknown session": 3, "pipe: replayed": 1, "stun: not a member": 12}
	return status, events, past
}

// measured is what the page in one frame says of itself.
type measured struct {
	Frame        string
	Wide, Labels int
	Wrong        []string // what does not fit
}

// measure is a script beside the page's own: once that has drawn something it says what
// does not fit.
const measure = `"use strict";
const again = setInterval(() => {
  if (!document.querySelector("#map text.label")) return;
  clearInterval(again);
  const wrong = [], wide = document.documentElement.clientWidth;
  for (const e of document.querySelectorAll("body *")) {
    if (e.closest(".scroll") || e.closest("svg") && e.tagName !== "svg") continue;
    const r = e.getBoundingClientRect();
    if (r.width && r.right > wide + 1) wrong.push(e.tagName + "." + e.className + " ends at " + r.right + ": " + e.textContent.slice(0, 40));
  }
  const map = document.getElementById("map").getBoundingClientRect(), texts = [...document.querySelectorAll("#map text.label")].map(e => [e.textContent, e.getBoundingClientRect()]);
  texts.forEach(([a, r], i) => {
    if (r.left < map.left || r.right > map.right || r.top < map.top || r.bottom > map.bottom) wrong.push("label " + a + " leaves the picture");
    if (r.height < 9) wrong.push("label " + a + " is " + r.height + " high");
    for (const [b, s] of texts.slice(i + 1))
      if (r.left < s.right && s.left < r.right && r.top + 2 < s.bottom && s.top + 2 < r.bottom) wrong.push("label " + a + " on " + b);
  });
  fetch("/measured", { method: "POST", body: JSON.stringify({ frame: window.frameElement.id, wide, labels: texts.length, wrong }) });
}, 50);
`

// TestPageAtSizes: the page fits into a telephone and fills a screen, with a few members
// and a hundred; no label stands on another.
func TestPageAtSizes(t *testing.T) {
	t.Parallel()
	chromium := program(t, "chromium", "chromium-browser", "google-chrome")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	browse := func(url string, args ...string) {
		t.Helper()
		args = append([]string{"--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
			"--user-data-dir=" + filepath.Join(t.TempDir(), "profile"), "--dump-dom"}, args...)
		cmd := exec.CommandContext(ctx, chromium, append(args, url)...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Run(); err != nil {
			t.Fatalf("%s: %v: %s", chromium, err, &stderr)
		}
	}
	members, widths := []int{3, 12, 100}, []int{400, 900, 1600}
	page, said := toldPage(ctx, t, members, widths)
	browse(page+"/frames", "--window-size=1700,900")
	all := map[string]measured{}
	for range len(members) * len(widths) {
		select {
		case m := <-said:
			all[m.Frame] = m
		default:
			t.Fatalf("only %d frames have said anything", len(all))
		}
	}
	shots := os.Getenv("IDLOC_SCREENSHOTS") // a folder to keep pictures in, light and dark
	for _, of := range members {
		for _, at := range widths {
			name := fmt.Sprintf("of%dat%d", of, at)
			got := all[name]
			if got.Wide != at || got.Labels < 3 {
				t.Errorf("%s: %d px wide with %d labels", name, got.Wide, got.Labels)
			}
			for _, w := range got.Wrong {
				t.Errorf("%s: %s", name, w)
			}
			for scheme, n := range map[string]int{"dark": 0, "light": 1} {
				if shots == "" {
					continue
				}
				high := map[int]int{400: 2600, 900: 2200, 1600: 1700}[at]
				browse(fmt.Sprintf("%s/frames?only=%s", page, name), fmt.Sprintf("--window-size=%d,%d", at, high), fmt.Sprintf("--blink-settings=preferredColorScheme=%d", n), "--virtual-time-budget=4000",
					"--screenshot="+filepath.Join(shots, fmt.Sprintf("page-%03d-%04d-%s.png", of, at, scheme)))
			}
		}
	}
}

// toldPage serves the pages of nodes that know some members, each in a frame for each
// width: a browser's window has a least width, a frame has none. What they say of
// themselves comes on the channel; until all have, the page around them is not loaded, and
// the browser waits.
func toldPage(ctx context.Context, t *testing.T, members, widths []int) (string, <-chan measured) {
	t.Helper()
	said := make(chan measured, 1000)
	whole := make(chan struct{})
	var left atomic.Int32
	left.Store(int32(len(members) * len(widths)))
	index, err := os.ReadFile("page/index.html")
	if err != nil {
		t.Fatal(err)
	}
	index = bytes.Replace(index, []byte("</head>"), []byte(`<script src="/measure.js" defer></script></head>`), 1)
	mux := http.NewServeMux()
	var frames []string
	for _, of := range members {
		status, events, past := overlayOf(of, time.Now())
		at := fmt.Sprintf("/%d", of)
		mux.Handle("GET "+at+"/", http.StripPrefix(at, http.FileServerFS(os.DirFS("page"))))
		mux.HandleFunc("GET "+at+"/{$}", func(w http.ResponseWriter, r *http.Request) { w.Write(index) })
		for path, v := range map[string]any{"status": status, "events": events, "traffic": past, "authorities": map[string]any{"threshold": 1}} {
			body, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			mux.HandleFunc("GET "+at+"/"+path+".json", func(w http.ResponseWriter, r *http.Request) { w.Write(body) })
		}
		for _, wide := range widths {
			frames = append(frames, fmt.Sprintf(`<iframe id="of%dat%d" src="%s/" style="display:block;border:0;width:%dpx;height:4000px"></iframe>`, of, wide, at, wide))
		}
	}
	mux.HandleFunc("GET /measure.js", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/javascript")
		fmt.Fprint(w, measure)
	})
	mux.HandleFunc("POST /measured", func(w http.ResponseWriter, r *http.Request) {
		var m measured
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
			t.Error(err)
		}
		said <- m
		if left.Add(-1) == 0 {
			close(whole)
		}
	})
	mux.HandleFunc("GET /whole.css", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-whole:
		case <-ctx.Done():
		}
	})
	mux.HandleFunc("GET /frames", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, `<!doctype html><html style="color-scheme:light dark"><body style="margin:0">`)
		for _, f := range frames {
			if only := r.URL.Query().Get("only"); strings.Contains(f, `"`+only+`"`) || only == "" {
				fmt.Fprint(w, f)
			}
		}
		fmt.Fprint(w, `<link rel="stylesheet" href="/whole.css">`)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL, said
}

// TestPageContrast: text can be read on what it stands on, in both schemes: 4.5 to 1, as
// WCAG 2.2 §1.4.3 wants it.
func TestPageContrast(t *testing.T) {
	t.Parallel()
	css, err := os.ReadFile("page/page.css")
	if err != nil {
		t.Fatal(err)
	}
	colours := map[string][2]float64{} // luminance, light and dark
	for _, m := range regexp.MustCompile(`--(\w+): light-dark\(#(\w{6}), #(\w{6})\)`).FindAllStringSubmatch(string(css), -1) {
		colours[m[1]] = [2]float64{luminance(m[2]), luminance(m[3])}
	}
	for _, text := range []string{"ink", "soft", "bad", "direct", "relayed", "contact", "rtt"} {
		for _, on := range []string{"back", "card"} {
			for scheme, name := range []string{"light", "dark"} {
				a, b := colours[text][scheme], colours[on][scheme]
				if ratio := (max(a, b) + .05) / (min(a, b) + .05); ratio < 4.5 {
					t.Errorf("%s on %s, %s: %.1f", text, on, name, ratio)
				}
			}
		}
	}
	if len(colours) < 9 || strings.Count(string(css), "light-dark(") < len(colours) {
		t.Errorf("only %d colours found", len(colours))
	}
}

// luminance is that of a colour, RRGGBB, by WCAG.
func luminance(hex string) (l float64) {
	for i, weight := range []float64{.2126, .7152, .0722} {
		v, _ := strconv.ParseUint(hex[2*i:2*i+2], 16, 8)
		c := float64(v) / 255
		l += weight * math.Pow(c, 2.2) // near enough to sRGB's curve
	}
	return l
}
