package mesh

import (
	"bytes"
	"errors"
	"net/netip"
	"reflect"
	"testing"

	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/naming"
	"github.com/idloc/idloc/overlay/p2p"
)

func TestHelloRoundTrip(t *testing.T) {
	h := Hello{Roles: Roles{Server: true, Issuer: true}, Revocation: 7, Seconds: 1700000000, Start: 5, Chain: []byte("chain"), Record: []byte("record"), Addrs: []ma.Multiaddr{p2p.QUIC(netip.MustParseAddrPort("192.0.2.1:443"))}, Assurance: []byte("assurance"), Charter: []byte("charter")}
	b := h.appendTo([]byte{helloWelcome})
	got, err := readHello(bytes.NewReader(b))
	if err != nil || !reflect.DeepEqual(got, h) {
		t.Errorf("got %+v, %v", got, err)
	}
	unassured, unruled := len(b)-2-len(h.Charter)-2-len(h.Assurance), len(b)-2-len(h.Charter) // as earlier versions say it
	for i := range b {
		if got, err := readHello(bytes.NewReader(b[:i])); err == nil != (i == unassured || i == unruled) {
			t.Errorf("%d of %d bytes: %v", i, len(b), err)
		} else if err == nil && (got.Charter != nil || got.Assurance != nil && i == unassured) {
			t.Errorf("%d of %d bytes assure %q, charter %q", i, len(b), got.Assurance, got.Charter)
		}
	}
	long := h
	long.Record = make([]byte, naming.MaxRecord+1)
	if _, err := readHello(bytes.NewReader(long.appendTo([]byte{helloWelcome}))); !errors.Is(err, errHello) {
		t.Errorf("a record that is too long: %v", err)
	}
	long = h
	long.Chain = make([]byte, membership.MaxChain+1)
	if _, err := readHello(bytes.NewReader(long.appendTo([]byte{helloWelcome}))); !errors.Is(err, errHello) {
		t.Errorf("a chain that is too long: %v", err)
	}
	long = h
	long.Assurance = make([]byte, membership.MaxAssurance+1)
	if _, err := readHello(bytes.NewReader(long.appendTo([]byte{helloWelcome}))); !errors.Is(err, errHello) {
		t.Errorf("an assurance that is too long: %v", err)
	}
	refusal := RefusedError{"your clock is wrong", true, false, 17}
	b = refusal.appendTo(nil)
	_, err = readHello(bytes.NewReader(b))
	var refused *RefusedError
	if !errors.As(err, &refused) || *refused != refusal {
		t.Errorf("refusal: %v", err)
	}
	for i := range b {
		if _, err := readHello(bytes.NewReader(b[:i])); errors.As(err, &refused) {
			t.Errorf("a refusal of %d of %d bytes", i, len(b))
		}
	}
}

// Each flag stands for itself.
func TestHelloFlags(t *testing.T) {
	for want, h := range map[byte]Hello{
		0: {}, 1: {Roles: Roles{Server: true}}, 2: {Roles: Roles{NoRelay: true}}, 4: {Roles: Roles{Issuer: true}},
		8: {Keep: true}, 16: {Young: true}, 31: {Roles: Roles{true, true, true}, Keep: true, Young: true},
	} {
		b := h.appendTo([]byte{helloWelcome})
		got, err := readHello(bytes.NewReader(b))
		if err != nil || b[2] != want || got.Roles != h.Roles || got.Keep != h.Keep || got.Young != h.Young {
			t.Errorf("%+v is %d and then %+v, %v", h, b[2], got, err)
		}
	}
}

func FuzzHello(f *testing.F) {
	f.Add(Hello{Roles: Roles{Server: true}, Revocation: 2, Chain: []byte("chain")}.appendTo([]byte{helloWelcome}))
	f.Add(Hello{Revocation: 2, Chain: []byte("chain"), Record: []byte("record"), Addrs: []ma.Multiaddr{p2p.QUIC(netip.MustParseAddrPort("[2001:db8::1]:443"))}}.appendTo([]byte{helloWelcome}))
	f.Add((&RefusedError{"no", false, false, 9}).appendTo(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		h, err := readHello(r)
		if err != nil {
			return
		}
		read := bytes.Clone(b[:len(b)-r.Len()])
		read[2] &= 31           // flags that nobody knows yet are not kept
		if h.Assurance == nil { // of an earlier version
			read = append(read, 0, 0)
		}
		if again := h.appendTo([]byte{helloWelcome}); !bytes.Equal(again, read) {
			t.Errorf("%x read, %x written", b, again)
		}
	})
}
