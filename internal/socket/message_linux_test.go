package socket

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"testing"
)

// linkOn binds a link on the loopback address a, with its own system calls or
// with package net's.
func linkOn(t *testing.T, a netip.Addr, own bool) (*kernelLink, netip.AddrPort) {
	t.Helper()
	l, err := listenKernel(netip.AddrPortFrom(a, 0), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.close() })
	if !own {
		l.receive, l.send = l.netReceive, l.conn.WriteMsgUDPAddrPort
		l.gso.Store(false)
	}
	n, err := l.port()
	if err != nil {
		t.Fatal(err)
	}
	return l, netip.AddrPortFrom(a, n)
}

// Our own system calls and package net's say the same of the same datagrams.
func TestOwnCalls(t *testing.T) {
	for _, a := range []netip.Addr{lo4, lo6} {
		for _, own := range []bool{true, false} {
			from, fromAddr := linkOn(t, a, own)
			to, toAddr := linkOn(t, a, own)
			// All three are there before the first is read.
			for _, n := range []int{1, 1472, 9000} {
				if err := from.write(bytes.Repeat([]byte{byte(n)}, n), n, toAddr, 0); err != nil {
					t.Fatal(a, own, err)
				}
			}
			b := make([]byte, maxRead)
			for _, n := range []int{1, 1472, 9000} {
				k, seg, at, err := to.read(b)
				if err != nil || k != n || seg != n || at != fromAddr || !bytes.Equal(b[:k], bytes.Repeat([]byte{byte(n)}, n)) {
					t.Errorf("%v, own %v: %d bytes in pieces of %d from %v, %v; want %d from %v", a, own, k, seg, at, err, n, fromAddr)
				}
			}
			read := make(chan error, 1)
			go func() { // waits, and is woken
				_, _, _, err := to.read(b)
				read <- err
			}()
			if err := from.write([]byte("x"), 1, toAddr, 0); err != nil {
				t.Fatal(err)
			}
			if err := <-read; err != nil {
				t.Errorf("%v, own %v: %v", a, own, err)
			}
			go func() {
				_, _, _, err := to.read(b)
				read <- err
			}()
			if err := to.close(); err != nil {
				t.Fatal(err)
			}
			if err := <-read; !errors.Is(err, net.ErrClosed) {
				t.Errorf("%v, own %v: reading a closed socket: %v", a, own, err)
			}
			if err := to.write([]byte("x"), 1, fromAddr, 0); !errors.Is(err, net.ErrClosed) {
				t.Errorf("%v, own %v: writing to a closed socket: %v", a, own, err)
			}
		}
	}
}

// A datagram longer than the buffer is an error, not a piece of one.
func TestTruncated(t *testing.T) {
	from, _ := linkOn(t, lo4, true)
	to, toAddr := linkOn(t, lo4, true)
	if err := from.write(make([]byte, 200), 200, toAddr, 0); err != nil {
		t.Fatal(err)
	}
	if n, _, _, err := to.read(make([]byte, 100)); err != errTruncated {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestMessageAddress(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Skip("no interface lo: ", err)
	}
	for _, x := range []struct{ to, from string }{
		{"192.0.2.1:1", "192.0.2.1:1"},
		{"255.255.255.255:65535", "255.255.255.255:65535"},
		{"[2001:db8::1]:258", "[2001:db8::1]:258"},
		{"[fe80::1%7]:80", "[fe80::1%7]:80"},
		{"[fe80::1%lo]:80", netip.AddrPortFrom(netip.MustParseAddr("fe80::1").WithZone(strconv.Itoa(lo.Index)), 80).String()},
		{"[fe80::1%no-such-interface]:80", "[fe80::1]:80"},
	} {
		m := new(message)
		m.init()
		m.to(netip.MustParseAddrPort("[2001:db8:ffff::%9]:9")) // what was there before
		m.to(netip.MustParseAddrPort(x.to))
		if got := m.from().String(); got != x.from {
			t.Errorf("%s came back as %s, want %s", x.to, got, x.from)
		}
	}
}
