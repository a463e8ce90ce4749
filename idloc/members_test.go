package idloc_test

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
	"github.com/idloc/idloc/internal/yardstick"
)

// TestRevoke: a conn through the pipe of a revoked member ends within 60 s, its
// name is gone, it dials nobody, and a restart of everyone changes nothing
// about that.
func TestRevoke(t *testing.T) {
	t.Parallel()
	tmp := t.TempDir()
	earthDir, venusDir, marsDir := filepath.Join(tmp, "earth"), filepath.Join(tmp, "venus"), filepath.Join(tmp, "mars")
	earth := found(t, idloc.Config{Dir: earthDir})
	venus := join(t, earth, "venus", idloc.Config{Dir: venusDir})
	mars := join(t, earth, "mars", idloc.Config{Dir: marsDir})
	port := echo(t, venus)
	c, err := dialTimeout(t, mars, "tcp", "venus:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := roundTrip(c, []byte("before")); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := earth.Revoke(t.Context(), "mars.example.com"); err != nil {
		t.Fatal(err)
	}
	within(t, "the pipe to mars gone", 60*time.Second, func() bool { return !hasPipe(venus, mars.ID()) })
	t.Logf("pipe gone after %v", time.Since(start).Round(time.Millisecond))
	c.SetDeadline(time.Now().Add(time.Second))
	if _, err := c.Write([]byte("after")); err == nil {
		if _, err := c.Read(make([]byte, 5)); err == nil {
			t.Error("the conn of a revoked member still carries data")
		}
	}
	// Venus was told by earth, not by mars: it may not even ask for it.
	if _, err := dialTimeout(t, venus, "tcp", "mars:"+port); err == nil {
		t.Error("the revoked member's name can be dialled")
	}
	for _, n := range []*idloc.Node{earth, venus, mars} {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}

	open := func(dir string) *idloc.Node {
		n, err := idloc.Open(t.Context(), idloc.Config{Dir: dir, Addrs: loopback})
		if err != nil {
			t.Fatalf("Open(%s): %v", dir, err)
		}
		t.Cleanup(func() { n.Close() })
		return n
	}
	earth, venus = open(earthDir), open(venusDir)
	if got := earth.Status().Self.Revoked; got != 1 {
		t.Errorf("the founder came back with revocation list %d", got)
	}
	if got := venus.Status().Self.Revoked; got != 1 {
		t.Errorf("venus came back with revocation list %d", got)
	}
	port = echo(t, venus)
	// Mars may have heard of it or not; in neither case does it get anywhere.
	if again, err := idloc.Open(t.Context(), idloc.Config{Dir: marsDir, Addrs: loopback}); err == nil {
		defer again.Close()
		// It knows nothing for certain, so a Dial goes on as long as it may.
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if c, err := again.Dial(ctx, "tcp", "venus:"+port); err == nil {
			c.Close()
			t.Error("the revoked member dials after a restart")
		}
	}
	if _, err := dialTimeout(t, venus, "tcp", "mars:"+port); err == nil {
		t.Error("the revoked member's name can be dialled after a restart")
	}
}

// hasPipe says whether n has a pipe to a peer.
func hasPipe(n *idloc.Node, id idloc.PeerID) bool {
	for _, p := range n.Status().Peers {
		if p.ID == id {
			return p.Connected
		}
	}
	return false
}

// within looks again and again, for a time by the yardstick: a node's background
// work has no end to wait on.
func within(t testing.TB, what string, limit time.Duration, ok func() bool) {
	t.Helper()
	if !yardstick.Await(limit, ok) {
		t.Fatalf("not within %v: %s", limit, what)
	}
}

