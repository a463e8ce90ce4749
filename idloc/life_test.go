package idloc_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
)

// A restarted peer is the same peer: ID, name, and the LSIs that it gave.
func TestRestart(t *testing.T) {
	t.Parallel()
	earthDir, marsDir := filepath.Join(t.TempDir(), "earth"), filepath.Join(t.TempDir(), "mars")
	earth := found(t, idloc.Config{Dir: earthDir})
	// Its own: another node of the process could take the /16 that it leaves.
	lsis := netip.MustParsePrefix("10.77.0.0/16")
	mars := join(t, earth, "mars", idloc.Config{Dir: marsDir, LSIPrefix: lsis})
	port := echo(t, earth)
	c, err := dialTimeout(t, mars, "tcp", "earth:"+port)
	if err != nil {
		t.Fatal(err)
	}
	before, _ := mars.WhoIs(c.RemoteAddr())
	c.Close()
	if _, err := idloc.Open(t.Context(), idloc.Config{Dir: marsDir, Addrs: loopback}); err == nil || !strings.Contains(err.Error(), marsDir) {
		t.Errorf("second node on one Dir: %v, want an error that names it", err)
	}
	if err := mars.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := idloc.Open(t.Context(), idloc.Config{Dir: marsDir, Addrs: loopback, LSIPrefix: lsis})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	defer again.Close()
	if again.ID() != mars.ID() || again.Name() != "mars.example.com" {
		t.Errorf("after a restart: %v %s, before: %v mars.example.com", again.ID(), again.Name(), mars.ID())
	}
	c, err = dialTimeout(t, again, "tcp", "earth:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := roundTrip(c, []byte("back")); err != nil {
		t.Fatal(err)
	}
	if after, _ := again.WhoIs(c.RemoteAddr()); !reflect.DeepEqual(after, before) {
		t.Errorf("earth was %+v, is %+v", before, after)
	}
}

func TestFounderRestart(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "earth")
	earth := found(t, idloc.Config{Dir: dir})
	id := earth.ID()
	if err := earth.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := idloc.Create(t.Context(), "example.org", idloc.Config{Dir: dir, Addrs: loopback}); err == nil {
		t.Error("Create of another domain in the same Dir succeeded")
	}
	again, err := idloc.Create(t.Context(), "example.com", idloc.Config{Dir: dir, Addrs: loopback})
	if err != nil {
		t.Fatalf("Create again: %v", err)
	}
	defer again.Close()
	if again.ID() != id {
		t.Error("the founder has another ID after a restart")
	}
	if _, err := again.Invite(idloc.InviteOptions{Name: "mars"}); err != nil {
		t.Errorf("Invite after a restart: %v", err)
	}
}

func TestOpenWithoutState(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"", filepath.Join(t.TempDir(), "nothing"), t.TempDir()} {
		if _, err := idloc.Open(t.Context(), idloc.Config{Dir: dir, Addrs: loopback}); !errors.Is(err, idloc.ErrNoState) {
			t.Errorf("Open(%q): %v, want ErrNoState", dir, err)
		}
	}
	if _, err := os.Stat(filepath.Join(t.TempDir(), "nothing")); err == nil {
		t.Error("Open made a directory")
	}
}

func TestJoinErrors(t *testing.T) {
	t.Parallel()
	earth := found(t, idloc.Config{})
	token, err := earth.Invite(idloc.InviteOptions{Name: "mars"})
	if err != nil {
		t.Fatal(err)
	}
	typo := []byte(token)
	typo[len(typo)/2] ^= 1
	for desc, text := range map[string]string{"typo": string(typo), "cut": token[:len(token)-1], "empty": "", "other text": "hello"} {
		if n, err := idloc.Join(t.Context(), text, idloc.Config{Addrs: loopback}); err == nil {
			n.Close()
			t.Errorf("Join with a token with %s succeeded", desc)
		}
	}
	earth.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if n, err := idloc.Join(ctx, token, idloc.Config{Addrs: loopback}); err == nil {
		n.Close()
		t.Error("Join with nobody there succeeded")
	}
}

func TestUnsupportedSaysSo(t *testing.T) {
	t.Parallel()
	for desc, cfg := range map[string]idloc.Config{
		"STUN over TLS": {ICEServers: []string{"stuns:192.0.2.1"}},
	} {
		if n, err := idloc.Create(t.Context(), "example.com", cfg); !errors.Is(err, errors.ErrUnsupported) {
			if err == nil {
				n.Close()
			}
			t.Errorf("%s: %v, want errors.ErrUnsupported", desc, err)
		}
	}
}

