package idloc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
)

// world is what a user of package net sees: dial on one side, listen on the
// other. One is the kernel's loopback, the other two nodes, and each test of
// this file does the same in both and wants the same to happen.
type world struct {
	kernel       bool
	dial         func(ctx context.Context, network, address string) (net.Conn, error)
	dialFrom     func(ctx context.Context, network, address string, port uint16) (net.Conn, error)
	listen       func(network, address string) (net.Listener, error)
	listenPacket func(network, address string) (net.PacketConn, error)
	far4, far6   string // the listening side, as the dialling side knows it
	own4, own6   string // the same, as it knows itself
}

// worlds returns the kernel's and that of two nodes. Kernels without IPv6
// loopback have far6 empty.
func worlds(t *testing.T) (kernel, nodes *world) {
	t.Helper()
	_, venus, mars := solarWith(t, directly)
	var d net.Dialer
	kernel = &world{
		kernel: true,
		dial:   d.DialContext, listen: net.Listen, listenPacket: net.ListenPacket,
		far4: "127.0.0.1", own4: "127.0.0.1",
		dialFrom: kernelFrom,
	}
	if l, err := net.Listen("tcp6", "[::1]:0"); err == nil {
		l.Close()
		kernel.far6, kernel.own6 = "::1", "::1"
	}
	far4, far6 := lsisOf(t, venus, mars)
	own4, own6 := mars.LSIs()
	return kernel, &world{
		dial: venus.Dial, listen: mars.Listen, listenPacket: mars.ListenPacket,
		dialFrom: func(ctx context.Context, network, address string, port uint16) (net.Conn, error) {
			return (&idloc.Dialer{Nodes: []*idloc.Node{venus}, LocalPort: port}).Dial(ctx, network, address)
		},
		far4: far4.String(), far6: far6.String(), own4: own4.String(), own6: own6.String(),
	}
}

// kernelFrom dials from a port of the host's.
func kernelFrom(ctx context.Context, network, address string, port uint16) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{Port: int(port)}}
	if strings.HasPrefix(network, "udp") {
		d.LocalAddr = &net.UDPAddr{Port: int(port)}
	}
	return d.DialContext(ctx, network, address)
}

