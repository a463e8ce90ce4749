package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/websocket"

	"github.com/idloc/idloc/idloc"
)

// The test binary is the gateway as well, so that the tests run it as the
// processes that a user would start.
func TestMain(m *testing.M) {
	if os.Getenv("IDLOC_GATEWAY") == "1" {
		main()
		return
	}
	os.Exit(m.Run())
}

func process(ctx context.Context, args ...string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(os.Environ(), "IDLOC_GATEWAY=1")
	return cmd
}

// gate is a gateway that runs.
type gate struct {
	dir   string
	lines []string
	stop  func()
}

// at returns the first address after words in what the gateway printed.
func (g *gate) at(t testing.TB, words string) string {
	t.Helper()
	for _, l := range g.lines {
		if _, rest, ok := strings.Cut(l, words); ok {
			if m := regexp.MustCompile(`[0-9.]+:[0-9]+`).FindString(rest); m != "" {
				return m
			}
		}
	}
	t.Fatalf("no %q in %q", words, g.lines)
	return ""
}

// up starts a gateway on loopback and waits until it is ready.
func up(t testing.TB, dir, cmd string, args ...string) *gate {
	t.Helper()
	return start(t, dir, cmd, append([]string{"-socks", "127.0.0.1:0", "-http", "127.0.0.1:0", "-dns", "127.0.0.1:0", "-page", "127.0.0.1:0"}, args...)...)
}

// start is up with the usual ports.
func start(t testing.TB, dir, cmd string, args ...string) *gate {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := process(ctx, append([]string{cmd, "-dir", dir, "-addr", "127.0.0.1"}, args...)...)
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = 2 * time.Minute // for one that does not end; how soon is not the point
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var errOut bytes.Buffer
	c.Stderr = &errOut
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	g := &gate{dir: dir}
	g.stop = sync.OnceFunc(func() {
		cancel()
		if err := c.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("gateway %s: %v", cmd, err)
		}
		if t.Failed() {
			t.Logf("gateway %s said %s", cmd, errOut.String())
		}
	})
	t.Cleanup(g.stop)
	s := bufio.NewScanner(out)
	for s.Scan() {
		g.lines = append(g.lines, s.Text())
		if strings.HasPrefix(s.Text(), "ready") {
			go io.Copy(io.Discard, out)
			return g
		}
	}
	t.Fatalf("gateway %s ended: %q %s", cmd, g.lines, errOut.String())
	return nil
}

