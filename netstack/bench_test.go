package netstack

import (
	"context"
	"io"
	"net/netip"
	"testing"
	"time"
)

// BenchmarkBulk sends one way through two stacks, shims, pipes, and a net in
// memory.
func BenchmarkBulk(b *testing.B) {
	for name, pick := range map[string]func(*rig) netip.Addr{
		"IPv4": func(r *rig) netip.Addr { return r.b4 },
		"IPv6": func(r *rig) netip.Addr { return r.b6 },
	} {
		b.Run(name, func(b *testing.B) {
			r := newRig(b)
			c, s := r.pair(b, pick(r))
			buf := make([]byte, 256<<10)
			got := make(chan int64)
			go func() { n, _ := io.Copy(io.Discard, s); got <- n }()
			b.SetBytes(int64(len(buf)))
			b.ReportAllocs()
			n := int64(0)
			for b.Loop() {
				if _, err := c.Write(buf); err != nil {
					b.Fatal(err)
				}
				n += int64(len(buf))
			}
			_ = c.CloseWrite()
			if m := <-got; m != n {
				b.Errorf("%d of %d bytes arrived", m, n)
			}
			b.ReportMetric(float64(r.a.Stats().Retransmits), "retransmits")
		})
	}
}

// BenchmarkPingPong is one byte there and back.
func BenchmarkPingPong(b *testing.B) {
	r := newRig(b)
	c, s := r.pair(b, r.b4)
	go func() { _, _ = io.Copy(s, s); _ = s.Close() }()
	buf := make([]byte, 1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDial is connect, accept and close on a pipe that is up.
func BenchmarkDial(b *testing.B) {
	r := newRig(b)
	l, err := r.b.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	b.ReportAllocs()
	for b.Loop() {
		c, err := r.a.DialTCP(context.Background(), "tcp", netip.AddrPort{}, netip.AddrPortFrom(r.b4, port(l.Addr())))
		if err != nil {
			b.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
	}
}

// BenchmarkUDP sends datagrams one way and counts what arrives.
func BenchmarkUDP(b *testing.B) {
	r := newRig(b)
	pc, err := r.b.ListenUDP("udp", netip.AddrPort{})
	if err != nil {
		b.Fatal(err)
	}
	defer pc.Close()
	c, err := r.a.DialUDP(context.Background(), "udp", netip.AddrPort{}, netip.AddrPortFrom(r.b4, port(pc.LocalAddr())))
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	received := make(chan int, 1)
	go func() {
		buf := make([]byte, 2000)
		n := 0
		for {
			if _, _, err := pc.(*udpConn).ReadFromUDPAddrPort(buf); err != nil {
				received <- n
				return
			}
			n++
		}
	}()
	buf := make([]byte, 1000)
	b.SetBytes(1000)
	b.ReportAllocs()
	for b.Loop() {
		_, _ = c.Write(buf)
	}
	_ = pc.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	b.ReportMetric(float64(<-received)/float64(b.N), "arrived/op")
}
