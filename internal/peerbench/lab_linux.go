package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The lab is two hosts and a path between them, without root: this process
// runs again in a user namespace of its own, where it makes a network
// namespace for each host, with a TUN device as its only interface, and
// carries the packets from one to the other itself. So every rival gets the
// same path, packet by packet, and the kernels' netem is not needed.

const (
	inLab   = "PEERBENCH_LAB" // set in the environment of the process in the namespace
	tunMTU  = 1500
	tunName = "path0"
)

// addresses of the two hosts, on one /24.
var labAddrs = [2]netip.Addr{netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("10.77.0.2")}

func inNamespace() bool { return os.Getenv(inLab) != "" }

// enterNamespace runs this program again as root of a user namespace.
func enterNamespace(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, os.Args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inLab+"=1")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w: %w", errNoNamespace, err)
	}
	return nil
}

// labHost is a network namespace, held by a thread that never leaves it.
type labHost struct {
	tun  *os.File
	work chan func()
}

type lab struct{ hosts [2]*labHost }

func newLab() (*lab, error) {
	l := new(lab)
	for i, a := range labAddrs {
		h := &labHost{work: make(chan func())}
		made := make(chan error)
		go h.run(a, made)
		if err := <-made; err != nil {
			return nil, fmt.Errorf("%w: %w", errNoNamespace, err)
		}
		l.hosts[i] = h
	}
	return l, nil
}

func (l *lab) close() {
	for _, h := range l.hosts {
		close(h.work)
		_ = h.tun.Close()
	}
}

// run makes the namespace and does what comes over work in it: a process that
// is started from this thread is born there. The thread ends with it.
func (h *labHost) run(a netip.Addr, made chan<- error) {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		made <- err
		return
	}
	var err error
	h.tun, err = openTUN(a)
	made <- err
	if err != nil {
		return
	}
	for do := range h.work {
		do()
	}
}

// openTUN makes the interface and gives it the address and the default route.
func openTUN(a netip.Addr) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	req, err := unix.NewIfreq(tunName)
	if err != nil {
		return nil, err
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("TUNSETIFF: %w", err)
	}
	for _, args := range []string{
		"link set lo up",
		fmt.Sprintf("addr add %v/24 dev %s", a, tunName),
		fmt.Sprintf("link set %s mtu %d txqueuelen 10000 up", tunName, tunMTU),
		"route add default dev " + tunName,
	} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			_ = unix.Close(fd)
			return nil, fmt.Errorf("ip %s: %w: %s", args, err, out)
		}
	}
	return os.NewFile(uintptr(fd), "tun"), nil
}

// start runs a process of this program in h's namespace.
func (h *labHost) start(ctx context.Context, stderr *strings.Builder, args ...string) (*exec.Cmd, *bufio.Reader, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Stderr = stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	cmd.WaitDelay = time.Second
	started := make(chan error)
	h.work <- func() { started <- cmd.Start() }
	return cmd, bufio.NewReader(out), <-started
}

// measure runs the two ends of one rival over one condition of the path.
func (l *lab) measure(ctx context.Context, name string, c cell, seed uint64) (bitsPerSecond float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second+*warm+*dur)
	defer cancel()
	p := newPath(c, seed, l.hosts[0].tun, l.hosts[1].tun)
	defer p.close()
	return l.pair(ctx, name, nil)
}

// together is measure of several rivals that share the path.
func (l *lab) together(ctx context.Context, names []string, c cell, seed uint64) ([]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second+*warm+*dur)
	defer cancel()
	p := newPath(c, seed, l.hosts[0].tun, l.hosts[1].tun)
	defer p.close()
	rates, errs := make([]float64, len(names)), make([]error, len(names))
	var ready, done sync.WaitGroup
	for i, name := range names {
		ready.Add(1)
		done.Go(func() { rates[i], errs[i] = l.pair(ctx, name, &ready) })
	}
	done.Wait()
	return rates, errors.Join(errs...)
}

// pair runs the two ends of one rival. The client begins when all that ready counts
// have a server.
func (l *lab) pair(ctx context.Context, name string, ready *sync.WaitGroup) (bitsPerSecond float64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	args := func(role string, i int, more ...string) []string {
		return append([]string{
			"-child", name, "-end", role, "-local", labAddrs[i].String(), "-remote", labAddrs[1-i].String(),
			"-dur", dur.String(), "-warm", warm.String(), fmt.Sprintf("-trace=%v", *trace), fmt.Sprintf("-pings=%v", *pings),
		}, more...)
	}
	var stderr [2]strings.Builder
	server, out, err := l.hosts[1].start(ctx, &stderr[1], args("serve", 1)...)
	if err != nil {
		return 0, err
	}
	defer func() {
		cancel()
		_ = server.Wait()
		if err != nil {
			err = fmt.Errorf("%w: %s %s", err, lastLine(stderr[1].String()), lastLine(stderr[0].String()))
		}
	}()
	dec := json.NewDecoder(out)
	var hello string
	if err := dec.Decode(&hello); err != nil {
		return 0, err
	}
	if ready != nil {
		ready.Done()
		ready.Wait()
	}
	client, _, err := l.hosts[0].start(ctx, &stderr[0], args("dial", 0, "-hello", hello)...)
	if err != nil {
		return 0, err
	}
	defer func() {
		cancel()
		_ = client.Wait()
		if *trace {
			fmt.Fprint(os.Stderr, stderr[0].String())
		} else if *pings {
			fmt.Fprintln(os.Stderr, lastLine(stderr[0].String()))
		}
	}()
	return bitsPerSecond, dec.Decode(&bitsPerSecond)
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// setCongestion sets a socket's congestion control.
func setCongestion(fd uintptr, name string) error {
	return unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, name)
}