// A refused flow ends at once, and Admit knows who asked.
func TestAdmit(t *testing.T) {
	t.Parallel()
	earth := found(t, idloc.Config{})
	venus := join(t, earth, "venus", idloc.Config{})
	var mu sync.Mutex
	var asked []idloc.Flow
	mars := join(t, earth, "mars", idloc.Config{Admit: func(f idloc.Flow) bool {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, f)
		return f.Peer.Name != "venus.example.com"
	}})
	port := echo(t, mars)
	if c, err := dialTimeout(t, venus, "tcp", "mars:"+port); !errors.Is(err, syscall.ECONNREFUSED) {
		if err == nil {
			c.Close()
		}
		t.Errorf("refused flow: %v, want ECONNREFUSED", err)
	}
	c, err := dialTimeout(t, earth, "tcp", "mars:"+port)
	if err != nil {
		t.Fatalf("admitted flow: %v", err)
	}
	defer c.Close()
	if err := roundTrip(c, []byte("may I")); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	seen := map[string]bool{}
	for _, f := range asked {
		seen[f.Peer.Name] = true
		if f.Network != "tcp" || f.Local.Port() == 0 || f.Remote.Addr() != f.Peer.LSI4 && f.Remote.Addr() != f.Peer.LSI6 {
			t.Errorf("Admit was asked about %+v", f)
		}
	}
	if !seen["venus.example.com"] || !seen["earth.example.com"] {
		t.Errorf("Admit was asked about %v", seen)
	}
}

// writerFunc is a function as a writer.
type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// Unmodified net/http, with the resolver, the status page and a capture.
func TestAroundAFetch(t *testing.T) {
	t.Parallel()
	_, venus, mars := solarWith(t, directly)
	l, err := mars.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "red") })}
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(l) })
	defer wg.Wait()
	defer srv.Close()

	if _, err := venus.Capture(writerFunc(func([]byte) (int, error) { return 0, io.ErrClosedPipe })); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a capture to a writer that takes no header: %v", err)
	}
	// Who has been given the header finds the capture running, and a second
	// one writes nothing.
	var pcap, second bytes.Buffer
	atHeader := false
	stop, err := venus.Capture(writerFunc(func(b []byte) (int, error) {
		if !atHeader {
			atHeader = true
			if _, err := venus.Capture(&second); err == nil || second.Len() > 0 {
				t.Errorf("two captures at once: %v, %d bytes", err, second.Len())
			}
		}
		return pcap.Write(b)
	}))
	if err != nil {
		t.Fatal(err)
	}
	client := venus.HTTPClient()
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://mars.example.com/")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || string(body) != "red" {
		t.Fatalf("body %q, %v", body, err)
	}
	stop()
	stop()
	checkPcap(t, pcap.Bytes())

	who, err := venus.Resolver().LookupNetIP(t.Context(), "ip4", "mars.example.com")
	if err != nil || len(who) != 1 {
		t.Fatalf("LookupNetIP: %v, %v", who, err)
	}
	names, err := venus.Resolver().LookupAddr(t.Context(), who[0].Unmap().String())
	if err != nil || len(names) != 1 || names[0] != "mars.example.com." {
		t.Errorf("LookupAddr(%v) = %v, %v", who[0], names, err)
	}
	var dns *net.DNSError
	if _, err := venus.Resolver().LookupHost(t.Context(), "pluto.example.com"); !errors.As(err, &dns) || !dns.IsNotFound {
		t.Errorf("LookupHost of nobody: %v", err)
	}

	ping, err := venus.Ping(t.Context(), "mars")
	if err != nil || ping.Peer.ID != mars.ID() || ping.RTT <= 0 || ping.Path.Kind != "direct" || !ping.Path.Remote.IsValid() {
		t.Errorf("Ping = %+v, %v", ping, err)
	}

	page := httptest.NewServer(venus.Handler())
	defer page.Close()
	c, err := venus.Dial(t.Context(), "tcp", "mars:80") // an event for the log
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	for path, want := range map[string]string{"/": "page.js", "/page.js": "status.json", "/page.css": "color-scheme", "/events.json": `"dialed"`, "/status.json": mars.ID().String()} {
		resp, err := page.Client().Get(page.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("%s: %s without %q", path, resp.Status, want)
		}
		var st idloc.Status
		if path == "/status.json" {
			if err := json.Unmarshal(body, &st); err != nil || st.Self.Name != "venus.example.com" {
				t.Errorf("status.json: %v, %+v", err, st.Self)
			}
		}
	}
}

