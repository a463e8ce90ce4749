//go:build linux

package kernellab

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The environment variable that tells a process which option, in hexadecimal digits, its
// router advertisements have.
const optionVariable = "IDLOC_KERNELLAB_OPTION"

// The PREF64 options of titan's router, written by hand after RFC 8781 §4: a lifetime of
// 1,800 s, or none, and the prefix 2a07:64::/96.
const (
	titanHas    = "26 02 0708 2a070064 0000000000000000"
	titanHasNot = "26 02 0000 2a070064 0000000000000000"
)

// runRouter sends a router advertisement to all on the interface "in", twice a second
// until it is killed. It is no default router: its host has its route already.
func runRouter() int {
	option, err := hex.DecodeString(strings.ReplaceAll(os.Getenv(optionVariable), " ", ""))
	if err == nil {
		err = advertise("in", option)
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

func advertise(name string, option []byte) error {
	in, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	// Only what comes with 255 has not been forwarded (RFC 4861 §6.1.2).
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	to := &unix.SockaddrInet6{ZoneId: uint32(in.Index), Addr: netip.MustParseAddr("ff02::1").As16()}
	// Type, code, checksum, which the kernel makes, hop limit, flags, and no lifetimes.
	message := append([]byte{134, 0, 0, 0, 64, 15: 0}, option...)
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for ; ; <-tick.C {
		// Nothing counts as a router's before the link-local address is there to send
		// from, and in the first seconds it is still checked.
		if err := unix.Sendto(fd, message, 0, to); err != nil {
			fmt.Fprintln(os.Stderr, os.NewSyscallError("sendto", err))
		}
	}
}

// announce has a box's router send an option until the function that it returns is called.
func (l *lab) announce(box, option string) (silence func()) {
	l.t.Helper()
	c := exec.Command("ip", "netns", "exec", box, "env", roleVariable+"=router", optionVariable+"="+option, l.self)
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		l.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Wait() }() // killed
	silence = func() { _ = c.Process.Kill(); <-done }
	l.daemons = append(l.daemons, silence)
	return silence
}

// prefixBecomes waits until a node has a NAT64 prefix, "" for none.
func (n *node) prefixBecomes(want string) {
	n.l.t.Helper()
	w := measure(n.l.t)
	tick := time.NewTicker(50 * time.Millisecond) // another process: there is nothing to wait on
	defer tick.Stop()
	for end := w.until(5 * time.Second); ; <-tick.C {
		got := n.must(request{Op: "self"}).Self.NAT64
		if got.IsValid() == (want != "") && (want == "" || got.String() == want) {
			n.l.t.Logf("%s has the prefix %q after %v", n.name, want, w.took())
			return
		}
		if time.Now().After(end) {
			n.l.t.Fatalf("%s has the prefix %v, want %q", n.name, got, want)
		}
	}
}
