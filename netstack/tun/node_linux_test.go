package tun_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
)

// A node with Config.TUN: its own API on the kernel, and a program of its host
// that knows nothing of idloc, both towards a node with gVisor in the process.
func TestNode(t *testing.T) {
	if why := os.Getenv("IDLOC_TUN_NAMESPACE"); why != "yes" {
		t.Skip(why)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	loopback := []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	var asked atomic.Int32
	earth, err := idloc.Create(ctx, "example.com", idloc.Config{Name: "earth", Addrs: loopback, TUN: "overlay0", Admit: func(f idloc.Flow) bool {
		asked.Add(1)
		return f.Peer.Name == "mars.example.com" && f.Local.Port() != 23
	}})
	if errors.Is(err, fs.ErrPermission) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer earth.Close()
	token, err := earth.Invite(idloc.InviteOptions{Name: "mars"})
	if err != nil {
		t.Fatal(err)
	}
	mars, err := idloc.Join(ctx, token, idloc.Config{Addrs: loopback})
	if err != nil {
		t.Fatal(err)
	}
	defer mars.Close()
	if s := earth.Status().Self; s.TUN != "overlay0" {
		t.Errorf("Status names the device %q", s.TUN)
	}
	var pcap bytes.Buffer
	stop, err := earth.Capture(&pcap)
	if err != nil {
		t.Fatal(err)
	}

	// The host's programs find mars by DNS and reach it.
	echo(t, mars, ":7")
	names := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(earth.Status().Self.DNS.String(), "53"))
	}}
	lsis, err := names.LookupNetIP(ctx, "ip", "mars.example.com")
	if err != nil || len(lsis) != 2 {
		t.Fatalf("mars is %v, %v", lsis, err)
	}
	if back, err := names.LookupAddr(ctx, lsis[0].Unmap().String()); err != nil || back[0] != "mars.example.com." {
		t.Errorf("%v is %v, %v", lsis[0], back, err)
	}
	for _, lsi := range lsis {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(lsi.Unmap().String(), "7"), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		said(t, c)
	}

	// So does the node itself, and it is told who comes.
	c, err := earth.Dial(ctx, "tcp", "mars.example.com:7")
	if err != nil {
		t.Fatal(err)
	}
	if who, err := earth.WhoIs(c.RemoteAddr()); err != nil || who.Name != "mars.example.com" {
		t.Errorf("behind %v is %+v, %v", c.RemoteAddr(), who, err)
	}
	said(t, c)
	if _, err := earth.Dial(ctx, "tcp", "mars:81"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a closed port: %v", err)
	}
	echo(t, earth, ":7")
	if c, err = mars.Dial(ctx, "tcp", "earth:7"); err != nil {
		t.Fatal(err)
	}
	said(t, c)
	echo(t, earth, ":23")
	if _, err := mars.Dial(ctx, "tcp", "earth:23"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a port that Admit refuses: %v", err)
	}
	if n := asked.Load(); n != 3 { // the refused dial tries both of earth's LSIs
		t.Errorf("Admit was asked %d times", n)
	}
	stop()
	if pcap.Len() < 1000 {
		t.Errorf("%d bytes were captured", pcap.Len())
	}

	// A peer that went is told of, with the stage.
	mars.Close()
	short, end := context.WithTimeout(ctx, 3*time.Second) // a Dial tries as long as it may
	_, err = earth.Dial(short, "tcp", "mars.example.com:7")
	end()
	var stage *idloc.StageError
	if !errors.As(err, &stage) || !errors.Is(err, idloc.ErrUnreachable) {
		t.Errorf("a peer that is gone: %v", err)
	}
	if _, err := net.InterfaceByName("overlay0"); err != nil {
		t.Error(err)
	}
	if err := earth.Close(); err != nil {
		t.Error(err)
	}
	if _, err := net.InterfaceByName("overlay0"); err == nil {
		t.Error("the device outlives the node")
	}
}

// A name that is no device's is an error, and leaves nothing behind.
func TestNodeWithoutDevice(t *testing.T) {
	_, err := idloc.Create(t.Context(), "example.com", idloc.Config{Name: "earth", TUN: "with/slash",
		Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}})
	if err == nil || !strings.Contains(err.Error(), "tun") {
		t.Errorf("%v", err)
	}
}

func echo(t *testing.T, n *idloc.Node, at string) {
	t.Helper()
	l, err := n.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

// said sends something to an echo and closes c.
func said(t *testing.T, c net.Conn) {
	t.Helper()
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
	want := bytes.Repeat([]byte("hello "), 10000)
	go func() { _, _ = c.Write(want) }()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v: %v", c.RemoteAddr(), err)
	}
}
