package idloc_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
)

// A device that was lost: its name moves to another key, for those who knew it as well, and
// the old one is out. Only the founder does that, and where no token can be made nobody is
// revoked.
func TestReplaces(t *testing.T) {
	t.Parallel()
	earth := found(t, idloc.Config{})
	venus := join(t, earth, "venus", idloc.Config{})
	token, err := earth.Invite(idloc.InviteOptions{Name: "mars"})
	if err != nil {
		t.Fatal(err)
	}
	enter := func(token string) *idloc.Node {
		t.Helper()
		n, err := idloc.Join(t.Context(), token, idloc.Config{Addrs: loopback})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close() })
		return n
	}
	old := enter(token)
	if p, err := venus.Ping(t.Context(), "mars"); err != nil || p.Peer.ID != old.ID() { // it is pinned
		t.Fatalf("%+v, %v", p, err)
	}
	for desc, c := range map[string]struct {
		by   *idloc.Node
		opts idloc.InviteOptions
		want string
	}{
		"by another":                     {venus, idloc.InviteOptions{Replaces: "mars"}, "founder"},
		"for another name":               {earth, idloc.InviteOptions{Replaces: "mars", Name: "pluto"}, "cannot be for"},
		"a token that cannot be":         {earth, idloc.InviteOptions{Replaces: "mars", Expires: -time.Hour}, "lifetime"},
		"nobody":                         {earth, idloc.InviteOptions{Replaces: "nobody"}, "no such"},
		"the founder":                    {earth, idloc.InviteOptions{Replaces: "earth"}, "authority"},
		"a name of another overlay":      {earth, idloc.InviteOptions{Replaces: "mars.example.org"}, "example.org"},
		"for a number of members":        {earth, idloc.InviteOptions{Replaces: "mars", Uses: 2}, "2 for"},
		"by another, for no lawful time": {venus, idloc.InviteOptions{Replaces: "mars", Expires: -time.Hour}, "founder"},
	} {
		if _, err := c.by.Invite(c.opts); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", desc, err)
		}
	}
	if _, err := venus.Invite(idloc.InviteOptions{Replaces: "mars"}); !errors.Is(err, idloc.ErrRefusedByPolicy) {
		t.Errorf("by another: %v", err)
	}
	if n := earth.Status().Self.Revoked; n > 2 { // tokens that nobody has are withdrawn
		t.Errorf("list %d", n)
	}
	if _, err := venus.Ping(t.Context(), "mars"); err != nil {
		t.Errorf("mars is out: %v", err)
	}
	token, err = earth.Invite(idloc.InviteOptions{Replaces: "mars.example.com", Relay: true})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := idloc.ParseToken(token); err != nil || info.Name != "mars" || info.Uses != 1 || !info.Relay {
		t.Errorf("the token: %+v, %v", info, err)
	}
	within(t, "the pipe to the old one gone", time.Minute, func() bool { return !hasPipe(venus, old.ID()) })
	mars := enter(token)
	if mars.Name() != "mars.example.com" || mars.ID() == old.ID() {
		t.Errorf("the new one: %s, %v", mars.Name(), mars.ID())
	}
	within(t, "the new one is found by who knew the old one", time.Minute, func() bool {
		p, err := venus.Ping(t.Context(), "mars")
		return err == nil && p.Peer.ID == mars.ID()
	})
	if _, err := old.Ping(t.Context(), "venus"); err == nil {
		t.Error("the old one speaks to others")
	}
}

// What a server of package net/http has of its client is enough to know who it is.
func TestWhoIsString(t *testing.T) {
	t.Parallel()
	earth := found(t, idloc.Config{})
	mars := join(t, earth, "mars", idloc.Config{})
	l, err := mars.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	serveHTTP(t, l, func(_ http.ResponseWriter, r *http.Request) {
		if p, err := mars.WhoIsString(r.RemoteAddr); err != nil || p.ID != earth.ID() || p.Name != "earth.example.com" {
			t.Errorf("%q is %+v, %v", r.RemoteAddr, p, err)
		}
	})
	client := earth.HTTPClient()
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://mars.example.com/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	v4, v6 := mars.LSIs()
	for _, text := range []string{v4.String(), v6.String(), "[" + v6.String() + "]:80", v4.String() + ":1"} {
		if p, err := mars.WhoIsString(text); err != nil || p.ID != mars.ID() {
			t.Errorf("%q is %+v, %v", text, p, err)
		}
	}
	for _, text := range []string{"", "nobody", "192.0.2.1:80", v4.String() + ":port", "mars:80"} {
		if p, err := mars.WhoIsString(text); err == nil {
			t.Errorf("%q is %+v", text, p)
		}
	}
}
