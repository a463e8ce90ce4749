package socket

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestNotifierClose(t *testing.T) {
	n, err := newNotifier(new(announced))
	if err != nil {
		t.Skip(err)
	}
	if err := n.wait(time.Now().Add(time.Millisecond)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	done := make(chan error)
	go func() {
		for {
			if err := n.wait(time.Time{}); err != nil {
				done <- err
				return
			}
		}
	}()
	n.close()
	if err := <-done; errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
}

// An address that is added to an interface has a socket soon after. Needs the
// right to add one.
func TestKernelTellsOfAddresses(t *testing.T) {
	const addr = "203.0.113.201"
	ip := func(verb string) error { return exec.Command("ip", "addr", verb, addr+"/32", "dev", "lo").Run() }
	_ = ip("del")
	changed := make(chan struct{}, 16)
	p, err := Listen(Config{Addrs: []netip.Addr{lo4, netip.MustParseAddr(addr)}, OnChange: func() { changed <- struct{}{} }})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.notifier == nil {
		t.Skip("no notifications here")
	}
	if err := ip("add"); err != nil {
		t.Skip("may not add an address: ", err)
	}
	defer ip("del")
	for _, want := range []bool{true, false} {
		select {
		case <-changed:
		case <-time.After(pollInterval):
			t.Fatal("no notification")
		}
		if have := p.ConnOn(netip.MustParseAddr(addr)) != nil; have != want {
			t.Errorf("a socket: %v, want %v", have, want)
		}
		_ = ip("del")
	}
}
