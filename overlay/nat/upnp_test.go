package nat

import (
	"context"
	"errors"
	"net/netip"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/huin/goupnp"
)

// device is an internet gateway device.
type device struct {
	outer    string
	finite   bool // knows mappings that end
	infinite bool // knows mappings that do not
	added    []uint32
	deleted  []uint16
	err      error
}

func (d *device) GetExternalIPAddressCtx(context.Context) (string, error) { return d.outer, d.err }

func (d *device) AddPortMappingCtx(_ context.Context, _ string, external uint16, protocol string, internal uint16, client string, enabled bool, _ string, seconds uint32) error {
	if protocol != "UDP" || internal != 4000 || client != "192.168.1.2" || !enabled {
		return errors.New("what is that?")
	}
	d.added = append(d.added, seconds)
	if seconds == 0 && d.infinite || seconds > 0 && d.finite {
		return nil
	}
	return errors.New("725: only permanent leases, or the other way round")
}

func (d *device) DeletePortMappingCtx(_ context.Context, _ string, external uint16, _ string) error {
	d.deleted = append(d.deleted, external)
	return nil
}

func (d *device) GetServiceClient() *goupnp.ServiceClient { return nil }

// A mapping ends by itself where the router knows that, and does not where it
// does not.
func TestUPnP(t *testing.T) {
	t.Parallel()
	local := netip.MustParseAddrPort("192.168.1.2:4000")
	for _, tt := range []struct {
		finite, infinite bool
		granted          time.Duration
		asked            []uint32
		fails            bool
	}{
		{true, true, mapLife, []uint32{1200}, false},
		{false, true, 0, []uint32{1200, 0}, false},
		{false, false, 0, []uint32{1200, 0}, true},
	} {
		d := &device{finite: tt.finite, infinite: tt.infinite, outer: "20.0.0.9"}
		u := upnp{d}
		port, granted, err := u.add(t.Context(), local, 4001, mapLife)
		if (err != nil) != tt.fails || !slices.Equal(d.added, tt.asked) {
			t.Errorf("%+v: asked for %v s, %v", tt, d.added, err)
		}
		if err == nil && (port != 4001 || granted != tt.granted) {
			t.Errorf("%+v: port %d for %v", tt, port, granted)
		}
		if err := u.remove(t.Context(), local, 4001); err != nil || !slices.Equal(d.deleted, []uint16{4001}) {
			t.Errorf("deleted %v, %v", d.deleted, err)
		}
		if a, err := u.external(t.Context()); err != nil || a.String() != "20.0.0.9" {
			t.Errorf("external %v, %v", a, err)
		}
	}
	if _, err := (upnp{&device{outer: "none"}}).external(t.Context()); err == nil {
		t.Error("an address that is none")
	}
	if _, err := (upnp{&device{err: errors.New("broken")}}).external(t.Context()); err == nil {
		t.Error("a router that does not know its address")
	}
}

// Of those that say they are a gateway the router is taken.
func TestUPnPIsTheRouters(t *testing.T) {
	t.Parallel()
	router := netip.MustParseAddr("192.168.1.1")
	for text, want := range map[string]bool{
		"http://192.168.1.1:5000/desc.xml": true, "http://192.168.1.1/": true,
		"http://192.168.1.9:5000/desc.xml": false, "http://router.example/": false, "": false,
	} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if isRouter(u, router) != want {
			t.Errorf("%q is the router: %v", text, !want)
		}
	}
}
