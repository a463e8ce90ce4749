package idloc_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/idloc/idloc/idloc"
)

func get(t testing.TB, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v: %s", url, resp.Status, err, b)
	}
	return string(b)
}

// inside serves a node's Handler on loopback until the test ends.
func inside(t testing.TB, n *idloc.Node) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(n.Handler())
	t.Cleanup(s.Close)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return s
}

// TestMetrics: what Prometheus reads is well named and true.
func TestMetrics(t *testing.T) {
	t.Parallel()
	_, venus, mars := solarWith(t, directly)
	page := inside(t, venus)
	addr := net.JoinHostPort("mars.example.com", echo(t, mars))
	c, err := venus.Dial(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := roundTrip(c, make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, err := venus.Dial(t.Context(), "tcp", "pluto.example.com:80"); err == nil {
		t.Fatal("pluto answers")
	}
	var text string
	eventually(t, "the checks end, which go on beside the handshake", func() bool {
		text = get(t, page.URL+"/metrics")
		return strings.Contains(text, `duration_seconds_count{stage="check"} 1`)
	})
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "idloc_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	for _, want := range []string{
		`idloc_pipe_up{name="mars.example.com",peer="` + mars.ID().String() + `"} 1`,
		`idloc_dial_duration_seconds_count{network="tcp",result="ok"} 1`,
		`idloc_dial_duration_seconds_count{network="tcp",result="name"} 1`,
		`idloc_setup_stage_duration_seconds_count{stage="name"} 1`,
		`idloc_setup_stage_duration_seconds_count{stage="offer"} 1`,
		`idloc_setup_stage_duration_seconds_count{stage="check"} 1`,
		`idloc_setup_stage_duration_seconds_count{stage="handshake"} 1`,
		`idloc_setup_stage_duration_seconds_count{stage="connect"} 1`,
		`idloc_dial_failures_total{stage="name"} 1`,
		`idloc_dial_failures_total{stage="connect"} 0`,
		"idloc_pipes 1",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("metrics without %s", want)
		}
	}
	const libp2ps = "libp2p_swarm_"
	if strings.Contains(text, libp2ps) || !strings.Contains(get(t, page.URL+"/metrics?libp2p"), libp2ps) {
		t.Error("libp2p's metrics are to be there if they are asked for")
	}
	m := regexp.MustCompile(`idloc_pipe_bytes_total\{direction="sent",name="mars.*\} (\S+)`).FindStringSubmatch(text)
	if m == nil || m[1] < "1" {
		t.Errorf("bytes sent: %v", m)
	}
}