// tell runs a command that asks the gateway in dir.
func tell(t testing.TB, dir, cmd string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	out, err := process(ctx, append([]string{cmd, "-dir", dir}, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func must(t testing.TB) func(string, error) string {
	return func(out string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return out
	}
}

// pair is earth, the founder, and mars, which shows what listens at ports of
// the machine as its own.
func pair(t testing.TB, marsArgs ...string) (earth, mars *gate) {
	t.Helper()
	earth = up(t, t.TempDir(), "create", "-name", "earth", "example.com")
	token := must(t)(tell(t, earth.dir, "invite", "mars"))
	return earth, up(t, t.TempDir(), "join", append(marsArgs, token)...)
}

// TestFromAShell: found, invite, join, see, revoke, restart.
func TestFromAShell(t *testing.T) {
	t.Parallel()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "red, as "+r.Host) }))
	defer web.Close()
	webPort := web.Listener.Addr().(*net.TCPAddr).Port
	earth, mars := pair(t, "-R", fmt.Sprintf("80:127.0.0.1:%d", webPort))

	get := func(client *http.Client) string {
		t.Helper()
		resp, err := client.Get("http://mars.example.com/")
		if err != nil {
			t.Error(err)
			return ""
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return string(b)
	}
	for _, proxy := range []string{"socks5h://" + earth.at(t, "SOCKS5 proxy"), "http://" + earth.at(t, "HTTP proxy")} {
		u, err := url.Parse(proxy)
		if err != nil {
			t.Fatal(err)
		}
		tr := &http.Transport{Proxy: http.ProxyURL(u)}
		if got := get(&http.Client{Transport: tr, Timeout: 2 * time.Minute}); got != "red, as mars.example.com" {
			t.Errorf("through %s: %q", proxy, got)
		}
		tr.CloseIdleConnections()
	}

	// Grants: mars shows its web server to nobody, and then to earth again.
	if out := must(t)(tell(t, mars.dir, "grants")); !strings.Contains(out, "everybody may") {
		t.Errorf("grants: %s", out)
	}
	rules := filepath.Join(t.TempDir(), "grants")
	if err := os.WriteFile(rules, []byte("allow mars to open tcp 80 at earth\nexpect earth may not open tcp 80 at mars\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t)(tell(t, earth.dir, "grants", rules))
	if out := must(t)(tell(t, earth.dir, "grants")); !strings.Contains(out, "allow mars to open") {
		t.Errorf("grants: %s", out)
	}
	if out, err := tell(t, earth.dir, "may", "earth", "tcp", "80", "mars"); err == nil || !strings.Contains(out, "earth may not open tcp 80 at mars: no rule allows it") {
		t.Errorf("may: %v, %s", err, out)
	}
	if out := must(t)(tell(t, earth.dir, "may", "mars", "tcp", "80", "earth")); !strings.Contains(out, "line 1") {
		t.Errorf("may: %s", out)
	}
	if out, err := tell(t, mars.dir, "grants", rules); err == nil || !strings.Contains(out, "policy") {
		t.Errorf("mars sets grants: %v, %s", err, out)
	}
	if err := os.WriteFile(rules, []byte("allow earth to open tcp 80 at nobody else\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := tell(t, earth.dir, "grants", rules); err == nil || !strings.Contains(out, "line 1") {
		t.Errorf("grants that cannot be read: %v, %s", err, out)
	}
	if err := os.WriteFile(rules, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	must(t)(tell(t, earth.dir, "grants", rules))

	status := must(t)(tell(t, earth.dir, "status"))
	if !strings.Contains(status, "earth.example.com") || !strings.Contains(status, "mars.example.com") || !strings.Contains(status, "direct 127.0.0.1:") {
		t.Errorf("status: %s", status)
	}
	var st idloc.Status
	if err := json.Unmarshal([]byte(must(t)(tell(t, mars.dir, "status", "-json"))), &st); err != nil || st.Self.Name != "mars.example.com" {
		t.Errorf("status -json: %v, %+v", err, st.Self)
	}
	if out := must(t)(tell(t, earth.dir, "ping", "-c", "1", "mars")); !strings.HasPrefix(out, "mars.example.com: ") {
		t.Errorf("ping: %s", out)
	}
	if out := must(t)(tell(t, mars.dir, "netcheck")); !strings.Contains(out, "1 answers") || !strings.Contains(out, "earth.example.com in ") || !strings.Contains(out, "direct pipes") {
		t.Errorf("netcheck: %s", out)
	}
	page := "http://" + earth.at(t, "status page")
	for path, want := range map[string]string{"/": "page.js", "/proxy.pac": `if (dnsDomainIs(host, ".example.com")) return "SOCKS5 ` + earth.at(t, "SOCKS5 proxy") + `; PROXY ` + earth.at(t, "HTTP proxy") + `";`, "/metrics": "idloc_pipes 1"} {
		resp, err := http.Get(page + path)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if !strings.Contains(string(b), want) {
			t.Errorf("%s without %s: %s", path, want, b)
		}
	}

	// Who came by which token; one that nobody has used is ended.
	spare := strings.TrimSpace(must(t)(tell(t, earth.dir, "invite", "-uses", "3")))
	out := must(t)(tell(t, earth.dir, "invitations"))
	for _, want := range []string{"  one member  ", "  used\n", "mars.example.com  confirmed", "any name", "  3 members   ", " hours left"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if out := must(t)(tell(t, earth.dir, "withdraw", spare)); !strings.Contains(out, "nobody enters") {
		t.Errorf("withdraw: %s", out)
	}
	if out := must(t)(tell(t, earth.dir, "invitations")); !strings.Contains(out, "  withdrawn\n") {
		t.Errorf("invitations: %s", out)
	}
	var list []idloc.Invitation
	if err := json.Unmarshal([]byte(must(t)(tell(t, earth.dir, "invitations", "-json"))), &list); err != nil || len(list) != 2 {
		t.Errorf("invitations -json: %v, %+v", err, list)
	}
	if out, err := tell(t, earth.dir, "invite", "-replaces", "nobody"); err == nil || !strings.Contains(out, "nobody") {
		t.Errorf("a token in place of nobody: %v, %s", err, out)
	}

	// One node a folder; only authorities revoke.
	if out, err := tell(t, earth.dir, "run", "-addr", "127.0.0.1"); err == nil || !strings.Contains(out, "in use") {
		t.Errorf("a second gateway in one folder: %v, %s", err, out)
	}
	if out, err := tell(t, mars.dir, "revoke", "earth"); err == nil || !strings.Contains(out, "policy") {
		t.Errorf("a member revokes the founder: %v, %s", err, out)
	}
	// A token may come by standard input.
	venus := process(t.Context(), "join", "-dir", t.TempDir(), "-")
	venus.Stdin = strings.NewReader("idloc1nonsense\n")
	if out, err := venus.CombinedOutput(); err == nil || !strings.Contains(string(out), "token") {
		t.Errorf("nonsense by standard input: %v, %s", err, out)
	}
	// A restart keeps who it is.
	mars.stop()
	if out, err := tell(t, mars.dir, "status"); err == nil || !strings.Contains(out, "no gateway runs in") {
		t.Errorf("asking nobody: %v, %s", err, out)
	}
	again := up(t, mars.dir, "run")
	if again.lines[len(again.lines)-1] == "" || !strings.Contains(strings.Join(again.lines, "\n"), "mars.example.com is up") {
		t.Errorf("after a restart: %q", again.lines)
	}
	must(t)(tell(t, earth.dir, "ping", "-c", "1", "mars"))
	if out, err := tell(t, earth.dir, "revoke", "-below", "mars"); err == nil || !strings.Contains(out, "below which delegate") {
		t.Errorf("below no delegate: %v, %s", err, out)
	}
	if out := must(t)(tell(t, earth.dir, "revoke", "-all", "mars")); !strings.Contains(out, "nor who came by the same token") {
		t.Errorf("revoke -all: %s", out)
	}
	if out, err := tell(t, earth.dir, "ping", "-c", "1", "mars"); err == nil {
		t.Errorf("a revoked member answers: %s", out)
	}
}

// program finds a program that the test drives, or skips.
func program(t testing.TB, names ...string) string {
	t.Helper()
	for _, name := range append(names, "/usr/sbin/"+names[0]) {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skipf("none of %v is installed", names)
	return ""
}

func TestCurl(t *testing.T) {
	t.Parallel()
	curl := program(t, "curl")
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "red") }))
	defer web.Close()
	earth, _ := pair(t, "-R", "80:"+web.Listener.Addr().String())
	for _, args := range [][]string{
		{"--socks5-hostname", earth.at(t, "SOCKS5 proxy")},
		{"--proxy", "http://" + earth.at(t, "HTTP proxy")},
		{"--proxytunnel", "--proxy", "http://" + earth.at(t, "HTTP proxy")},
	} {
		out, err := exec.CommandContext(t.Context(), curl, append(args, "-sS", "--max-time", "30", "http://mars.example.com/")...).CombinedOutput()
		if err != nil || string(out) != "red" {
			t.Errorf("curl %v: %v: %s", args, err, out)
		}
	}
	out, err := exec.CommandContext(t.Context(), curl, "-sS", "--max-time", "30", "--socks5-hostname", earth.at(t, "SOCKS5 proxy"), "http://pluto.example.com/").CombinedOutput()
	if err == nil {
		t.Errorf("curl to nobody: %s", out)
	}
}

// TestDig: what unmodified DNS tools see of the overlay.
func TestDig(t *testing.T) {
	t.Parallel()
	dig := program(t, "dig")
	earth, mars := pair(t)
	asked := earth
	ask := func(args ...string) string {
		t.Helper()
		host, port, err := net.SplitHostPort(asked.at(t, "DNS for example.com"))
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), dig, append([]string{"@" + host, "-p", port, "+time=10", "+tries=2"}, args...)...).CombinedOutput()
		if err != nil {
			t.Errorf("dig %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	short := func(args ...string) string { t.Helper(); return strings.TrimSpace(ask(append(args, "+short")...)) }
	a := short("mars.example.com", "A")
	if !strings.HasPrefix(a, "198.1") {
		t.Errorf("A: %q", a)
	}
	if got := short("mars.example.com", "AAAA"); !strings.HasPrefix(got, "2001:2") {
		t.Errorf("AAAA: %q", got)
	}
	if got := short("-x", a); got != "mars.example.com." {
		t.Errorf("PTR of %s: %q", a, got)
	}
	if got := short("+tcp", "mArS.eXample.com", "A"); got != a {
		t.Errorf("over TCP, mixed case: %q", got)
	}
	for _, c := range []struct{ want, name, kind string }{
		{"status: NXDOMAIN", "pluto.example.com", "A"},
		{"status: NOERROR", "mars.example.com", "MX"}, // no data
		{"ANSWER: 0", "mars.example.com", "MX"},
		{"IN\tSOA", "example.com", "SOA"},
		{"IN\tNS", "example.com", "NS"},
	} {
		if got := ask(c.name, c.kind); !strings.Contains(got, c.want) {
			t.Errorf("%s %s without %q: %s", c.name, c.kind, c.want, got)
		}
	}
	// Who is cut off from the database does not know whether there is a pluto.
	earth.stop()
	asked = mars
	if got := ask("pluto.example.com", "A"); !strings.Contains(got, "status: SERVFAIL") || !strings.Contains(got, "EDE: ") {
		t.Errorf("with nobody to ask: %s", got)
	}
}

// TestSSH: ssh and scp, told of nothing but a ProxyCommand, and an sshd that
// serves on a loopback port.
func TestSSH(t *testing.T) {
	t.Parallel()
	ssh, scp, keygen := program(t, "ssh"), program(t, "scp"), program(t, "ssh-keygen")
	sshd := program(t, "sshd")
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	for _, k := range []string{"host", "id"} {
		if out, err := exec.CommandContext(t.Context(), keygen, "-q", "-t", "ed25519", "-N", "", "-f", file(k)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v: %s", err, out)
		}
	}
	pub, err := os.ReadFile(file("id.pub"))
	if err != nil {
		t.Fatal(err)
	}
	os.WriteFile(file("authorized"), pub, 0o600)
	os.WriteFile(file("sshd_config"), []byte(strings.Join([]string{
		"HostKey " + file("host"), "AuthorizedKeysFile " + file("authorized"), "StrictModes no", "UsePAM no",
		"PasswordAuthentication no", "PidFile none", "Subsystem sftp internal-sftp", "PermitRootLogin yes"}, "\n")+"\n"), 0o600)
	if me.Uid == "0" {
		os.MkdirAll("/run/sshd", 0o755) // sshd's own folder, which its service makes
	}
	// One sshd a connection, as inetd does: no port to choose.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	defer served.Wait()
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f, err := c.(*net.TCPConn).File()
			c.Close()
			if err != nil {
				continue
			}
			served.Go(func() {
				defer f.Close()
				cmd := exec.Command(sshd, "-i", "-e", "-f", file("sshd_config"))
				cmd.Stdin, cmd.Stdout = f, f
				cmd.Run()
			})
		}
	}()
	earth, _ := pair(t, "-R", "22:"+l.Addr().String())

	self, _ := os.Executable()
	opts := []string{"-F", "none", "-i", file("id"), "-o", "IdentitiesOnly=yes", "-o", "UserKnownHostsFile=" + file("known"),
		"-o", "StrictHostKeyChecking=accept-new", "-o", "BatchMode=yes", "-o", "ProxyCommand='" + self + "' connect -dir '" + earth.dir + "' %h:%p"}
	do := func(name string, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, name, append(opts, args...)...)
		cmd.Env = append(os.Environ(), "IDLOC_GATEWAY=1")
		out, err := cmd.Output()
		if err != nil {
			var e *exec.ExitError
			if errors.As(err, &e) {
				t.Fatalf("%s %v: %v: %s", name, args, err, e.Stderr)
			}
			t.Fatal(err)
		}
		return string(out)
	}
	at := me.Username + "@mars.example.com"
	if got := do(ssh, at, "echo over the overlay"); got != "over the overlay\n" {
		t.Errorf("ssh: %q", got)
	}
	data := make([]byte, 2_000_000)
	rand.Read(data)
	os.WriteFile(file("data"), data, 0o600)
	do(scp, file("data"), at+":"+file("there"))
	got, err := os.ReadFile(file("there"))
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("scp: %d of %d bytes, %v", len(got), len(data), err)
	}
}

