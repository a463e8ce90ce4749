package tun

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idloc/idloc/netstack"
	"github.com/idloc/idloc/shim/shimtest"
)

const namespaceEnv = "IDLOC_TUN_NAMESPACE" // "yes" inside, else why there is none

// inNamespace runs the test binary again in new namespaces in which the user
// is root, and returns its exit code. It is false inside, and where there can
// be none.
func inNamespace() (code int, ok bool) {
	if os.Getenv(victimEnv) != "" {
		return runVictim(), true
	}
	switch os.Getenv(namespaceEnv) {
	case "":
	case "yes":
		if n, err := newNetlink(); err == nil {
			_ = n.setUp(1) // lo; who needs it will notice
			n.close()
		}
		return 0, false
	default:
		return 0, false
	}
	cmd := again(unix.CLONE_NEWUSER|unix.CLONE_NEWNET|unix.CLONE_NEWNS, os.Args[1:]...)
	cmd.Env = append(os.Environ(), namespaceEnv+"=yes")
	if err := cmd.Start(); err != nil {
		os.Setenv(namespaceEnv, "no user namespace can be made here: "+err.Error())
		return 0, false
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return exit.ExitCode(), true
	case err != nil:
		return 1, true
	}
	return 0, true
}

// again is the test binary in new namespaces of these kinds.
func again(flags uintptr, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  flags,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	return cmd
}

// space is a network namespace with a thread in it.
type space struct{ do chan func() }

// in runs f there: sockets that f makes are the namespace's.
func (s *space) in(f func()) {
	done := make(chan struct{})
	s.do <- func() { defer close(done); f() }
	<-done
}

func newSpace(tb testing.TB) *space {
	tb.Helper()
	if why := os.Getenv(namespaceEnv); why != "yes" {
		tb.Skip(why)
	}
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		tb.Skip(err)
	}
	f.Close()
	s := &space{make(chan func())}
	failed := make(chan error)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // and never unlocked: the thread ends with this
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			var n *netlink
			if n, err = newNetlink(); err == nil {
				err = n.setUp(1) // lo
				n.close()
			}
		}
		failed <- err
		for f := range s.do {
			f()
		}
	}()
	tb.Cleanup(func() { close(s.do); <-ended })
	if err := <-failed; errors.Is(err, fs.ErrPermission) {
		tb.Skip("a network namespace: ", err) // some systems give a user namespace no rights
	} else if err != nil {
		tb.Fatal(err)
	}
	return s
}

// host is a peer whose stack is the kernel's, in a namespace.
type host struct {
	*shimtest.Node
	*Host
	*space
	v4, v6 netip.Addr // own LSIs
}

// Close is ambiguous between the embedded; tests mean the Host's.
func (h *host) Close() (err error) {
	// Some tests' peers answer nothing that would end a connection.
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	h.in(func() { err = h.Host.Close(ctx) })
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

func newHost(tb testing.TB, n *shimtest.Net, admit func(string, netip.AddrPort, netip.AddrPort) bool) *host {
	tb.Helper()
	h := &host{space: newSpace(tb), Node: n.Node(tb, nil)}
	h.v4, h.v6 = h.Table.Self()
	var err error
	h.in(func() { h.Host, err = New(Config{Shim: h.Shim, Admit: admit}) })
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = h.Close() })
	return h
}

// stack is a peer whose stack is gVisor's.
type stack struct {
	*shimtest.Node
	*netstack.Stack
	v4, v6 netip.Addr
}

// Close is ambiguous between the embedded; tests mean the stack's.
func (s *stack) Close() error { return s.Stack.Close(context.Background()) }

func newStack(tb testing.TB, n *shimtest.Net) *stack {
	tb.Helper()
	s := &stack{Node: n.Node(tb, nil)}
	s.v4, s.v6 = s.Table.Self()
	var err error
	if s.Stack, err = netstack.New(netstack.Config{Shim: s.Shim}); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Stack.Close(context.Background()) })
	return s
}

func testContext(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	tb.Cleanup(cancel)
	return ctx
}

// goneDevice is a device that takes nothing.
func goneDevice() *device { return &device{raw: gone{}} }

type gone struct{}

func (gone) Control(func(uintptr)) error    { return net.ErrClosed }
func (gone) Read(func(uintptr) bool) error  { return net.ErrClosed }
func (gone) Write(func(uintptr) bool) error { return net.ErrClosed }