// TestHandlerHost: on loopback no other name than localhost reads the page.
func TestHandlerHost(t *testing.T) {
	t.Parallel()
	page := inside(t, found(t, idloc.Config{Name: "earth"}))
	for host, want := range map[string]int{
		"localhost": 200, "localhost:80": 200, "127.0.0.1:1": 200, "[::1]:1": 200,
		"evil.example": 403, "evil.example:80": 403, "localhost.evil.example": 403, "": 403,
	} {
		c, err := net.Dial("tcp", page.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "GET /status.json HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		c.Close()
		if resp.StatusCode != want {
			t.Errorf("Host %q: %s", host, resp.Status)
		}
	}
	for path, want := range map[string]int{"/capture.pcap?seconds=0": 400, "/capture.pcap?seconds=x": 400, "/capture.pcap?seconds=9999": 400, "/nothing": 404} {
		resp, err := http.Get(page.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	resp, err := http.Post(page.URL+"/status.json", "text/plain", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %s", resp.Status)
	}
}

// spans is a TracerProvider that remembers.
type spans struct {
	noop.TracerProvider
	mu  sync.Mutex
	all []*span
}

type span struct {
	noop.Span
	s          *spans
	name       string
	parent     *span
	start, end time.Time
	code       codes.Code
	text       string
	attrs      []attribute.KeyValue
}

type tracer struct {
	noop.Tracer
	s *spans
}

func (s *spans) Tracer(string, ...trace.TracerOption) trace.Tracer { return tracer{s: s} }

func (t tracer) Start(ctx context.Context, name string, opts ...trace.SpanStartOption) (context.Context, trace.Span) {
	cfg := trace.NewSpanStartConfig(opts...)
	sp := &span{s: t.s, name: name, start: cfg.Timestamp(), attrs: cfg.Attributes()}
	sp.parent, _ = trace.SpanFromContext(ctx).(*span)
	t.s.mu.Lock()
	t.s.all = append(t.s.all, sp)
	t.s.mu.Unlock()
	return trace.ContextWithSpan(ctx, sp), sp
}

func (s *span) IsRecording() bool                       { return true }
func (s *span) TracerProvider() trace.TracerProvider    { return s.s }
func (s *span) SetStatus(c codes.Code, text string)     { s.code, s.text = c, text }
func (s *span) SetAttributes(kv ...attribute.KeyValue)  { s.attrs = append(s.attrs, kv...) }
func (s *span) RecordError(error, ...trace.EventOption) {}
func (s *span) End(opts ...trace.SpanEndOption) {
	cfg := trace.NewSpanEndConfig(opts...)
	s.end = cfg.Timestamp()
}

func (s *spans) byName(name string) *span {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sp := range s.all {
		if sp.name == name {
			return sp
		}
	}
	return nil
}

// TestTrace: a Dial under a span is one span with a child for each stage. The
// checks go on beside the handshake, and may end after the Dial.
func TestTrace(t *testing.T) {
	t.Parallel()
	_, venus, mars := solarWith(t, directly)
	addr := net.JoinHostPort("mars.example.com", echo(t, mars))
	s := &spans{}
	ctx, _ := s.Tracer("").Start(t.Context(), "user")
	c, err := venus.Dial(ctx, "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	dial := s.byName("idloc.Dial")
	if dial == nil || dial.parent == nil || dial.parent.name != "user" || dial.end.Before(dial.start) || dial.code == codes.Error {
		t.Fatalf("the Dial's span: %+v", dial)
	}
	last := dial.start
	if sp := s.byName("idloc.connectivity_check"); sp != nil && (sp.parent != dial || sp.end.Before(sp.start) || sp.start.Before(dial.start)) {
		t.Errorf("checks: %+v", sp)
	}
	for _, name := range []string{"idloc.name", "idloc.offer", "idloc.handshake", "idloc.connect"} {
		sp := s.byName(name)
		switch {
		case sp == nil:
			t.Errorf("no span %s", name)
		case sp.parent != dial:
			t.Errorf("%s is not a child of the Dial", name)
		case sp.end.Before(sp.start) || sp.end.After(dial.end) || sp.end.Before(last):
			t.Errorf("%s: %v to %v", name, sp.start, sp.end)
		default:
			last = sp.end
		}
	}
}

// TestFailedDialExplains: each way to fail shows in the error, in the event
// and in the trace.
func TestFailedDialExplains(t *testing.T) {
	t.Parallel()
	earth, venus, mars := solar(t)
	addr := net.JoinHostPort("mars.example.com", echo(t, mars))
	c, err := venus.Dial(t.Context(), "tcp", addr) // LSIs, a pipe
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	page := inside(t, venus)

	try := func(what, address, stage, text string) {
		t.Helper()
		s := &spans{}
		ctx, _ := s.Tracer("").Start(t.Context(), "user")
		_, err := venus.Dial(ctx, "tcp", address)
		err = answered(t, address, err, func() error {
			s = &spans{}
			ctx, _ := s.Tracer("").Start(t.Context(), "user")
			return second(venus.Dial(ctx, "tcp", address))
		})
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", what, err)
			return
		}
		var st *idloc.StageError
		if stage != "" && (!errors.As(err, &st) || st.Stage != stage) {
			t.Errorf("%s: the error's stage is not %q: %v", what, stage, err)
		}
		if sp := s.byName("idloc.Dial"); sp == nil || sp.code != codes.Error || !strings.Contains(sp.text, text) {
			t.Errorf("%s: trace %+v", what, sp)
		}
		if stage != "" {
			if sp := s.byName("idloc." + strings.ReplaceAll(stage, " ", "_")); sp == nil || sp.code != codes.Error {
				t.Errorf("%s: no failed span of stage %s", what, stage)
			}
		}
		within(t, what+": an event of stage "+stage+" with "+text, 5*time.Second, func() bool {
			var events []idloc.Event
			if err := json.Unmarshal([]byte(get(t, page.URL+"/events.json")), &events); err != nil {
				t.Fatal(err)
			}
			return slices.ContainsFunc(events, func(e idloc.Event) bool {
				return e.Kind == idloc.EventDialed && e.Stage == stage && strings.Contains(e.Err, text)
			})
		})
	}
	try("wrong name", "nibiru.example.com:80", idloc.StageName, "no such host")
	try("closed port", "mars.example.com:9", idloc.StageConnect, "refused")
	pluto := join(t, earth, "pluto", idloc.Config{})
	if _, err := venus.Ping(t.Context(), "pluto"); err != nil {
		t.Fatal(err)
	}
	if err := pluto.Close(); err != nil {
		t.Fatal(err)
	}
	try("peer off", "pluto.example.com:80", idloc.StageOffer, "pluto.example.com is offline")
	if err := earth.Revoke(t.Context(), mars.Name()); err != nil {
		t.Fatal(err)
	}
	gone := func(n *idloc.Node, p idloc.PeerID) bool {
		for _, s := range n.Status().Peers {
			if s.ID == p && s.Connected {
				return false
			}
		}
		return true
	}
	within(t, "the revoked peer's pipe is gone", 30*time.Second, func() bool { return gone(venus, mars.ID()) })
	try("revoked", addr, idloc.StageName, "its membership was revoked")
}

// TestLog: a Dial that needs a pipe is one line at Info, one that finds it is
// none, one that fails is one line with the reason; traffic is none.
func TestLog(t *testing.T) {
	t.Parallel()
	var buf syncBuffer
	cfg := directly
	cfg.Logger = slog.New(slog.NewTextHandler(&buf, nil))
	earth := found(t, cfg)
	mars := join(t, earth, "mars", directly)
	addr := net.JoinHostPort("mars.example.com", echo(t, mars))
	before := len(buf.lines())
	dial := func() {
		t.Helper()
		c, err := earth.Dial(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := roundTrip(c, make([]byte, 100_000)); err != nil {
			t.Fatal(err)
		}
	}
	dial()
	if got := buf.lines()[before:]; len(got) != 1 || !strings.Contains(got[0], "msg=pipe-up name=mars.example.com peer="+mars.ID().String()) || !strings.Contains(got[0], "took=") {
		t.Errorf("log of the first Dial: %q", got)
	}
	before = len(buf.lines())
	dial()
	if got := buf.lines()[before:]; len(got) != 0 {
		t.Errorf("log of the second Dial: %q", got)
	}
	if _, err := earth.Dial(t.Context(), "tcp", "mars:9"); err == nil {
		t.Error("a closed port answers")
	}
	if got := buf.lines()[before:]; len(got) != 1 || !strings.Contains(got[0], "msg=dialed") || !strings.Contains(got[0], "refused") {
		t.Errorf("log of a failed Dial: %q", got)
	}
}

// syncBuffer is a log to read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *syncBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *syncBuffer) lines() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Split(strings.TrimSuffix(s.b.String(), "\n"), "\n")
}

// program finds a program that the test drives, or skips.
func program(t testing.TB, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skipf("none of %v is installed", names)
	return ""
}

// TestPageInBrowser opens the page on a running overlay in Chromium and looks
// at what its script has made of it.
func TestPageInBrowser(t *testing.T) {
	t.Parallel()
	chromium := program(t, "chromium", "chromium-browser", "google-chrome")
	open := filepath.Join(t.TempDir(), "venus")
	if err := errors.Join(os.Mkdir(open, 0o700), os.Chmod(open, 0o755)); err != nil {
		t.Fatal(err)
	}
	earth := found(t, directly)
	withDir := directly
	withDir.Dir = open
	venus, mars := join(t, earth, "venus", withDir), join(t, earth, "mars", directly)
	page := inside(t, venus)
	addr := net.JoinHostPort("mars.example.com", echo(t, mars))
	c, err := venus.Dial(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	stop := make(chan struct{})
	var traffic sync.WaitGroup
	defer traffic.Wait()
	defer close(stop)
	traffic.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if roundTrip(c, make([]byte, 10_000)) != nil {
				return
			}
		}
	})
	dir := t.TempDir()
	shots := os.Getenv("IDLOC_SCREENSHOTS") // a folder to keep pictures in
	run := func(args ...string) string {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		args = append([]string{"--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
			"--user-data-dir=" + filepath.Join(dir, "profile"), "--virtual-time-budget=6000"}, args...)
		cmd := exec.CommandContext(ctx, chromium, append(args, page.URL+"/")...)
		out, err := cmd.Output()
		if err != nil {
			var e *exec.ExitError
			if errors.As(err, &e) {
				t.Fatalf("%s: %v: %s", chromium, err, e.Stderr)
			}
			t.Fatal(err)
		}
		return string(out)
	}
	dom := run("--dump-dom")
	for _, want := range []string{
		`<h1 id="name">venus.example.com</h1>`, "<h3>mars.example.com</h3>", "<h3>earth.example.com</h3>",
		`class="edge direct"`, "outer-UDP", "direct 127.0.0.1:", "pipe-up", `class="name"`, `class="connect"`,
		"<li>Config.Dir " + open + ", mode 0755",
	} {
		if !strings.Contains(dom, want) {
			t.Errorf("the page has no %s", want)
		}
	}
	// The graph moves: its lines have several points, not all at one height.
	moved := false
	for _, m := range regexp.MustCompile(`<polyline points="([^"]*)" class="sent"`).FindAllStringSubmatch(dom, -1) {
		heights := map[string]bool{}
		for _, p := range strings.Fields(m[1]) {
			_, y, _ := strings.Cut(p, ",")
			heights[y] = true
		}
		moved = moved || len(heights) > 1
	}
	if !moved {
		t.Error("no graph moves")
	}
	if t.Failed() {
		t.Logf("%s", dom)
	}
	if shots != "" {
		for _, size := range []string{"400,1600", "1600,1200"} {
			run("--window-size="+size, "--screenshot="+filepath.Join(shots, "page-"+strings.ReplaceAll(size, ",", "x")+".png"))
		}
	}
}

// TestTsharkReadsCapture: the capture is what Wireshark expects.
func TestTsharkReadsCapture(t *testing.T) {
	t.Parallel()
	tshark := program(t, "tshark")
	_, venus, mars := solar(t)
	page := inside(t, venus)
	addr := net.JoinHostPort("mars.example.com", echo(t, mars))
	path := filepath.Join(t.TempDir(), "inner.pcap")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	resp, err := http.Get(page.URL + "/capture.pcap?seconds=300")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	head := make([]byte, 24)
	if _, err := io.ReadFull(resp.Body, head); err != nil {
		t.Fatal(err)
	}
	f.Write(head)
	copied := make(chan struct{})
	go func() { defer close(copied); io.Copy(f, resp.Body) }()
	c, err := venus.Dial(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := roundTrip(c, make([]byte, 3000)); err != nil {
		t.Fatal(err)
	}
	c.Close()
	stop, err := venus.Capture(io.Discard)
	if err == nil {
		stop()
		t.Error("two captures at once")
	}
	// The reader goes: the capture ends, at a packet's border or not.
	within(t, "something captured", 10*time.Second, func() bool { st, err := f.Stat(); return err == nil && st.Size() > 6000 })
	resp.Body.Close()
	<-copied
	out, err := exec.CommandContext(t.Context(), tshark, "-n", "-r", path, "-T", "fields", "-e", "_ws.col.Protocol", "-e", "tcp.flags.syn", "-e", "tcp.srcport", "-e", "_ws.malformed", "-Y", "tcp").CombinedOutput()
	if err != nil && !strings.Contains(string(out), "cut short") {
		t.Fatalf("tshark: %v: %s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	syn := map[string]bool{} // by port: one that waits for a second is sent again
	for _, l := range lines {
		if strings.Contains(strings.ToLower(l), "malformed") {
			t.Errorf("tshark: %s", l)
		}
		if fs := strings.Split(l, "\t"); len(fs) > 2 && (fs[1] == "1" || fs[1] == "True") {
			syn[fs[2]] = true
		}
	}
	if len(syn) != 2 {
		t.Errorf("SYNs from the ports %v in %s", syn, out)
	}
}
