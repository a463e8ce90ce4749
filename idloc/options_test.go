package idloc_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/ipv4"

	"github.com/idloc/idloc/idloc"
	"github.com/idloc/idloc/internal/netconn"
)

// A local port that was chosen is the conn's, and one that is taken is told of
// as the kernel does.
func TestLocalPortSemantics(t *testing.T) {
	t.Parallel()
	kernel, nodes := worlds(t)
	for _, network := range []string{"tcp4", "tcp6", "udp4", "udp6"} {
		if strings.HasSuffix(network, "6") && kernel.far6 == "" {
			continue
		}
		same(t, kernel, nodes, network, func(r *transcript) {
			var at net.Addr
			if network[:3] == "tcp" {
				l, err := r.w.listen(network, ":0")
				if err != nil {
					r.Fatal(err)
				}
				defer l.Close()
				at = l.Addr()
			} else {
				pc, err := r.w.listenPacket(network, ":0")
				if err != nil {
					r.Fatal(err)
				}
				defer pc.Close()
				at = pc.LocalAddr()
			}
			to := r.w.far(network, at)
			first, err := r.w.dial(r.Context(), network, to)
			if err != nil {
				r.Fatal(err)
			}
			defer first.Close()
			taken := uint16(portNumber(r, first.LocalAddr()))
			c, err := r.w.dialFrom(r.Context(), network, to, taken)
			r.note("from the port of another conn", err)
			if err == nil {
				c.Close()
			}
			free := taken
			for try := 0; try < 100; try++ { // one that nobody has
				if free++; free < 1024 {
					free = 20000
				}
				if c, err = r.w.dialFrom(r.Context(), network, to, free); !errors.Is(err, syscall.EADDRINUSE) {
					break
				}
			}
			r.note("from a free port", err)
			if err != nil {
				return
			}
			defer c.Close()
			r.note("has it", portNumber(r, c.LocalAddr()) == int(free))
			_, err = r.w.dialFrom(r.Context(), network, to, free)
			r.note("from the same again", err)
		})
	}
}

func portNumber(r *transcript, a net.Addr) int {
	r.Helper()
	_, text, err := net.SplitHostPort(a.String())
	if err != nil {
		r.Fatal(err)
	}
	n, _ := strconv.Atoi(text)
	return n
}

// Whatever size a buffer is asked to have, it gets one with which bytes go on.
func TestBufferSizeSemantics(t *testing.T) {
	t.Parallel()
	kernel, nodes := worlds(t)
	for _, size := range []int{-1 << 31, -1, 0, 1, 100, 1<<31 - 1} {
		same(t, kernel, nodes, fmt.Sprint(size), func(r *transcript) {
			c, s := r.pair("tcp4")
			for _, h := range []halves{c.(halves), s.(halves)} {
				r.note("SetReadBuffer", h.SetReadBuffer(size))
				r.note("SetWriteBuffer", h.SetWriteBuffer(size))
			}
			const n = 20_000 // the kernel takes its time with its smallest buffer
			sent := async(func() error { return second(c.Write(make([]byte, n))) })
			got, err := io.ReadFull(s, make([]byte, n))
			r.note("ReadFull", err)
			r.note("n", got)
			r.note("Write", <-sent)
		})
	}
}

// infoOf is what a conn of either world knows of itself.
func infoOf(c net.Conn) (idloc.TCPInfo, error) {
	if k, ok := c.(*net.TCPConn); ok {
		return netconn.Info(k)
	}
	return c.(idloc.TCPConn).Info()
}

