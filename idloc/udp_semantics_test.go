package idloc_test

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// A UDP conn between two nodes behaves as one of the kernel's.
func TestUDPSemantics(t *testing.T) {
	t.Parallel()
	kernel, nodes := worlds(t)
	for _, network := range []string{"udp4", "udp6", "udp"} {
		if network == "udp6" && kernel.far6 == "" {
			t.Log("the kernel has no IPv6 loopback: udp6 not compared")
			continue
		}
		for _, tt := range []struct {
			what string
			do   func(r *transcript, c net.Conn, pc net.PacketConn)
		}{
			{"sizes", func(r *transcript, c net.Conn, pc net.PacketConn) {
				for _, n := range []int{0, 1, 1200, 1439, 1440, 1472, 4000, 32768, 65507, 65508, 65527, 65528, 70000} {
					msg := bytes.Repeat([]byte{byte(n)}, n)
					k, err := c.Write(msg)
					if n > 65507 && network == "udp6" {
						continue // the kernel's IPv6 carries 20 bytes more
					}
					r.note(fmt.Sprint("Write ", n), err)
					r.note("n", k)
					if err != nil {
						continue
					}
					got := make([]byte, 1<<17)
					k, from, err := pc.ReadFrom(got)
					r.note("ReadFrom", err)
					r.note("equal", bytes.Equal(got[:k], msg))
					if err != nil {
						continue
					}
					r.note("from", portOf(from) == portOf(c.LocalAddr()))
					_, err = pc.WriteTo(got[:k], from)
					r.note("WriteTo", err)
					k, err = c.Read(got)
					r.note("Read", err)
					r.note("equal", bytes.Equal(got[:k], msg))
				}
			}},
			{"a short buffer", func(r *transcript, c net.Conn, pc net.PacketConn) {
				c.Write([]byte("0123456789"))
				c.Write([]byte("next"))
				small := make([]byte, 4)
				n, _, err := pc.ReadFrom(small)
				r.note("ReadFrom", err)
				r.note("got", string(small[:n]))
				n, _, err = pc.ReadFrom(small)
				r.note("ReadFrom", err)
				r.note("got", string(small[:n]))
				c.Write([]byte("one"))
				n, _, err = pc.ReadFrom(nil)
				r.note("ReadFrom no buffer", err)
				r.note("n", n)
				c.Write([]byte("two"))
				n, _, err = pc.ReadFrom(small)
				r.note("after that", string(small[:n]))
				r.note("err", err)
			}},
			{"methods of net.UDPConn", func(r *transcript, c net.Conn, pc net.PacketConn) {
				u := pc.(datagrams)
				c.Write([]byte("a"))
				n, from, err := u.ReadFromUDP(r.buf)
				r.note("ReadFromUDP", err)
				r.note("n", n)
				_, err = u.WriteToUDP([]byte("b"), from)
				r.note("WriteToUDP", err)
				n, err = c.Read(r.buf)
				r.note(string(r.buf[:n]), err)
				c.Write([]byte("longer"))
				n, oobn, flags, from, err := u.ReadMsgUDP(r.buf[:3], nil)
				r.note("ReadMsgUDP", err)
				r.note("results", fmt.Sprint(n, oobn, flags != 0))
				n, oobn, err = u.WriteMsgUDP([]byte("c"), nil, from)
				r.note("WriteMsgUDP", err)
				r.note("results", fmt.Sprint(n, oobn))
				n, err = c.Read(r.buf)
				r.note(string(r.buf[:n]), err)
				c.Write([]byte("d"))
				n, oobn, flags, ap, err := u.ReadMsgUDPAddrPort(r.buf, nil)
				r.note("ReadMsgUDPAddrPort", err)
				r.note("results", fmt.Sprint(n, oobn, flags))
				n, oobn, err = u.WriteMsgUDPAddrPort([]byte("e"), nil, ap)
				r.note("WriteMsgUDPAddrPort", err)
				r.note("results", fmt.Sprint(n, oobn))
				n, err = c.Read(r.buf)
				r.note(string(r.buf[:n]), err)
				c.Write([]byte("f"))
				_, ap, err = u.ReadFromUDPAddrPort(r.buf)
				r.note("ReadFromUDPAddrPort", err)
				r.note("family", ap.Addr().Unmap().Is4())
				_, err = u.WriteToUDPAddrPort([]byte("g"), ap)
				r.note("WriteToUDPAddrPort", err)
				n, err = c.Read(r.buf)
				r.note(string(r.buf[:n]), err)

				d := c.(datagrams)
				_, err = d.WriteToUDP(r.buf[:1], from)
				r.note("WriteToUDP, connected", err)
				_, err = d.WriteTo(r.buf[:1], from)
				r.note("WriteTo, connected", err)
				_, err = d.WriteToUDPAddrPort(r.buf[:1], ap)
				r.note("WriteToUDPAddrPort, connected", err)
				_, _, err = d.WriteMsgUDP(r.buf[:1], nil, from)
				r.note("WriteMsgUDP, connected", err)
				_, _, err = d.WriteMsgUDP([]byte("h"), nil, nil)
				r.note("WriteMsgUDP, connected, no address", err)
				n, _, err = pc.ReadFrom(r.buf)
				r.note(string(r.buf[:n]), err)
				_, _, err = d.WriteMsgUDPAddrPort([]byte("i"), nil, netip.AddrPort{})
				r.note("WriteMsgUDPAddrPort, connected, no address", err)
				n, _, err = pc.ReadFrom(r.buf)
				r.note(string(r.buf[:n]), err)
				r.note("Write, not connected", second(u.Write(r.buf[:1])))
				_, err = u.WriteTo(r.buf[:1], &net.TCPAddr{})
				r.note("WriteTo a TCP address", err)
				_, err = u.WriteToUDP(r.buf[:1], nil)
				r.note("WriteToUDP nobody", err)
				_, _, err = u.WriteMsgUDP(r.buf[:1], nil, nil)
				r.note("WriteMsgUDP nobody", err)
				_, err = u.WriteToUDPAddrPort(r.buf[:1], netip.AddrPort{})
				r.note("WriteToUDPAddrPort nobody", err)
				r.note("SetReadBuffer", u.SetReadBuffer(1<<20))
				r.note("SetWriteBuffer", u.SetWriteBuffer(1<<20))
				r.note("RemoteAddr", u.RemoteAddr() == nil)
			}},
			{"to addresses of all kinds", func(r *transcript, c net.Conn, pc net.PacketConn) {
				u := c.LocalAddr().(*net.UDPAddr)
				for _, to := range []*net.UDPAddr{{Port: u.Port}, {IP: net.IPv4zero, Port: u.Port}, {IP: net.IPv6unspecified, Port: u.Port}} {
					// What is sent goes to this host, where nobody reads it.
					r.note("WriteTo "+to.IP.String(), second(pc.WriteTo([]byte("x"), to)))
				}
				for _, ip := range []string{r.w.own4, "::ffff:" + r.w.own4, r.w.own6} {
					_, err := pc.WriteTo([]byte("x"), &net.UDPAddr{IP: net.ParseIP(ip), Port: 9})
					r.note("WriteTo "+strings.Replace(r.w.symbol(ip), r.w.own4, "4", 1), err)
				}
				r.note("WriteTo port 0", second(pc.WriteTo([]byte("x"), &net.UDPAddr{IP: u.IP})))
				_, err := pc.(datagrams).WriteToUDPAddrPort([]byte("x"), netip.MustParseAddrPort("[::ffff:"+r.w.own4+"]:9"))
				r.note("WriteToUDPAddrPort 4in6", err)
			}},
			{"read by a connected one", func(r *transcript, c net.Conn, pc net.PacketConn) {
				c.Write([]byte("hello"))
				_, from, _ := pc.ReadFrom(r.buf)
				pc.WriteTo([]byte("answer"), from)
				n, addr, err := c.(datagrams).ReadFrom(r.buf)
				r.note("ReadFrom", err)
				r.note("got", string(r.buf[:n]))
				r.note("from", addr.String() == c.RemoteAddr().String())
			}},
			{"after Close", func(r *transcript, c net.Conn, pc net.PacketConn) {
				u := pc.(datagrams)
				r.note("Close", c.Close())
				r.note("Close", c.Close())
				r.note("Read", second(c.Read(r.buf)))
				r.note("Write", second(c.Write(r.buf[:1])))
				r.note("Write of nothing", second(c.Write(nil)))
				r.note("SetDeadline", c.SetDeadline(past))
				to := u.LocalAddr()
				r.note("Close", pc.Close())
				_, _, err := pc.ReadFrom(r.buf)
				r.note("ReadFrom", err)
				_, _, err = u.ReadFromUDPAddrPort(r.buf)
				r.note("ReadFromUDPAddrPort", err)
				_, _, _, _, err = u.ReadMsgUDP(r.buf, nil)
				r.note("ReadMsgUDP", err)
				_, err = pc.WriteTo(r.buf[:1], to)
				r.note("WriteTo", err)
				r.note("SetReadBuffer", u.SetReadBuffer(1<<20))
				r.note("SetWriteBuffer", u.SetWriteBuffer(1<<20))
				r.note("SetReadDeadline", u.SetReadDeadline(past))
			}},
			{"deadlines", func(r *transcript, c net.Conn, pc net.PacketConn) {
				pc.SetReadDeadline(past)
				_, _, err := pc.ReadFrom(r.buf)
				r.note("ReadFrom", err)
				pc.SetReadDeadline(soon())
				_, _, err = pc.ReadFrom(r.buf)
				r.note("blocked ReadFrom", err)
				pc.SetReadDeadline(time.Time{})
				blocked := async(func() error { _, _, err := pc.ReadFrom(r.buf); return err })
				pc.SetReadDeadline(soon())
				r.note("deadline set meanwhile", <-blocked)
				c.SetWriteDeadline(past)
				r.note("Write", second(c.Write(r.buf[:1])))
				c.SetDeadline(time.Time{})
				r.note("Write", second(c.Write([]byte("late"))))
				pc.SetDeadline(time.Time{})
				n, _, err := pc.ReadFrom(r.buf)
				r.note(string(r.buf[:n]), err)
			}},
			{"Close while ReadFrom is blocked", func(r *transcript, c net.Conn, pc net.PacketConn) {
				blocked := async(func() error { _, _, err := pc.ReadFrom(r.buf); return err })
				pc.Close()
				r.note("ReadFrom", <-blocked)
			}},
			{"closed port", func(r *transcript, c net.Conn, pc net.PacketConn) {
				pc.Close()
				r.note("Write", second(c.Write([]byte("x"))))
				r.note("Read", second(c.Read(r.buf)))
				r.note("Write", second(c.Write([]byte("x"))))
				// The error is told once, by whichever call comes first.
				c.SetReadDeadline(time.Now().Add(patience))
				r.note("Read", second(c.Read(r.buf)))
			}},
			{"addresses", func(r *transcript, c net.Conn, pc net.PacketConn) {
				for _, a := range []net.Addr{c.LocalAddr(), c.RemoteAddr(), pc.LocalAddr()} {
					udp, ok := a.(*net.UDPAddr)
					r.note("type", ok)
					r.note("network", a.Network())
					r.note("port", udp.Port != 0)
				}
				host, _, _ := net.SplitHostPort(pc.LocalAddr().String())
				r.note("wildcard", host)
			}},
		} {
			same(t, kernel, nodes, network+"/"+tt.what, func(r *transcript) {
				c, pc := r.packets(network)
				tt.do(r, c, pc)
			})
		}
	}
}

