package idloc_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/idloc/idloc/idloc"
)

// noDNS is a dialer for everything outside whose DNS must not be asked.
func noDNS(t *testing.T) *net.Dialer {
	return &net.Dialer{Resolver: &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		t.Error("a DNS server outside is asked")
		return nil, errors.New("no DNS here")
	}}}
}

// A label without a domain is the member that has it, for the node's Resolver,
// its HTTPClient and a Dialer as for Dial.
func TestLabelAlone(t *testing.T) {
	t.Parallel()
	earth := found(t, idloc.Config{})
	mars := join(t, earth, "mars", idloc.Config{})
	port := echo(t, mars)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	full, err := earth.Resolver().LookupHost(ctx, "mars.example.com")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := earth.Resolver().LookupHost(ctx, "mars"); err != nil || strings.Join(got, " ") != strings.Join(full, " ") {
		t.Errorf("LookupHost(mars) = %v, %v; mars.example.com is %v", got, err, full)
	}
	d := &idloc.Dialer{Nodes: []*idloc.Node{earth}, Real: noDNS(t)}
	for _, host := range []string{"mars", "MARS", "mars.", mars.ID().Label()} {
		c, err := d.Dial(ctx, "tcp", host+":"+port)
		if err != nil {
			t.Errorf("Dialer with Real, %s: %v", host, err)
			continue
		}
		if err := roundTrip(c, []byte("hello")); err != nil {
			t.Error(err)
		}
		c.Close()
	}
	l, err := mars.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	serveHTTP(t, l, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Host) })
	_, web, _ := net.SplitHostPort(l.Addr().String())
	client := earth.HTTPClient()
	defer client.CloseIdleConnections()
	req, _ := http.NewRequestWithContext(ctx, "GET", "http://mars:"+web+"/", nil)
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "mars:"+web {
		t.Errorf("GET http://mars: %q, %v", b, err)
	}
}

// A label that members of two overlays have is an error that names both, one
// of which nobody can tell whether a member has it is not given to Real, and
// one that nobody has is.
func TestLabelInTwoOverlays(t *testing.T) {
	t.Parallel()
	earth := found(t, idloc.Config{})
	mars := join(t, earth, "mars", idloc.Config{})
	port := echo(t, mars)
	sun, err := idloc.Create(t.Context(), "example.org", idloc.Config{Name: "sun", Addrs: loopback})
	if err != nil {
		t.Fatal(err)
	}
	defer sun.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	real := noDNS(t)
	d := &idloc.Dialer{Nodes: []*idloc.Node{sun, earth, mars}, Real: real} // two in one overlay
	c, err := d.Dial(ctx, "tcp", "mars:"+port)
	if err != nil {
		t.Fatalf("a label of one overlay: %v", err)
	}
	c.Close()

	twin := join(t, sun, "mars", idloc.Config{})
	_, err = d.Dial(ctx, "tcp", "mars:"+port)
	var addr *net.AddrError
	if !errors.As(err, &addr) || !strings.Contains(err.Error(), "mars.example.org, mars.example.com") {
		t.Errorf("a label of two overlays: %v, want an error that names both", err)
	}
	if c, err := d.Dial(ctx, "tcp", "mars.example.com:"+port); err != nil {
		t.Errorf("the full name: %v", err)
	} else {
		c.Close()
	}

	asked := make(chan struct{}, 100)
	d.Real = &net.Dialer{Resolver: &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		asked <- struct{}{}
		return nil, errors.New("no DNS here")
	}}}
	if _, err := d.Dial(ctx, "tcp", "pluto:80"); err == nil || len(asked) == 0 {
		t.Errorf("a label of nobody: %v; it was not given to Real", err)
	}
	d.Real = nil
	if _, err := d.Dial(ctx, "tcp", "pluto:80"); !errors.Is(err, idloc.ErrRefusedByPolicy) {
		t.Errorf("a label of nobody without Real: %v", err)
	}

	d.Real = real
	if err := twin.Close(); err != nil {
		t.Fatal(err)
	}
	d.Nodes = []*idloc.Node{twin, earth}
	if _, err := d.Dial(ctx, "tcp", "pluto:80"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a label of which a closed node cannot tell: %v", err)
	}
	if c, err := d.Dial(ctx, "tcp", "mars:"+port); err != nil {
		t.Errorf("a label that one node has and the other cannot tell: %v", err)
	} else {
		c.Close()
	}
}
