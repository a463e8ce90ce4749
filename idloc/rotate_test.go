package idloc_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
)

// A node gets another key: it is closed, and the next Open is by the new key, under the
// same name, for who knew it as well. Who has copied its directory before is nobody then.
func TestRotate(t *testing.T) {
	t.Parallel()
	tmp := t.TempDir()
	dir, stolen := filepath.Join(tmp, "mars"), filepath.Join(tmp, "stolen")
	earth := found(t, idloc.Config{})
	venus := join(t, earth, "venus", idloc.Config{})
	mars := join(t, earth, "mars", idloc.Config{Dir: dir})
	old := mars.ID()
	if p, err := venus.Ping(t.Context(), "mars"); err != nil || p.Peer.ID != old { // it is pinned
		t.Fatalf("%+v, %v", p, err)
	}
	if err := earth.Rotate(t.Context()); err == nil {
		t.Error("the founder, and without a directory, has another key")
	}
	if err := venus.Rotate(t.Context()); err == nil || !strings.Contains(err.Error(), "Dir is empty") {
		t.Errorf("without a directory: %v", err)
	}
	if err := mars.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(stolen, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(stolen)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files { // what others can read is refused
		if err := os.Chmod(filepath.Join(stolen, f.Name()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(stolen, 0o700); err != nil {
		t.Fatal(err)
	}
	open := func(dir string, within time.Duration) *idloc.Node { // or it is alone
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		n, err := idloc.Open(ctx, idloc.Config{Dir: dir, Addrs: loopback})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close() })
		return n
	}
	mars = open(dir, patience)
	if err := mars.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := mars.Rotate(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("it is not closed: %v", err)
	}
	mars = open(dir, patience)
	if mars.ID() == old || mars.Name() != "mars.example.com" {
		t.Fatalf("it is %v, %s", mars.ID(), mars.Name())
	}
	within(t, "the new key is found by who knew the old one", time.Minute, func() bool {
		p, err := venus.Ping(t.Context(), "mars")
		return err == nil && p.Peer.ID == mars.ID()
	})
	if _, err := mars.Ping(t.Context(), "venus"); err != nil {
		t.Error(err)
	}
	thief := open(stolen, 10*time.Second)
	if thief.ID() != old {
		t.Fatalf("the thief has %v", thief.ID())
	}
	within(t, "the thief is told that it is nobody", time.Minute, func() bool {
		return strings.Contains(thief.Status().Self.AloneWhy, "revoked")
	})
	if err := mars.Close(); err != nil {
		t.Fatal(err)
	}
	if again := open(dir, patience); again.ID() != mars.ID() { // once more, now that it is its identity
		t.Errorf("then it is %v", again.ID())
	}
}
