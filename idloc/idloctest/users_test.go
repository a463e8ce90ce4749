package idloctest_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
	. "github.com/idloc/idloc/idloc/idloctest"
)

// TestUsers: a user is where members say it that may, by tags and by the founder's text.
func TestUsers(t *testing.T) {
	t.Parallel()
	lab := New(t, Seed(23))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	earth, venus := lab.Node("earth"), lab.Node("venus")
	mars := lab.Node("mars", Invited(idloc.InviteOptions{Name: "mars", Tags: []string{"user-fred"}}))
	pluto := lab.Node("pluto", Invited(idloc.InviteOptions{Name: "pluto"}))
	at := func(what string, from *Node, user string, want ...*Node) {
		t.Helper()
		found, err := from.LookupUser(ctx, user)
		var dns *net.DNSError
		if len(want) == 0 && !(errors.As(err, &dns) && dns.IsNotFound) || len(want) > 0 && err != nil {
			t.Errorf("%s: %v", what, err)
		}
		var got, names []string
		for _, f := range found {
			got = append(got, f.Peer.Name)
		}
		for _, n := range want {
			names = append(names, n.Name())
		}
		if !slices.Equal(got, names) {
			t.Errorf("%s: %s is at %v, want %v", what, user, got, names)
		}
	}
	say := func(n *Node, user string) error { return n.PublishUser(ctx, user, "q=0.5", time.Hour) }

	at("at first", venus, "sip:fred")
	if err := say(mars, "sip:fred"); err != nil {
		t.Fatal(err)
	}
	at("by the tag of its certificate", venus, "sip:fred", mars)
	if err := say(pluto, "sip:fred"); !errors.Is(err, idloc.ErrRefusedByPolicy) {
		t.Errorf("pluto has no such tag: %v", err)
	}
	if err := say(pluto, "sip:pluto"); err != nil {
		t.Errorf("the founder has named it pluto: %v", err)
	}

	const text = "tag pluto as user-fred\ntag mars as nothing\n"
	if err := earth.SetGrants(ctx, text); err != nil {
		t.Fatal(err)
	}
	grantsReach(t, text, earth, venus, mars, pluto)
	at("the founder has taken it away", venus, "sip:fred")
	at("for its member as well", mars, "sip:fred")
	if err := say(mars, "sip:fred"); !errors.Is(err, idloc.ErrRefusedByPolicy) {
		t.Errorf("mars has the tag no more: %v", err)
	}
	if err := say(pluto, "sip:fred"); err != nil {
		t.Fatal(err)
	}
	at("by the founder's text", earth, "sip:fred", pluto)
	if err := pluto.WithdrawUser(ctx, "sip:fred"); err != nil {
		t.Fatal(err)
	}
	at("given up", earth, "sip:fred")
	if err := pluto.Leave(ctx); err != nil {
		t.Error(err)
	}
	at("its member has left", earth, "sip:pluto")

	if err := mars.OfferSRV("_sip._udp", 5060); err != nil {
		t.Fatal(err)
	}
	if _, s, err := mars.Resolver().LookupSRV(ctx, "sip", "udp", "example.com"); err != nil || fmt.Sprint(s[0].Target, s[0].Port) != "mars.example.com.5060" {
		t.Errorf("SRV: %v, %v", s, err)
	}
	if _, _, err := venus.Resolver().LookupSRV(ctx, "sip", "udp", "example.com"); err == nil {
		t.Error("others find it as well")
	}
}