// TestDamagedState: each file of a node's directory, cut or changed, gives an
// error that names it, and stays as it is.
func TestDamagedState(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "earth")
	earth := found(t, idloc.Config{Dir: dir})
	join(t, earth, "mars", idloc.Config{}).Close()
	if err := earth.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"identity.json", "overlay.json"} { // the others stop nobody: TestDamagedFiles
		file := filepath.Join(dir, name)
		good, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(file); err != nil || runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is readable by others: %v, %v", file, info, err)
		}
		for desc, bad := range map[string]string{
			"cut": string(good[:len(good)/2]), "empty": "", "other text": "hello",
			"changed": strings.Replace(string(good), ":", " :", 1) + "x",
		} {
			if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
				t.Fatal(err)
			}
			n, err := idloc.Open(t.Context(), idloc.Config{Dir: dir, Addrs: loopback})
			if err == nil {
				n.Close()
				t.Errorf("Open with %s %s succeeded", filepath.Base(file), desc)
			} else if !strings.Contains(err.Error(), file) {
				t.Errorf("Open with %s %s: %v, want an error that names it", filepath.Base(file), desc, err)
			}
			if errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Open with %s %s: %v", filepath.Base(file), desc, err)
			}
			if now, err := os.ReadFile(file); err != nil || string(now) != bad {
				t.Errorf("%s %s was overwritten: %q, %v", filepath.Base(file), desc, now, err)
			}
		}
		if err := os.WriteFile(file, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	again, err := idloc.Open(t.Context(), idloc.Config{Dir: dir, Addrs: loopback})
	if err != nil {
		t.Fatalf("Open with all files mended: %v", err)
	}
	again.Close()
}

// TestLeave: the name of a node that left is gone at once, for those that had
// asked for it before as well; and it is there again when the node comes back.
func TestLeave(t *testing.T) {
	t.Parallel()
	earth := found(t, idloc.Config{})
	venus := join(t, earth, "venus", idloc.Config{})
	dir := filepath.Join(t.TempDir(), "mars")
	mars := join(t, earth, "mars", idloc.Config{Dir: dir})
	port := echo(t, mars)
	c, err := dialTimeout(t, venus, "tcp", "mars:"+port)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := mars.Leave(t.Context()); err != nil {
		t.Fatalf("Leave: %v", err)
	}
	if err := mars.Leave(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Leave again: %v", err)
	}
	notFound := func(err error) bool {
		var dns *net.DNSError
		return errors.As(err, &dns) && dns.IsNotFound
	}
	if _, err := dialTimeout(t, earth, "tcp", "mars:"+port); !notFound(err) {
		t.Errorf("dialling who has left: %v, want a DNSError that says not found", err)
	}
	// Venus has the answer from before for a while; a Dial that fails ends that.
	if _, err := dialTimeout(t, venus, "tcp", "mars:"+port); err == nil {
		t.Error("a conn to a node that has left")
	}
	if _, err := dialTimeout(t, venus, "tcp", "mars:"+port); !notFound(err) {
		t.Errorf("dialling once more who has left: %v, want a DNSError that says not found", err)
	}
	again, err := idloc.Open(t.Context(), idloc.Config{Dir: dir, Addrs: loopback})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { again.Close() })
	if again.Name() != "mars.example.com" || again.ID() != mars.ID() {
		t.Errorf("came back as %s, %s", again.Name(), again.ID())
	}
	port = echo(t, again)
	if c, err = dialTimeout(t, earth, "tcp", "mars:"+port); err != nil {
		t.Fatalf("dialling who came back: %v", err)
	}
	c.Close()
}

// TestLeaveUnheard: with nobody there to take the tombstone, Leave says so, and
// closes all the same. A founder that is alone has nobody to tell.
func TestLeaveUnheard(t *testing.T) {
	t.Parallel()
	earth := found(t, idloc.Config{})
	mars := join(t, earth, "mars", idloc.Config{})
	if err := earth.Leave(t.Context()); err != nil && !strings.Contains(err.Error(), "tombstone") {
		t.Errorf("the founder leaves: %v", err) // mars, no server yet, may not take it
	}
	within(t, "the founder gone", 20*time.Second, func() bool { return mars.Status().Self.Members == 0 })
	if err := mars.Leave(t.Context()); err == nil || !strings.Contains(err.Error(), `giving up the name "mars"`) {
		t.Errorf("Leave with nobody there: %v", err)
	}
	if _, err := mars.Listen("tcp", ":0"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Listen after Leave: %v", err)
	}
	alone := found(t, idloc.Config{})
	if err := alone.Leave(t.Context()); err != nil {
		t.Errorf("a lone founder leaves: %v", err)
	}
}