// Where a UDP socket may be bound, what it then receives and can send.
func TestListenPacketSemantics(t *testing.T) {
	t.Parallel()
	kernel, nodes := worlds(t)
	if kernel.far6 == "" {
		t.Skip("the kernel has no IPv6 loopback to compare with")
	}
	for _, tt := range []struct{ network, address string }{
		{"udp", ":0"}, {"udp4", ":0"}, {"udp6", ":0"},
		{"udp", "0.0.0.0:0"}, {"udp4", "0.0.0.0:0"}, {"udp6", "0.0.0.0:0"},
		{"udp", "[::]:0"}, {"udp4", "[::]:0"}, {"udp6", "[::]:0"},
		{"udp", "4:0"}, {"udp4", "4:0"}, {"udp6", "4:0"},
		{"udp", "6:0"}, {"udp4", "6:0"}, {"udp6", "6:0"},
		{"udp", "192.0.2.1:0"}, {"udp", "[2001:db8::1]:0"},
		{"udp", ""}, {"udp", "nothing"}, {"udp", ":99999"}, {"tcp", ":0"}, {"tcp4", ":0"}, {"", ":0"}, {"udp5", ":0"},
	} {
		same(t, kernel, nodes, tt.network+" "+tt.address, func(r *transcript) {
			pc, err := r.w.listenPacket(tt.network, r.w.own(tt.address))
			r.note("ListenPacket", err)
			if err != nil {
				return
			}
			defer pc.Close()
			host, port, _ := net.SplitHostPort(pc.LocalAddr().String())
			r.note("host", r.w.symbol(host))
			r.note("port", port != "0")
			r.note("network", pc.LocalAddr().Network())
			buf := make([]byte, 100)
			for _, network := range []string{"udp4", "udp6"} {
				c, err := r.w.dial(r.Context(), network, r.w.far(network, pc.LocalAddr()))
				if err != nil {
					r.Fatal(err)
				}
				defer c.Close()
				c.SetDeadline(time.Now().Add(patience))
				r.note("Write "+network, second(c.Write([]byte("there?"))))
				takes := host == "::" && tt.network == "udp" || host == "0.0.0.0" && network == "udp4" ||
					host == "::" && network == "udp6" || host == r.w.own4 && network == "udp4" || host == r.w.own6 && network == "udp6"
				if !takes {
					r.note("Read", second(c.Read(buf)))
					// To an address of the other family it cannot send either.
					_, err := pc.WriteTo([]byte("x"), c.LocalAddr())
					r.note("WriteTo the other family fails", err != nil)
					continue
				}
				pc.SetReadDeadline(time.Now().Add(patience))
				n, from, err := pc.ReadFrom(buf)
				r.note(string(buf[:n]), err)
				if err != nil {
					continue
				}
				ip := from.(*net.UDPAddr).IP
				r.note("from IPv4", ip.To4() != nil)
				_, err = pc.WriteTo([]byte("here"), from)
				r.note("WriteTo", err)
				n, err = c.Read(buf)
				r.note(string(buf[:n]), err)
			}
			for _, other := range []struct{ network, host string }{
				{"udp", ""}, {"udp4", ""}, {"udp6", ""}, {"udp", "4"}, {"udp", "6"},
			} {
				pc2, err := r.w.listenPacket(other.network, r.w.own(net.JoinHostPort(other.host, port)))
				r.note("ListenPacket "+other.network+" "+other.host+" on the same port", err)
				if err == nil {
					pc2.Close()
				}
			}
		})
	}
}

func portOf(a net.Addr) string {
	_, port, _ := net.SplitHostPort(a.String())
	return port
}
