package idloc_test

import (
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
	"github.com/idloc/idloc/overlay/membership"
)

// TestParseToken: a token says what it is for, and nothing by which somebody could
// join.
func TestParseToken(t *testing.T) {
	t.Parallel()
	earth := found(t, idloc.Config{})
	at := netip.AddrPortFrom(loopback[0], earth.Status().Self.Port)
	for _, opts := range []idloc.InviteOptions{
		{}, {Name: "mars", Expires: time.Hour}, {Relay: true}, {Delegate: true, Expires: 48 * time.Hour}, {Name: "venus", Relay: true, Delegate: true},
		{Uses: 3}, {Uses: idloc.AnyNumber},
	} {
		begin := time.Now()
		token, err := earth.Invite(opts)
		if err != nil {
			t.Fatal(err)
		}
		info, err := idloc.ParseToken(" " + strings.ToUpper(token) + "\n")
		if err != nil {
			t.Fatal(err)
		}
		lasts := opts.Expires
		if lasts == 0 {
			lasts = 24 * time.Hour
		}
		uses := opts.Uses
		if uses == 0 {
			uses = 1
		}
		// It counts in whole seconds.
		if d := info.Expires.Sub(begin) - lasts; d < -2*time.Second || d > time.Since(begin)+2*time.Second {
			t.Errorf("%+v: expires %v", opts, info.Expires)
		}
		if info.Domain != "example.com" || info.Name != opts.Name || info.Uses != uses || info.Relay != opts.Relay || info.Delegate != opts.Delegate ||
			!slices.Equal(info.Members, []netip.AddrPort{at}) || info.From.After(time.Now()) || info.Issuer != (idloc.PeerID{}) {
			t.Errorf("%+v: %+v", opts, info)
		}
		if !slices.ContainsFunc(earth.Invitations(), func(i idloc.Invitation) bool { return i.ID == info.Invitation && i.Name == opts.Name }) {
			t.Errorf("%+v: Invitations has no %s", opts, info.Invitation)
		}
		b, err := json.Marshal(info)
		if err != nil {
			t.Fatal(err)
		}
		for i := 10; i+16 < len(token); i += 16 {
			if strings.Contains(string(b), token[i:i+16]) {
				t.Errorf("a part of the token is in %s", b)
			}
		}
	}
	if _, err := idloc.ParseToken("hello"); !errors.Is(err, membership.ErrNotToken) {
		t.Errorf("no token: %v", err)
	}
}

// TestTokenOfDelegate: a token says which delegate has made it.
func TestTokenOfDelegate(t *testing.T) {
	t.Parallel()
	earth := found(t, idloc.Config{})
	token, err := earth.Invite(idloc.InviteOptions{Name: "mars", Delegate: true})
	if err != nil {
		t.Fatal(err)
	}
	mars, err := idloc.Join(t.Context(), token, idloc.Config{Addrs: loopback})
	if err != nil {
		t.Fatal(err)
	}
	defer mars.Close()
	within(t, "mars may invite", patience, func() bool { token, err = mars.Invite(idloc.InviteOptions{Name: "venus"}); return err == nil })
	if info, err := idloc.ParseToken(token); err != nil || info.Issuer != mars.ID() {
		t.Errorf("by %v, %v; want %v", info.Issuer, err, mars.ID())
	}
}

// TestTokenUpperCase: a token in capitals, as a QR code with alphanumeric mode has
// it, is the same token.
func TestTokenUpperCase(t *testing.T) {
	t.Parallel()
	earth := found(t, idloc.Config{})
	token, err := earth.Invite(idloc.InviteOptions{Name: "mars"})
	if err != nil {
		t.Fatal(err)
	}
	mars, err := idloc.Join(t.Context(), strings.ToUpper(token), idloc.Config{Addrs: loopback})
	if err != nil {
		t.Fatal(err)
	}
	defer mars.Close()
	if mars.Name() != "mars.example.com" {
		t.Errorf("in as %s", mars.Name())
	}
}

// TestInvitations: a node lists the tokens that it has made and who came by which, and
// ends one, by its text or its ID, before and after it was used.
func TestInvitations(t *testing.T) {
	t.Parallel()
	earth := found(t, idloc.Config{})
	mars := join(t, earth, "mars", idloc.Config{})
	unused, err := earth.Invite(idloc.InviteOptions{Uses: 2, Relay: true})
	if err != nil {
		t.Fatal(err)
	}
	find := func(name string) idloc.Invitation {
		t.Helper()
		for _, i := range earth.Invitations() {
			if i.Name == name {
				return i
			}
		}
		t.Fatalf("no invitation for %q: %+v", name, earth.Invitations())
		return idloc.Invitation{}
	}
	if i := find("mars"); i.Uses != 1 || i.Withdrawn || i.Relay || len(i.Members) != 1 || i.Members[0].ID != mars.ID() || i.Members[0].Name != "mars.example.com" || !i.Members[0].Confirmed {
		t.Errorf("used: %+v", i)
	}
	if i := find(""); i.Uses != 2 || !i.Relay || i.Withdrawn || len(i.Members) != 0 || time.Until(i.Expires) < 23*time.Hour {
		t.Errorf("unused: %+v", i)
	}
	if err := errors.Join(earth.Withdraw(t.Context(), unused), earth.Withdraw(t.Context(), find("mars").ID[:10])); err != nil {
		t.Fatal(err)
	}
	if !find("").Withdrawn || !find("mars").Withdrawn {
		t.Errorf("withdrawn: %+v", earth.Invitations())
	}
	if _, err := idloc.Join(t.Context(), unused, idloc.Config{Addrs: loopback}); err == nil {
		t.Error("a token that was withdrawn admits")
	}
	if _, err := mars.Ping(t.Context(), "earth"); err != nil {
		t.Errorf("who was confirmed: %v", err)
	}
	if err := mars.Withdraw(t.Context(), unused); !errors.Is(err, idloc.ErrRefusedByPolicy) {
		t.Errorf("a member withdraws: %v", err)
	}
	if mars.Invitations() != nil {
		t.Error("a member has invitations")
	}
	earth.Close()
	if err := earth.Withdraw(t.Context(), unused); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}
