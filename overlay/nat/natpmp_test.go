package nat

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// natPMPRouter answers requests as a function says; nil is silence. It returns
// its address and what it was asked.
func natPMPRouter(t *testing.T, answer func(n int, request []byte) [][]byte) (netip.AddrPort, func() [][]byte) {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex // guards asked
	var asked [][]byte
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b := make([]byte, 64)
		for n := 0; ; n++ {
			k, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			request := append([]byte(nil), b[:k]...)
			mu.Lock()
			asked = append(asked, request)
			mu.Unlock()
			for _, a := range answer(n, request) {
				_, _ = c.WriteToUDPAddrPort(a, from)
			}
		}
	}()
	t.Cleanup(func() { _ = c.Close(); <-ended })
	return c.LocalAddr().(*net.UDPAddr).AddrPort(), func() [][]byte {
		mu.Lock()
		defer mu.Unlock()
		return asked
	}
}

// mapped is the response to a mapping request (RFC 6886 §3.3).
func mapped(request []byte, code, external uint16, seconds uint32) []byte {
	b := []byte{0, request[1] + natPMPResponse}
	b = binary.BigEndian.AppendUint16(b, code)
	b = binary.BigEndian.AppendUint32(b, 77)
	b = append(b, request[4:6]...)
	b = binary.BigEndian.AppendUint16(b, external)
	return binary.BigEndian.AppendUint32(b, seconds)
}

// The exchange, with a request that is lost and datagrams that are no response.
func TestNATPMP(t *testing.T) {
	t.Parallel()
	at, asked := natPMPRouter(t, func(n int, q []byte) [][]byte {
		switch {
		case n == 0: // lost
			return nil
		case q[1] == natPMPExternal:
			return [][]byte{{0}, {1, natPMPResponse, 0, 0}, {0, natPMPResponse + 1, 0, 0}, {0, natPMPResponse, 0, 0, 1}, {0, natPMPResponse, 0, 0, 0, 0, 0, 9, 20, 0, 0, 9}}
		}
		return [][]byte{mapped(q, 0, 5000, 600)}
	})
	p := &natPMP{router: at}
	if a, err := p.external(t.Context()); err != nil || a.String() != "20.0.0.9" {
		t.Fatalf("%v, %v", a, err)
	}
	local := netip.MustParseAddrPort("192.168.1.2:4000")
	port, granted, err := p.add(t.Context(), local, 4001, 20*time.Minute)
	if err != nil || port != 5000 || granted != 10*time.Minute {
		t.Errorf("port %d for %v, %v", port, granted, err)
	}
	if err := p.remove(t.Context(), local, port); err != nil {
		t.Error(err)
	}
	all := asked()
	if len(all) < 4 {
		t.Fatalf("asked %d times", len(all))
	}
	// On a busy machine more than the lost one is repeated.
	if all = slices.CompactFunc(slices.Clone(all), bytes.Equal); len(all) != 3 {
		t.Fatalf("asked for %x", all)
	}
	for i, want := range []string{"\x00\x00", "\x00\x01\x00\x00\x0f\xa0\x0f\xa1\x00\x00\x04\xb0", "\x00\x01\x00\x00\x0f\xa0\x00\x00\x00\x00\x00\x00"} {
		if string(all[i]) != want {
			t.Errorf("request %d: %x, want %x", i, all[i], want)
		}
	}
	if p.String() != "NAT-PMP" {
		t.Error(p.String())
	}
}

// A router that refuses, maps another port or says nothing of itself.
func TestNATPMPRefuses(t *testing.T) {
	t.Parallel()
	local := netip.MustParseAddrPort("192.168.1.2:4000")
	at, _ := natPMPRouter(t, func(_ int, q []byte) [][]byte {
		if q[1] == natPMPExternal {
			return [][]byte{{0, natPMPResponse, 0, 3, 0, 0, 0, 9, 0, 0, 0, 0}}
		}
		return [][]byte{mapped(q, 2, 0, 0)}
	})
	p := &natPMP{router: at}
	if _, err := p.external(t.Context()); err == nil || !strings.Contains(err.Error(), "result 3") {
		t.Errorf("no network: %v", err)
	}
	if _, _, err := p.add(t.Context(), local, 4000, time.Minute); err == nil || !strings.Contains(err.Error(), "result 2") {
		t.Errorf("not authorized: %v", err)
	}
	at, _ = natPMPRouter(t, func(_ int, q []byte) [][]byte {
		other := append([]byte(nil), q...)
		other[5]++
		return [][]byte{mapped(other, 0, 5000, 600)}
	})
	if _, _, err := (&natPMP{router: at}).add(t.Context(), local, 4000, time.Minute); err == nil {
		t.Error("the mapping of another port was taken")
	}
	// Nobody listens there: the system says so at once.
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	gone := c.LocalAddr().(*net.UDPAddr).AddrPort()
	_ = c.Close()
	if _, err := (&natPMP{router: gone}).external(t.Context()); err == nil {
		t.Error("an answer from nobody")
	}
	// Who waits no longer says why.
	over := errors.New("over")
	ctx, cancel := context.WithCancelCause(t.Context())
	at, _ = natPMPRouter(t, func(int, []byte) [][]byte { cancel(over); return nil })
	if _, err := (&natPMP{router: at}).external(ctx); !errors.Is(err, over) {
		t.Errorf("silence: %v", err)
	}
}

func FuzzNATPMPResponse(f *testing.F) {
	f.Add([]byte{0, natPMPResponse, 0, 0, 0, 0, 0, 9, 20, 0, 0, 9}, false)
	f.Add(mapped([]byte{0, 1, 0, 0, 15, 160}, 0, 5000, 600), true)
	f.Fuzz(func(t *testing.T, b []byte, mapping bool) {
		request, n := []byte{0, natPMPExternal}, 12
		if mapping {
			request, n = natPMPMapping(4000, 4000, time.Minute), 16
		}
		got, err := readNATPMP(b, request, n)
		if err == nil && got != nil && len(got) < n {
			t.Errorf("%d bytes are a whole response of %d", len(got), n)
		}
	})
}