func TestInfoSemantics(t *testing.T) {
	t.Parallel()
	kernel, nodes := worlds(t)
	if _, err := netconn.Info(kernelConn(t)); errors.Is(err, errors.ErrUnsupported) {
		t.Skip("the kernel's TCP_INFO is not read here: ", err)
	}
	same(t, kernel, nodes, "info", func(r *transcript) {
		c, s := r.pair("tcp4")
		note := func(what string, c net.Conn) {
			info, err := infoOf(c)
			r.note(what+": error", err)
			if err != nil {
				return
			}
			r.note(what+": state", info.State)
			r.note(what+": written", info.BytesWritten)
			r.note(what+": received", info.BytesReceived)
			r.note(what+": has a window", info.CongestionWindow > 0)
			r.note(what+": waits", info.RTO > 0)
		}
		note("new", c)
		const n = 100_000
		sent := async(func() error { return second(c.Write(make([]byte, n))) })
		if _, err := io.ReadFull(s, make([]byte, n)); err != nil {
			r.Fatal(err)
		}
		r.note("Write", <-sent)
		note("writer", c)
		note("reader", s)
		if info, err := infoOf(c); err == nil {
			r.note("RTT", info.RTT > 0 && info.RTT < patience)
		}
		if _, err := s.Write([]byte("unread")); err != nil {
			r.Fatal(err)
		}
		if err := s.(halves).CloseWrite(); err != nil {
			r.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err != nil {
			r.Fatal(err)
		}
		if _, err := io.ReadAll(c); err != nil {
			r.Fatal(err)
		}
		info, err := infoOf(c)
		r.note("error", err)
		r.note("after the peer's FIN", info.State)
		r.note("Close", c.Close())
		_, err = infoOf(c)
		r.note("closed", errors.Is(err, net.ErrClosed))
	})
}

// kernelConn is a conn of the kernel's.
func kernelConn(t *testing.T) *net.TCPConn {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// batcher is what reads and writes batches in either world.
type batcher struct {
	node  idloc.UDPConn    // nil in the kernel's
	x     *ipv4.PacketConn // nil in a node's
	conns net.PacketConn
}

func batches(c any) batcher {
	if u, ok := c.(idloc.UDPConn); ok {
		return batcher{node: u, conns: u}
	}
	pc := c.(net.PacketConn)
	return batcher{x: ipv4.NewPacketConn(pc), conns: pc}
}

func (b batcher) read(ms []idloc.Message) (int, error) {
	if b.node != nil {
		return b.node.ReadBatch(ms)
	}
	xs := make([]ipv4.Message, len(ms))
	for i := range ms {
		xs[i].Buffers = [][]byte{ms[i].Buf}
	}
	n, err := b.x.ReadBatch(xs, 0)
	for i := range max(n, 0) {
		ms[i].N, ms[i].Addr = xs[i].N, xs[i].Addr.(*net.UDPAddr).AddrPort()
		ms[i].Truncated = xs[i].Flags&0x20 != 0 // MSG_TRUNC
	}
	return n, err
}

func (b batcher) write(ms []idloc.Message) (int, error) {
	if b.node != nil {
		return b.node.WriteBatch(ms)
	}
	xs := make([]ipv4.Message, len(ms))
	for i := range ms {
		xs[i].Buffers = [][]byte{ms[i].Buf}
		if ms[i].Addr.IsValid() {
			xs[i].Addr = net.UDPAddrFromAddrPort(ms[i].Addr)
		}
	}
	return b.x.WriteBatch(xs, 0)
}

// Batches do what those of golang.org/x/net do on a socket of the kernel's.
func TestBatchSemantics(t *testing.T) {
	t.Parallel()
	kernel, nodes := worlds(t)
	same(t, kernel, nodes, "batches", func(r *transcript) {
		client, server := r.packets("udp4")
		c, s := batches(client), batches(server)
		ms := make([]idloc.Message, 40)
		for i := range ms {
			ms[i].Buf = []byte(fmt.Sprintf("datagram %d%s", i, strings.Repeat("x", i%7*100)))
		}
		// The first opens the pipe: what is sent meanwhile is limited.
		if _, err := client.Write([]byte("first")); err != nil {
			r.Fatal(err)
		}
		if _, _, err := server.ReadFrom(r.buf); err != nil {
			r.Fatal(err)
		}
		for left := ms; len(left) > 0; {
			n, err := c.write(left)
			if err != nil {
				r.Fatal(err)
			}
			left = left[n:]
		}
		got := make([]idloc.Message, 64)
		for i := range got {
			got[i].Buf = make([]byte, 500)
		}
		var from netip.AddrPort
		for seen := 0; seen < len(ms); {
			n, err := s.read(got)
			if err != nil || n < 1 {
				r.Fatal(n, err)
			}
			for _, m := range got[:n] {
				want := string(ms[seen].Buf)
				cut := want[:min(len(want), 500)]
				if string(m.Buf[:m.N]) != cut || m.Truncated != (len(want) > 500) {
					r.note("datagram", fmt.Sprintf("%d: %q, truncated %v", seen, m.Buf[:m.N], m.Truncated))
				}
				from = netip.AddrPortFrom(m.Addr.Addr().Unmap(), m.Addr.Port())
				seen++
			}
		}
		n, err := s.write([]idloc.Message{{Buf: []byte("back"), Addr: from}, {Buf: []byte("again"), Addr: from}})
		r.note("back", n)
		r.note("back", err)
		r.note("Read", second(io.ReadFull(client, make([]byte, 4))))
		r.note("no address", second(s.write([]idloc.Message{{Buf: []byte("x")}})) != nil)
		n, err = s.write([]idloc.Message{{Buf: []byte("x"), Addr: from}, {Buf: make([]byte, 70000), Addr: from}})
		r.note("before one that is too long", n)
		r.note("before one that is too long", err)
		r.note("one that is too long", errors.Is(second(s.write([]idloc.Message{{Buf: make([]byte, 70000), Addr: from}})), syscall.EMSGSIZE))
		server.SetReadDeadline(soon())
		_, err = s.read(got)
		r.note("nothing there", errors.Is(err, os.ErrDeadlineExceeded))
		server.Close()
		_, err = s.read(got)
		r.note("closed", errors.Is(err, net.ErrClosed))
		_, err = s.write([]idloc.Message{{Buf: []byte("x"), Addr: from}})
		r.note("closed", errors.Is(err, net.ErrClosed))
	})
}

// What conns have beyond package net's methods is where users look for it.
func TestConnInterfaces(t *testing.T) {
	t.Parallel()
	_, nodes := worlds(t)
	r := &transcript{T: t, w: nodes}
	c, s := r.pair("tcp")
	for _, c := range []net.Conn{c, s} {
		tc := c.(idloc.TCPConn)
		if _, err := tc.SyscallConn(); !errors.Is(err, errors.ErrUnsupported) || !isOpError(err) {
			t.Errorf("SyscallConn: %v", err)
		}
		if info, err := tc.Info(); err != nil || info.PathRTT < 0 {
			t.Errorf("Info: %+v, %v", info, err)
		}
	}
	client, server := r.packets("udp")
	for _, c := range []any{client, server} {
		uc := c.(idloc.UDPConn)
		if _, err := uc.SyscallConn(); !errors.Is(err, errors.ErrUnsupported) || !isOpError(err) {
			t.Errorf("SyscallConn: %v", err)
		}
		if err := uc.SetTrafficClass(0xb8); err != nil {
			t.Error(err)
		}
	}
}

func isOpError(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op == err
}

// With null encapsulation a conn has the real connection's Info and class.
func TestNullOptions(t *testing.T) {
	t.Parallel()
	venus, mars := nullPair(t, idloc.NullPlain, idloc.NullPlain)
	port := echo(t, mars)
	d := idloc.Dialer{Nodes: []*idloc.Node{venus}, Encapsulation: idloc.Null, LocalPort: 4321}
	for _, network := range []string{"tcp", "udp"} {
		c, err := d.Dial(t.Context(), network, "mars.example.com:"+port)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, p, _ := net.SplitHostPort(c.LocalAddr().String()); p != "4321" {
			t.Errorf("%s from %v, want port 4321", network, c.LocalAddr())
		}
		if _, err := d.Dial(t.Context(), network, "mars.example.com:"+port); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("%s from the same port: %v", network, err)
		}
		if err := roundTrip(c, []byte("hello")); err != nil {
			t.Error(err)
		}
		if network == "udp" {
			if err := c.(idloc.UDPConn).SetTrafficClass(8); !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("%v", err)
			}
			continue
		}
		tc := c.(idloc.TCPConn)
		err = tc.SetTrafficClass(0xb8)
		if errors.Is(err, errors.ErrUnsupported) {
			t.Skip(err)
		}
		class, cerr := tc.TrafficClass()
		info, ierr := tc.Info()
		if err := errors.Join(err, cerr, ierr); err != nil || class != 0xb8 || info.State != "ESTABLISHED" || info.BytesWritten != 5 || info.BytesReceived != 5 || info.RTT <= 0 {
			t.Errorf("class %#x, %+v, %v", class, info, err)
		}
		if err := tc.SetTrafficClass(256); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("%v", err)
		}
		for what, err := range map[string]error{
			"SetReadBuffer": tc.SetReadBuffer(1), "SetUserTimeout": tc.SetUserTimeout(time.Second),
			"SetKeepAlive": tc.SetKeepAlive(false), "SyscallConn": second(tc.SyscallConn()),
		} {
			if !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
}
