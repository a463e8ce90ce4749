package nat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

var pcpLocal = netip.MustParseAddr("127.0.0.1")

// pcpMapped is the response to a request (RFC 6887 §7.2, §11.3).
func pcpMapped(request []byte, code byte, external uint16, outer string, seconds uint32) []byte {
	b := []byte{2, request[1] | 0x80, 0, code}
	b = binary.BigEndian.AppendUint32(b, seconds)
	b = append(b, 0, 0, 0, 77)
	b = append(b, make([]byte, 12)...)
	if request[1] != 1 {
		return b
	}
	b = append(b, request[24:42]...)
	b = binary.BigEndian.AppendUint16(b, external)
	a := netip.MustParseAddr(outer).As16()
	return append(b, a[:]...)
}

// The exchange, with a request that is lost and datagrams that are no response.
func TestPCP(t *testing.T) {
	t.Parallel()
	at, asked := natPMPRouter(t, func(n int, q []byte) [][]byte {
		good := pcpMapped(q, 0, 5000, "20.0.0.9", 600)
		if n == 0 { // lost
			return nil
		}
		if q[1] == 0 {
			return [][]byte{{2}, {2, 0x80, 0, 0}, {2, 0x81, 0, 0, 4: 0, 23: 0}, good}
		}
		other := func(i int) []byte { // of another's nonce, protocol or port
			b := append([]byte(nil), good...)
			b[i]++
			return b
		}
		return [][]byte{other(24), other(35), other(36), other(41), good[:59], other(0), other(1), good}
	})
	p := newPCP(pcpLocal, at)
	if err := p.announce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a, err := p.external(t.Context()); err == nil {
		t.Errorf("an outer address before there is a mapping: %v", a)
	}
	local := netip.AddrPortFrom(pcpLocal, 4000)
	port, granted, err := p.add(t.Context(), local, 4001, 20*time.Minute)
	if err != nil || port != 5000 || granted != 10*time.Minute {
		t.Errorf("port %d for %v, %v", port, granted, err)
	}
	if a, err := p.external(t.Context()); err != nil || a.String() != "20.0.0.9" {
		t.Errorf("%v, %v", a, err)
	}
	if _, _, err := p.add(t.Context(), local, 5000, 20*time.Minute); err != nil {
		t.Error(err)
	}
	if err := p.remove(t.Context(), local, port); err != nil {
		t.Error(err)
	}
	all := asked()
	if len(all) < 5 {
		t.Fatalf("asked %d times", len(all))
	}
	// On a busy machine more than the lost one is repeated.
	if all = slices.CompactFunc(slices.Clone(all), bytes.Equal); len(all) != 4 {
		t.Fatalf("asked for %x", all)
	}
	const here = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x7f\x00\x00\x01"
	const v4 = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff"
	nonce := string(p.nonce[:])
	announce := "\x02\x00\x00\x00\x00\x00\x00\x00" + here
	for i, want := range []string{
		announce,
		"\x02\x01\x00\x00\x00\x00\x04\xb0" + here + nonce + "\x11\x00\x00\x00\x0f\xa0\x0f\xa1" + v4 + "\x00\x00\x00\x00",
		"\x02\x01\x00\x00\x00\x00\x04\xb0" + here + nonce + "\x11\x00\x00\x00\x0f\xa0\x13\x88" + v4 + "\x14\x00\x00\x09",
		"\x02\x01\x00\x00\x00\x00\x00\x00" + here + nonce + "\x11\x00\x00\x00\x0f\xa0\x00\x00" + v4 + "\x00\x00\x00\x00",
	} {
		if string(all[i]) != want {
			t.Errorf("request %d: %x, want %x", i, all[i], want)
		}
	}
	if again := newPCP(pcpLocal, at); again.nonce == p.nonce || p.nonce == [12]byte{} {
		t.Error("the nonce can be guessed")
	}
}

// A router that refuses, or is an older one.
func TestPCPRefuses(t *testing.T) {
	t.Parallel()
	local := netip.AddrPortFrom(pcpLocal, 4000)
	at, _ := natPMPRouter(t, func(_ int, q []byte) [][]byte { return [][]byte{pcpMapped(q, 8, 0, "0.0.0.0", 0)} })
	if _, _, err := newPCP(pcpLocal, at).add(t.Context(), local, 4000, time.Minute); err == nil || !strings.Contains(err.Error(), "result 8") {
		t.Errorf("no resources: %v", err)
	}
	at, _ = natPMPRouter(t, func(int, []byte) [][]byte { return [][]byte{{0, 128, 0, 1, 0, 0, 0, 9}} })
	if err := newPCP(pcpLocal, at).announce(t.Context()); !errors.Is(err, errOldRouter) {
		t.Errorf("an older router: %v", err)
	}
}

// Of what a router speaks the newest is taken, and one that says nothing to the newest is
// not given up.
func TestFindPortControl(t *testing.T) {
	t.Parallel()
	pmp := []byte{0, natPMPResponse, 0, 0, 0, 0, 0, 9, 20, 0, 0, 9}
	for name, c := range map[string]struct {
		pcp, pmp, old bool
		want          string
	}{
		"both": {true, true, false, "PCP"}, "PCP alone": {true, false, false, "PCP"}, "silent to PCP": {false, true, false, "NAT-PMP"},
		"says that it is old": {false, true, true, "NAT-PMP"}, "none": {false, false, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at, _ := natPMPRouter(t, func(_ int, q []byte) [][]byte {
				switch {
				case q[0] == 2 && c.pcp:
					return [][]byte{pcpMapped(q, 0, 0, "0.0.0.0", 0)}
				case q[0] == 2 && c.old:
					return [][]byte{{0, 128, 0, 1, 0, 0, 0, 9}}
				case q[0] == 0 && c.pmp:
					return [][]byte{pmp}
				}
				return nil
			})
			got := ""
			for range 3 { // a busy machine may be late with one answer, but not with each
				if g := findPortControl(t.Context(), pcpLocal, at); g != nil {
					got = g.String()
				}
				if got == c.want {
					break
				}
			}
			if got != c.want {
				t.Errorf("found %q, want %q", got, c.want)
			}
		})
	}
}

func FuzzPCPResponse(f *testing.F) {
	p := newPCP(pcpLocal, netip.AddrPort{})
	p.nonce = [12]byte{1, 2, 3}
	f.Add(pcpMapped(p.request(0, 0), 0, 0, "0.0.0.0", 0), false)
	f.Add(pcpMapped(p.mapping(4000, 4000, time.Minute), 0, 5000, "20.0.0.9", 600), true)
	f.Add(pcpMapped(p.mapping(4000, 4000, time.Minute), 8, 0, "::", 0), true)
	f.Fuzz(func(t *testing.T, b []byte, mapping bool) {
		request, n := p.request(pcpAnnounce, 0), pcpHeader
		if mapping {
			request, n = p.mapping(4000, 4000, time.Minute), pcpHeader+pcpMapping
		}
		got, err := readPCP(b, request, n)
		if err == nil && got != nil && len(got) < n {
			t.Errorf("%d bytes are a whole response of %d", len(got), n)
		}
		if got != nil && mapping && string(got[24:36]) != string(p.nonce[:]) {
			t.Error("the response to another's request was taken")
		}
	})
}
