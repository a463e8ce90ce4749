package idloc_test

import (
	"encoding/json"
	"errors"
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
		// It counts in whole seconds.
		if d := info.Expires.Sub(begin) - lasts; d < -2*time.Second || d > time.Since(begin)+2*time.Second {
			t.Errorf("%+v: expires %v", opts, info.Expires)
		}
		if info.Domain != "example.com" || info.Name != opts.Name || info.Relay != opts.Relay || info.Delegate != opts.Delegate ||
			!slices.Equal(info.Members, []netip.AddrPort{at}) || info.From.After(time.Now()) {
			t.Errorf("%+v: %+v", opts, info)
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