// lsisOf returns the LSIs of peer at n.
func lsisOf(t *testing.T, n, peer *idloc.Node) (v4, v6 netip.Addr) {
	t.Helper()
	c, err := dialTimeout(t, n, "udp", net.JoinHostPort(peer.Name(), "9"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	who, err := n.WhoIs(c.RemoteAddr())
	if err != nil {
		t.Fatal(err)
	}
	return who.LSI4, who.LSI6
}

// sentinels are what users of package net ask errors.Is for.
var sentinels = []struct {
	name string
	err  error
}{
	{"net.ErrClosed", net.ErrClosed},
	{"os.ErrDeadlineExceeded", os.ErrDeadlineExceeded},
	{"context.DeadlineExceeded", context.DeadlineExceeded},
	{"context.Canceled", context.Canceled},
	{"io.EOF", io.EOF},
	{"net.ErrWriteToConnected", net.ErrWriteToConnected},
	{"ECONNREFUSED", syscall.ECONNREFUSED},
	{"ECONNRESET", syscall.ECONNRESET},
	{"EPIPE", syscall.EPIPE},
	{"EADDRINUSE", syscall.EADDRINUSE},
	{"EADDRNOTAVAIL", syscall.EADDRNOTAVAIL},
	{"EMSGSIZE", syscall.EMSGSIZE},
	{"EINVAL", syscall.EINVAL},
	{"ENOTCONN", syscall.ENOTCONN},
	{"EDESTADDRREQ", syscall.EDESTADDRREQ},
	{"errors.ErrUnsupported", errors.ErrUnsupported},
}

// addresses are what makes texts of errors differ.
var addresses = regexp.MustCompile(`\[?(([0-9a-f]*:){2,}(\d+(\.\d+){3}|[0-9a-f]*)|\d+(\.\d+){3})\]?(:\d+)?`)

// describe says all that a program can tell of an error: what it wraps, what
// it is to net.Error, the fields of the *net.OpError, and its text without
// addresses. Errors of nodes may say more in two places: Dial and Listen show
// the address as it was given, and a failed Dial names its stage.
func describe(err error) string {
	switch err {
	case nil:
		return "ok"
	case io.EOF:
		return "io.EOF, bare"
	}
	op, ok := err.(*net.OpError)
	begin := ok && (op.Op == "dial" || op.Op == "listen")
	var is []string
	for _, s := range sentinels {
		if begin && s.err == os.ErrDeadlineExceeded {
			continue // a node's error is that as well, to be found either way
		}
		if errors.Is(err, s.err) {
			is = append(is, s.name)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "is %v", is)
	if ne, ok := err.(net.Error); ok {
		fmt.Fprintf(&b, " timeout %v", ne.Timeout())
	}
	if !ok {
		return fmt.Sprintf("%v, bare %T", &b, err)
	}
	inner := op.Err
	var stage *idloc.StageError
	if errors.As(inner, &stage) {
		inner = stage.Err
	}
	addr := fmt.Sprintf("%T", op.Addr)
	if begin {
		addr = "any"
	}
	addr = strings.TrimPrefix(addr, "netstack.") // package net has a type of its own, too
	addr = strings.Replace(addr, "net.addrPortUDPAddr", "addrPortAddr", 1)
	fmt.Fprintf(&b, " temporary %v op %q net %q source %T addr %s: %s", op.Temporary(), op.Op, op.Net, op.Source, addr,
		addresses.ReplaceAllString(inner.Error(), "ADDR"))
	return b.String()
}

// transcript collects what a test saw, line by line.
type transcript struct {
	*testing.T
	w     *world
	lines []string
	buf   []byte // for whatever
}

func (r *transcript) note(what string, v any) {
	if err, ok := v.(error); ok || v == nil {
		v = describe(err)
	}
	r.lines = append(r.lines, fmt.Sprintf("%s: %v", what, v))
}

// same runs f in both worlds and compares.
func same(t *testing.T, kernel, nodes *world, what string, f func(r *transcript)) {
	t.Run(what, func(t *testing.T) {
		t.Parallel()
		see := func(w *world) []string {
			r := &transcript{T: t, w: w, buf: make([]byte, 1<<16)}
			f(r)
			return r.lines
		}
		k, n := see(kernel), see(nodes)
		// The kernel's ports are the whole machine's: one that f expects to be
		// free may be another test's or program's. That is so once, not always.
		for try := 0; try < 3 && !slices.Equal(k, n); try++ {
			k = see(kernel)
		}
		for i := range max(len(k), len(n)) {
			a, b := "nothing", "nothing"
			if i < len(k) {
				a = k[i]
			}
			if i < len(n) {
				b = n[i]
			}
			if a != b {
				t.Errorf("\nkernel %s\nnode   %s", a, b)
			}
		}
	})
}

// pair returns both ends of a connection.
func (r *transcript) pair(network string) (client, server net.Conn) {
	r.Helper()
	l, err := r.w.listen(network, ":0")
	if err != nil {
		r.Fatal(err)
	}
	defer l.Close()
	c, err := r.w.dial(r.Context(), network, r.w.far(network, l.Addr()))
	if err != nil {
		r.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { c.Close(); s.Close() })
	return c, s
}

// packets returns a client connected to a server that is not.
func (r *transcript) packets(network string) (client net.Conn, server net.PacketConn) {
	r.Helper()
	pc, err := r.w.listenPacket(network, ":0")
	if err != nil {
		r.Fatal(err)
	}
	c, err := r.w.dial(r.Context(), network, r.w.far(network, pc.LocalAddr()))
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { c.Close(); pc.Close() })
	deadline := time.Now().Add(patience)
	c.SetDeadline(deadline)
	pc.SetDeadline(deadline)
	return c, pc
}

// far is the address to dial for a port of the listening side.
func (w *world) far(network string, at net.Addr) string {
	_, port, _ := net.SplitHostPort(at.String())
	if strings.HasSuffix(network, "6") {
		return net.JoinHostPort(w.far6, port)
	}
	return net.JoinHostPort(w.far4, port)
}

// halves are the methods of *net.TCPConn beyond net.Conn that do not need a
// file descriptor.
type halves interface {
	net.Conn
	io.ReaderFrom
	io.WriterTo
	CloseRead() error
	CloseWrite() error
	SetLinger(sec int) error
	SetNoDelay(noDelay bool) error
	SetKeepAlive(keepalive bool) error
	SetKeepAlivePeriod(d time.Duration) error
	SetKeepAliveConfig(config net.KeepAliveConfig) error
	SetReadBuffer(bytes int) error
	SetWriteBuffer(bytes int) error
	MultipathTCP() (bool, error)
}

// datagrams are those of *net.UDPConn.
type datagrams interface {
	net.Conn
	net.PacketConn
	ReadFromUDP(b []byte) (n int, addr *net.UDPAddr, err error)
	ReadFromUDPAddrPort(b []byte) (n int, addr netip.AddrPort, err error)
	ReadMsgUDP(b, oob []byte) (n, oobn, flags int, addr *net.UDPAddr, err error)
	ReadMsgUDPAddrPort(b, oob []byte) (n, oobn, flags int, addr netip.AddrPort, err error)
	WriteToUDP(b []byte, addr *net.UDPAddr) (int, error)
	WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error)
	WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error)
	WriteMsgUDPAddrPort(b, oob []byte, addr netip.AddrPort) (n, oobn int, err error)
	SetReadBuffer(bytes int) error
	SetWriteBuffer(bytes int) error
}

// deadliner is what *net.TCPListener has beyond net.Listener.
type deadliner interface {
	net.Listener
	SetDeadline(t time.Time) error
}

var (
	_ halves    = (*net.TCPConn)(nil)
	_ datagrams = (*net.UDPConn)(nil)
	_ deadliner = (*net.TCPListener)(nil)
)