// checkPcap wants well-formed records that begin with IP headers, and one SYN.
func checkPcap(t *testing.T, b []byte) {
	t.Helper()
	if len(b) < 24 || binary.LittleEndian.Uint32(b) != 0xa1b23c4d || binary.LittleEndian.Uint32(b[20:]) != 101 {
		t.Fatalf("no pcap header in %d bytes", len(b))
	}
	syn := false
	for b = b[24:]; len(b) > 0; {
		n := int(binary.LittleEndian.Uint32(b[8:]))
		p := b[16 : 16+n]
		if v := p[0] >> 4; v != 4 && v != 6 {
			t.Fatalf("record of IP version %d", v)
		}
		if p[0] == 0x45 && p[9] == 6 && p[33]&0x3f == 2 {
			syn = true
		}
		b = b[16+n:]
	}
	if !syn {
		t.Error("no SYN in the capture")
	}
}

func TestInviteNeedsARight(t *testing.T) {
	t.Parallel()
	earth := found(t, idloc.Config{})
	mars := join(t, earth, "mars", idloc.Config{})
	if _, err := mars.Invite(idloc.InviteOptions{Name: "phobos"}); !errors.Is(err, idloc.ErrRefusedByPolicy) {
		t.Errorf("Invite by a plain member: %v", err)
	}
	if err := mars.Revoke(t.Context(), "earth"); !errors.Is(err, idloc.ErrRefusedByPolicy) {
		t.Errorf("Revoke by a plain member: %v", err)
	}
}

// Two tokens for any label and one wish: the second peer learns its name.
func TestNameTie(t *testing.T) {
	t.Parallel()
	earth := found(t, idloc.Config{})
	var names []string
	for range 2 {
		token, err := earth.Invite(idloc.InviteOptions{})
		if err != nil {
			t.Fatal(err)
		}
		n, err := idloc.Join(t.Context(), token, idloc.Config{Name: "mars", Addrs: loopback})
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		names = append(names, n.Name())
		port := echo(t, n)
		c, err := dialTimeout(t, earth, "tcp", n.Name()+":"+port)
		if err != nil {
			t.Fatalf("dialling %s: %v", n.Name(), err)
		}
		who, _ := earth.WhoIs(c.RemoteAddr())
		c.Close()
		if who.ID != n.ID() {
			t.Errorf("%s leads to another peer", n.Name())
		}
	}
	if names[0] != "mars.example.com" || names[1] != "mars-2.example.com" {
		t.Errorf("names %v", names)
	}
}

func TestDialer(t *testing.T) {
	t.Parallel()
	earth := found(t, idloc.Config{})
	mars := join(t, earth, "mars", idloc.Config{})
	port := echo(t, mars)
	other, err := idloc.Create(t.Context(), "example.org", idloc.Config{Name: "sun", Addrs: loopback})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	d := &idloc.Dialer{Nodes: []*idloc.Node{other, earth}}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := d.Dial(ctx, "tcp", "mars.example.com:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := roundTrip(c, []byte("by name")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Dial(ctx, "tcp", "127.0.0.1:"+port); !errors.Is(err, idloc.ErrRefusedByPolicy) {
		t.Errorf("an address outside without Real: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d.Real = &net.Dialer{}
	real, err := d.Dial(ctx, "tcp", l.Addr().String())
	if err != nil {
		t.Fatalf("a real address: %v", err)
	}
	real.Close()
	// Names of an overlay are not asked for outside, its own name neither.
	d.Real = &net.Dialer{Resolver: &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		t.Error("a DNS server outside is asked")
		return nil, errors.New("no DNS here")
	}}}
	for _, host := range []string{"example.com", "Example.COM.", "pluto.example.org", "a.b.example.com"} {
		var dns *net.DNSError
		if _, err := d.Dial(ctx, "tcp", host+":80"); !errors.As(err, &dns) || !dns.IsNotFound {
			t.Errorf("%s: %v", host, err)
		}
	}
	d.Encapsulation = idloc.Null
	if _, err := d.Dial(ctx, "tcp", "mars.example.com:"+port); !errors.Is(err, idloc.ErrRefusedByPolicy) {
		t.Errorf("null encapsulation, which is off: %v", err)
	}
}

func TestLSIPrefix(t *testing.T) {
	t.Parallel()
	prefix := netip.MustParsePrefix("100.64.8.0/24")
	earth := found(t, idloc.Config{LSIPrefix: prefix})
	if v4, _ := earth.LSIs(); !prefix.Contains(v4) {
		t.Errorf("LSI %v outside %v", v4, prefix)
	}
}