// TestChromium: a browser that knows only the SOCKS5 proxy loads a page with
// images, talks over a WebSocket and downloads 100 MB.
func TestChromium(t *testing.T) {
	if testing.Short() {
		t.Skip("moves 100 MB through a browser")
	}
	chromium := program(t, "chromium", "chromium-browser", "google-chrome")
	big := make([]byte, 100_000_000)
	rand.Read(big)
	var sum uint32 // what the page's script can compute
	for _, b := range big {
		sum = sum*31 + uint32(b)
	}
	type result struct {
		Images int    `json:"images"`
		Socket string `json:"socket"`
		Size   int    `json:"size"`
		Sum    uint32 `json:"sum"`
		Error  string `json:"error"`
	}
	reports := make(chan result, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, `<!doctype html><title>mars</title><img src="red.svg?1"><img src="red.svg?2"><img src="red.svg?3">
<script>
(async () => {
  const r = {};
  try {
    await new Promise(done => addEventListener("load", done));
    r.images = [...document.images].filter(i => i.complete && i.naturalWidth > 0).length;
    r.socket = await new Promise((ok, no) => {
      const s = new WebSocket("ws://" + location.host + "/echo");
      s.onopen = () => s.send("to mars and back");
      s.onmessage = m => ok(m.data);
      s.onerror = () => no(new Error("WebSocket"));
    });
    const body = (await fetch("big")).body.getReader();
    r.size = 0; let sum = 0;
    for (;;) {
      const {done, value} = await body.read();
      if (done) break;
      r.size += value.length;
      for (let i = 0; i < value.length; i++) sum = (Math.imul(sum, 31) + value[i]) >>> 0;
    }
    r.sum = sum;
  } catch (e) { r.error = String(e); }
  fetch("report", {method: "POST", body: JSON.stringify(r)});
})();
</script>`)
	})
	mux.HandleFunc("GET /red.svg", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "image/svg+xml")
		io.WriteString(w, `<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><rect width="8" height="8" fill="red"/></svg>`)
	})
	mux.HandleFunc("GET /big", func(w http.ResponseWriter, r *http.Request) { w.Write(big) })
	mux.Handle("GET /echo", websocket.Handler(func(c *websocket.Conn) { io.Copy(c, c) }))
	mux.HandleFunc("POST /report", func(w http.ResponseWriter, r *http.Request) {
		var res result
		if err := json.NewDecoder(r.Body).Decode(&res); err != nil {
			res.Error = err.Error()
		}
		select {
		case reports <- res:
		default:
		}
	})
	web := httptest.NewServer(mux)
	defer web.Close()
	earth, _ := pair(t, "-R", "80:"+web.Listener.Addr().String())

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--user-data-dir="+filepath.Join(t.TempDir(), "profile"), "--remote-debugging-port=0",
		"--proxy-server=socks5://"+earth.at(t, "SOCKS5 proxy"), "http://mars.example.com/")
	cmd.WaitDelay = 5 * time.Second
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); cmd.Wait() }()
	defer func() { cancel(); <-ended }()
	start := time.Now()
	select {
	case r := <-reports:
		t.Logf("%+v after %v", r, time.Since(start))
		if r.Error != "" || r.Images != 3 || r.Socket != "to mars and back" || r.Size != len(big) || r.Sum != sum {
			t.Errorf("the page says %+v, want %d bytes of sum %d", r, len(big), sum)
		}
	case <-ended:
		t.Fatalf("the browser ended: %s", said.String())
	}
}
