package netstack

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/net/nettest"
)

func TestTCPEcho(t *testing.T) {
	r := newRig(t)
	for _, at := range []netip.Addr{r.b4, r.b6} {
		c, s := r.pair(t, at)
		go func() { _, _ = io.Copy(s, s); _ = s.Close() }()
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(c)
		if string(got) != "hello" || err != nil {
			t.Errorf("%v: %q, %v", at, got, err)
		}
		if want := net.TCPAddrFromAddrPort(netip.AddrPortFrom(at, port(c.RemoteAddr()))); c.RemoteAddr().String() != want.String() {
			t.Errorf("remote address %v, want %v", c.RemoteAddr(), want)
		}
	}
	if n := r.a.Connects.Load(); n != 1 {
		t.Errorf("%d Connects", n)
	}
}

func TestNettest(t *testing.T) {
	r := newRig(t)
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		c, s := r.pair(t, r.b4)
		return c, s, func() { _, _ = c.Close(), s.Close() }, nil
	})
}

// What arrives is what was sent, both ways at once, in pieces of all sizes.
func TestTCPBulk(t *testing.T) {
	r := newRig(t)
	for _, at := range []netip.Addr{r.b4, r.b6} {
		c, s := r.pair(t, at)
		const size = 16 << 20
		send := func(c *tcpConn, seed uint64) [32]byte {
			src := rand.NewChaCha8([32]byte{byte(seed)})
			rnd := rand.New(rand.NewPCG(seed, 1))
			h := sha256.New()
			buf := make([]byte, 200_000)
			for left := size; left > 0; {
				n := min(left, 1+rnd.IntN(len(buf)))
				_, _ = src.Read(buf[:n])
				h.Write(buf[:n])
				if _, err := c.Write(buf[:n]); err != nil {
					t.Error(err)
					break
				}
				left -= n
			}
			_ = c.CloseWrite()
			return [32]byte(h.Sum(nil))
		}
		receive := func(c *tcpConn) [32]byte {
			h := sha256.New()
			if n, err := io.Copy(h, c); n != size || err != nil {
				t.Errorf("received %d bytes, %v", n, err)
			}
			return [32]byte(h.Sum(nil))
		}
		sums := make([]chan [32]byte, 4)
		for i, f := range []func() [32]byte{
			func() [32]byte { return send(c, 1) }, func() [32]byte { return receive(s) },
			func() [32]byte { return send(s, 2) }, func() [32]byte { return receive(c) },
		} {
			sums[i] = make(chan [32]byte, 1)
			go func() { sums[i] <- f() }()
		}
		if <-sums[0] != <-sums[1] || <-sums[2] != <-sums[3] {
			t.Errorf("%v: what arrived is not what was sent", at)
		}
	}
	if st := r.b.Shim.Stats(); st.Merged == 0 {
		t.Error("nothing was merged")
	}
}

func TestTCPToSelf(t *testing.T) {
	r := newRig(t)
	l, err := r.a.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	resolver := r.a.Table.Resolver()
	if err := r.a.AddAddress(resolver); err != nil {
		t.Fatal(err)
	}
	for _, self := range []netip.Addr{r.a.v4, r.a.v6, resolver} {
		c, err := r.a.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(self, port(l.Addr())))
		if err != nil {
			t.Fatal(err)
		}
		want := bytes.Repeat([]byte("self"), 100_000)
		go func() { _, _ = c.Write(want); _ = c.(*tcpConn).CloseWrite() }()
		if got, err := io.ReadAll(c); !bytes.Equal(got, want) || err != nil {
			t.Errorf("%v: %d bytes, %v", self, len(got), err)
		}
		_ = c.Close()
	}
	if n := r.a.Connects.Load(); n != 0 {
		t.Errorf("%d Connects", n)
	}
}

// A conn that was closed delivers what was written, though the stack is
// closed right after.
func TestCloseDelivers(t *testing.T) {
	r := newRig(t)
	c, s := r.pair(t, r.b4)
	want := bytes.Repeat([]byte("deliver"), 100_000)
	if _, err := c.Write(want); err != nil {
		t.Fatal(err)
	}
	_, _ = c.Close(), r.a.Close()
	if got, err := io.ReadAll(s); !bytes.Equal(got, want) || err != nil {
		t.Errorf("%d of %d bytes, %v", len(got), len(want), err)
	}
}
