package tun

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/idloc/idloc/internal/inner"
	"github.com/idloc/idloc/shim/shimtest"
)

// A host that is no member has no connection to what listens at the LSIs, though
// it is on a network of this one, and sends to them there.
func TestListenerOutside(t *testing.T) {
	s := newSpace(t)
	eth := newEth0(t, s)
	h := &host{space: s, Node: shimtest.NewNet().Node(t, nil)}
	var err error
	s.in(func() { h.Host, err = New(Config{Shim: h.Shim}) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	own, _ := h.Table.Self()
	var l net.Listener
	s.in(func() { l, err = h.ListenTCP("tcp", netip.AddrPort{}, 0) })
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn, 2)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	other, port := netip.MustParseAddr("192.0.2.77"), addrOf(l.Addr()).Port()
	say := func(flags header.TCPFlags, seq, ack uint32) {
		t.Helper()
		th := make(header.TCP, header.TCPMinimumSize)
		th.Encode(&header.TCPFields{SrcPort: 7, DstPort: port, SeqNum: seq, AckNum: ack,
			DataOffset: header.TCPMinimumSize, Flags: flags, WindowSize: 65535})
		p := between(packet(false, inner.TCP, th, 0), other.String(), own.String())
		var hd inner.Header
		hd.Parse(p)
		f := framePool.Get().(*frame)
		finish(&f.vnet, &hd, p, nil, 0)
		binary.BigEndian.PutUint16(p[10:], headerSum(p[:inner.IPv4Len]))
		if !eth.write(f, p, nil) {
			t.Fatal("the kernel does not take a packet of eth0")
		}
	}
	say(header.TCPFlagSyn, 100, 0)
	b := make([]byte, 1<<16)
	_ = eth.file.SetReadDeadline(time.Now().Add(5 * time.Second))
	for {
		n, err := eth.read(b)
		if err != nil {
			return // it gets no answer
		}
		var hd inner.Header
		if _, ok := hd.Parse(b[vnetLen:n]); ok && hd.Src == own && hd.Dst == other && hd.Flags&inner.SYN != 0 {
			say(header.TCPFlagAck, 101, hd.Seq+1)
			break
		}
	}
	// Who is meant to is connected after that.
	var c net.Conn
	s.in(func() { c, err = net.Dial("tcp", netip.AddrPortFrom(own, port).String()) })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	select {
	case got := <-accepted:
		defer got.Close()
		if from := addrOf(got.RemoteAddr()).Addr(); from != own {
			t.Errorf("%v is connected", from)
		}
	case <-time.After(time.Minute):
		t.Error("nobody is connected")
	}
}

// Nobody on the host's network can send in the name of a member.
func TestDatagramsOutside(t *testing.T) {
	for _, filter := range []string{"0", "1"} {
		for _, v6 := range []bool{false, true} {
			t.Run(filter+map[bool]string{false: " v4", true: " v6"}[v6], func(t *testing.T) {
				s := newSpace(t)
				eth := newEth0(t, s)
				asked := 0
				h := &host{space: s, Node: shimtest.NewNet().Node(t, nil)}
				var err error
				s.in(func() {
					h.Host, err = New(Config{Shim: h.Shim, Admit: func(string, netip.AddrPort, netip.AddrPort) bool { asked++; return false }})
				})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = h.Close() })
				{
					s.in(func() {
						for _, f := range []string{"all", "eth0"} {
							if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+f+"/rp_filter", []byte(filter), 0); err != nil {
								t.Skip(err)
							}
						}
					})
				}
				peer := shimtest.NewNet().Node(t, nil)
				p4, p6 := h.LSI(t, peer)
				own4, own6 := h.Table.Self()
				var c net.PacketConn
				s.in(func() { c, err = h.Host.ListenUDP("udp", netip.AddrPort{}) })
				if err != nil {
					t.Fatal(err)
				}
				uh := udpHeader(4)
				binary.BigEndian.PutUint16(uh[2:], uint16(c.LocalAddr().(*net.UDPAddr).Port))
				p := packet(v6, inner.UDP, uh, 4)
				hl := inner.IPv4Len
				if v6 {
					p, hl = between(p, p6.String(), own6.String()), inner.IPv6Len
				} else {
					p = between(p, p4.String(), own4.String())
				}
				p = append(p, "ping"...)
				var vnet [vnetLen]byte
				var hd inner.Header
				hd.Parse(p)
				finish(&vnet, &hd, p[:hl+8], p[hl+8:], 0)
				if !v6 {
					binary.BigEndian.PutUint16(p[10:], headerSum(p[:inner.IPv4Len]))
				}
				f := framePool.Get().(*frame)
				f.vnet = vnet
				if !eth.write(f, p, nil) {
					t.Fatal("the kernel does not take a packet of eth0")
				}
				_ = c.SetReadDeadline(time.Now().Add(time.Second))
				b := make([]byte, 100)
				if n, from, err := c.ReadFrom(b); err == nil {
					t.Errorf("%q in the name of %v, Admit asked %d times", b[:n], from, asked)
				}
				own := own4
				if v6 {
					own = own6
				}
				s.in(func() {
					var self net.Conn
					if self, err = net.Dial("udp", netip.AddrPortFrom(own, uint16(c.LocalAddr().(*net.UDPAddr).Port)).String()); err == nil {
						_, err = self.Write([]byte("self"))
						self.Close()
					}
				})
				if err != nil {
					t.Fatal(err)
				}
				_ = c.SetReadDeadline(time.Now().Add(time.Minute))
				if n, from, err := c.ReadFrom(b); err != nil || string(b[:n]) != "self" || addrOf(from).Addr() != own {
					t.Errorf("%q of the host's own, from %v: %v", b[:n], from, err)
				}
			})
		}
	}
}
