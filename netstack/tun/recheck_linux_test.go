package tun

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/idloc/idloc/shim/shimtest"
)

// What a program of the host has accepted ends when it is not admitted any more, and what
// another has opened at the same peer goes on.
func TestRecheck(t *testing.T) {
	n := shimtest.NewNet()
	a := newHost(t, n, func(string, netip.AddrPort, netip.AddrPort) bool { return true })
	b := newStack(t, n)
	if err := destroyable(a); err != nil {
		t.Skip("the kernel ends no sockets: ", err)
	}
	b4, _ := a.LSI(t, b.Node)
	a4, _ := b.LSI(t, a.Node)
	var ln net.Listener
	var err error
	a.in(func() { ln, err = net.Listen("tcp", netip.AddrPortFrom(a.self4, 0).String()) })
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	from, err := b.DialTCP(t.Context(), "tcp", netip.AddrPort{}, netip.AddrPortFrom(a4, addrOf(ln.Addr()).Port()))
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	in, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	far, err := b.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	var out net.Conn
	a.in(func() { out, err = net.Dial("tcp", netip.AddrPortFrom(b4, addrOf(far.Addr()).Port()).String()) })
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	to, err := far.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	for _, c := range []net.Conn{from, in, out, to} {
		_ = c.SetDeadline(time.Now().Add(time.Minute))
	}
	recheck := func(keeps bool) (ended int) {
		a.in(func() {
			ended = a.Recheck(func(network string, local, remote netip.AddrPort) bool {
				if network != "tcp" || local != addrOf(ln.Addr()) || remote.Addr() != b4 {
					t.Errorf("asked about %s %v %v", network, local, remote)
				}
				return keeps
			})
		})
		return ended
	}
	if n := recheck(true); n != 0 {
		t.Errorf("%d that are wanted have ended", n)
	}
	if _, err := from.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if n, err := in.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if n := recheck(false); n != 1 {
		t.Errorf("%d have ended", n)
	}
	if _, err := in.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNABORTED) {
		t.Errorf("who has accepted it reads %v", err)
	}
	if _, err := from.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("who has opened it reads %v", err)
	}
	if _, err := out.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if n, err := to.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("what the host has opened: %d, %v", n, err)
	}
}
