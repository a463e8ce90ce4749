package idloc_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
)

// Listeners: addresses, families, ports in use, backlog, deadlines.
func TestListenSemantics(t *testing.T) {
	t.Parallel()
	kernel, nodes := worlds(t)
	if kernel.far6 == "" {
		t.Skip("the kernel has no IPv6 loopback to compare with")
	}
	for _, tt := range []struct{ network, address string }{
		{"tcp", ":0"}, {"tcp4", ":0"}, {"tcp6", ":0"},
		{"tcp", "0.0.0.0:0"}, {"tcp4", "0.0.0.0:0"}, {"tcp6", "0.0.0.0:0"},
		{"tcp", "[::]:0"}, {"tcp4", "[::]:0"}, {"tcp6", "[::]:0"},
		{"tcp", "4:0"}, {"tcp4", "4:0"}, {"tcp6", "4:0"},
		{"tcp", "6:0"}, {"tcp4", "6:0"}, {"tcp6", "6:0"},
		{"tcp", "192.0.2.1:0"}, {"tcp", "[2001:db8::1]:0"},
		{"tcp", ""}, {"tcp", "nothing"}, {"tcp", ":99999"}, {"tcp", ":-1"}, {"tcp", ":no-such-service"}, {"tcp", "[::1:0"},
		{"udp", ":0"}, {"udp6", ":0"}, {"", ":0"}, {"tcp5", ":0"},
	} {
		same(t, kernel, nodes, tt.network+" "+tt.address, func(r *transcript) {
			l, err := r.w.listen(tt.network, r.w.own(tt.address))
			r.note("Listen", err)
			if err != nil {
				return
			}
			defer l.Close()
			host, port, err := net.SplitHostPort(l.Addr().String())
			r.note("Addr", err)
			r.note("port", port != "0")
			r.note("host", r.w.symbol(host))
			r.note("network", l.Addr().Network())
			for _, network := range []string{"tcp4", "tcp6"} {
				c, err := r.w.dial(r.Context(), network, r.w.far(network, l.Addr()))
				r.note("Dial "+network, err)
				if err != nil {
					continue
				}
				s, err := l.Accept()
				r.note("Accept", err)
				if err == nil {
					h, _, _ := net.SplitHostPort(s.LocalAddr().String())
					r.note("local of the accepted", r.w.symbol(h))
					s.Close()
				}
				c.Close()
			}
			// Which others the port is in use for.
			for _, other := range []struct{ network, host string }{
				{"tcp", ""}, {"tcp4", ""}, {"tcp6", ""}, {"tcp", "4"}, {"tcp", "6"},
			} {
				l2, err := r.w.listen(other.network, r.w.own(net.JoinHostPort(other.host, port)))
				r.note("Listen "+other.network+" "+other.host+" on the same port", err)
				if err == nil {
					l2.Close()
				}
			}
			l.Close()
			l2, err := r.w.listen(tt.network, r.w.own(cmp.Or(strings.TrimSuffix(tt.address, "0"), ":")+port))
			r.note("Listen again", err)
			if err == nil {
				l2.Close()
			}
		})
	}
	same(t, kernel, nodes, "after Close", func(r *transcript) {
		l, err := r.w.listen("tcp4", ":0")
		if err != nil {
			r.Fatal(err)
		}
		blocked := async(func() error { return second(l.Accept()) })
		r.note("Close", l.Close())
		r.note("blocked Accept", <-blocked)
		r.note("Accept", second(l.Accept()))
		r.note("Close", l.Close())
		r.note("SetDeadline", errors.Is(l.(deadliner).SetDeadline(past), net.ErrClosed)) // package net forgets the OpError here
		r.note("Dial", second(r.w.dial(r.Context(), "tcp4", r.w.far("tcp4", l.Addr()))))
	})
	same(t, kernel, nodes, "deadlines", func(r *transcript) {
		l, err := r.w.listen("tcp", ":0")
		if err != nil {
			r.Fatal(err)
		}
		defer l.Close()
		d := l.(deadliner)
		r.note("SetDeadline", d.SetDeadline(past))
		r.note("Accept", second(l.Accept()))
		d.SetDeadline(soon())
		r.note("blocked Accept", second(l.Accept()))
		d.SetDeadline(time.Time{})
		blocked := async(func() error { return second(l.Accept()) })
		d.SetDeadline(soon())
		r.note("Accept, deadline set meanwhile", <-blocked)
		c, err := r.w.dial(r.Context(), "tcp4", r.w.far("tcp4", l.Addr()))
		if err != nil {
			r.Fatal(err)
		}
		defer c.Close()
		r.note("a connection and a past deadline", second(l.Accept()))
		d.SetDeadline(time.Time{})
		s, err := l.Accept()
		r.note("lifted", err)
		if err == nil {
			s.Close()
		}
	})
	same(t, kernel, nodes, "connections that wait for Accept", func(r *transcript) {
		l, err := r.w.listen("tcp", ":0")
		if err != nil {
			r.Fatal(err)
		}
		const n = 200
		var conns []net.Conn
		for range n {
			c, err := r.w.dial(r.Context(), "tcp4", r.w.far("tcp4", l.Addr()))
			if err != nil {
				r.note("Dial", err)
				break
			}
			defer c.Close()
			c.Write([]byte("early"))
			conns = append(conns, c)
		}
		for range n / 2 {
			s, err := l.Accept()
			if err != nil {
				r.note("Accept", err)
				break
			}
			b := make([]byte, 5)
			if _, err := io.ReadFull(s, b); err != nil || string(b) != "early" {
				r.note("early data", fmt.Sprint(string(b), err))
			}
			s.Close()
		}
		r.note("Close", l.Close())
		resets := 0
		for _, c := range conns {
			c.SetReadDeadline(time.Now().Add(patience))
			if _, err := c.Read(make([]byte, 1)); errors.Is(err, syscall.ECONNRESET) {
				resets++
			} else if err != io.EOF {
				r.note("Read", err)
			}
		}
		r.note("reset", resets)
	})
}

// own puts the listening side's own addresses in the place of "4" and "6".
func (w *world) own(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	switch host {
	case "4":
		return net.JoinHostPort(w.own4, port)
	case "6":
		return net.JoinHostPort(w.own6, port)
	}
	return address
}

// symbol is the reverse.
func (w *world) symbol(host string) string {
	switch host {
	case w.own4:
		return "4"
	case w.own6:
		return "6"
	}
	return host
}

// Dial: what goes wrong, and how it says so.
func TestDialSemantics(t *testing.T) {
	t.Parallel()
	kernel, nodes := worlds(t)
	for _, network := range []string{"tcp", "tcp4", "tcp6", "udp", "udp4", "udp6", "", "tcp7"} {
		for _, address := range []string{"", "nothing", "4:", "4:99999", "4:no-such-service", "4:-1", "[::1:80", "4:80:80", "4:0", "4:discard", "[::ffff:4]:9", "[6%lo]:9"} {
			same(t, kernel, nodes, network+" "+address, func(r *transcript) {
				address := strings.NewReplacer(":4]", ":"+r.w.far4+"]", "4:", r.w.far4+":", "[6", "["+r.w.far6).Replace(address)
				c, err := r.w.dial(r.Context(), network, address)
				r.note("Dial", err)
				if err == nil {
					r.note("RemoteAddr", strings.NewReplacer(r.w.far4, "4", r.w.far6, "6").Replace(c.RemoteAddr().String()))
					c.Close()
				}
			})
		}
	}
	for _, tt := range []struct{ what, network, host string }{
		{"closed port", "tcp4", "4"}, {"closed port", "tcp6", "6"}, {"closed port, dual", "tcp", "4"},
		{"address of another family", "tcp6", "4"}, {"address of another family", "tcp4", "6"},
		{"address of another family", "udp6", "4"}, {"address of another family", "udp4", "6"},
	} {
		same(t, kernel, nodes, tt.what+" "+tt.network, func(r *transcript) {
			host := r.w.far4
			if tt.host == "6" {
				host = r.w.far6
			}
			c, err := r.w.dial(r.Context(), tt.network, net.JoinHostPort(host, "9"))
			if err == nil {
				c.Close()
			}
			r.note("Dial", err)
		})
	}
	same(t, kernel, nodes, "contexts", func(r *transcript) {
		l, err := r.w.listen("tcp", ":0")
		if err != nil {
			r.Fatal(err)
		}
		defer l.Close()
		to := r.w.far("tcp4", l.Addr())
		cancelled, cancel := context.WithCancel(r.Context())
		cancel()
		r.note("cancelled before", second(r.w.dial(cancelled, "tcp", to)))
		r.note("cancelled before, UDP", second(r.w.dial(cancelled, "udp", to)))
		expired, cancel := context.WithDeadline(r.Context(), past)
		defer cancel()
		r.note("deadline before", second(r.w.dial(expired, "tcp", to)))
		r.note("deadline before, UDP", second(r.w.dial(expired, "udp", to)))
		ctx, cancel := context.WithCancel(r.Context())
		c, err := r.w.dial(ctx, "tcp", to)
		if err != nil {
			r.Fatal(err)
		}
		defer c.Close()
		cancel()
		r.note("Write after the context has ended", second(c.Write([]byte("x"))))
		cause, why := context.WithCancelCause(r.Context())
		why(os.ErrPermission)
		r.note("cancelled with a cause", second(r.w.dial(cause, "tcp", to)))
	})
}

// Dialling oneself, by all the ways there are to say so.
func TestDialSelf(t *testing.T) {
	t.Parallel()
	kernel, nodes := worlds(t)
	earth := found(t, idloc.Config{})
	v4, v6 := earth.LSIs()
	nodes.dial, nodes.listen, nodes.listenPacket = earth.Dial, earth.Listen, earth.ListenPacket
	nodes.far4, nodes.far6, nodes.own4, nodes.own6 = v4.String(), v6.String(), v4.String(), v6.String()
	for _, network := range []string{"tcp", "tcp4", "tcp6"} {
		for _, host := range []string{"", "0.0.0.0", "::", "4", "6"} {
			for _, at := range []string{"", "4", "6"} {
				same(t, kernel, nodes, fmt.Sprintf("%s to %q listening at %q", network, host, at), func(r *transcript) {
					l, err := r.w.listen("tcp", r.w.own(net.JoinHostPort(at, "0")))
					if err != nil {
						r.Fatal(err)
					}
					defer l.Close()
					c, err := r.w.dial(r.Context(), network, r.w.own(net.JoinHostPort(host, portOf(l.Addr()))))
					r.note("Dial", err)
					if err != nil {
						return
					}
					defer c.Close()
					local, _, _ := net.SplitHostPort(c.LocalAddr().String())
					remote, _, _ := net.SplitHostPort(c.RemoteAddr().String())
					r.note("local", r.w.symbol(local))
					r.note("remote", r.w.symbol(remote))
				})
			}
		}
	}
	for _, network := range []string{"udp", "udp4", "udp6"} {
		for _, host := range []string{"", "0.0.0.0", "::", "4", "6"} {
			same(t, kernel, nodes, fmt.Sprintf("%s to %q", network, host), func(r *transcript) {
				pc, err := r.w.listenPacket("udp", ":0")
				if err != nil {
					r.Fatal(err)
				}
				defer pc.Close()
				c, err := r.w.dial(r.Context(), network, r.w.own(net.JoinHostPort(host, portOf(pc.LocalAddr()))))
				r.note("Dial", err)
				if err != nil {
					return
				}
				defer c.Close()
				r.note("Write", second(c.Write([]byte("me"))))
				pc.SetDeadline(time.Now().Add(patience))
				buf := make([]byte, 10)
				n, from, err := pc.ReadFrom(buf)
				r.note(string(buf[:n]), err)
				if err == nil {
					at, _, _ := net.SplitHostPort(from.String())
					r.note("from", r.w.symbol(at))
				}
			})
		}
	}
}

// A peer that listens at one kind of LSI is reached by a name that stands for
// both, as hosts with several addresses are in package net.
func TestDialTriesBothFamilies(t *testing.T) {
	t.Parallel()
	_, venus, mars := solar(t)
	for _, network := range []string{"tcp4", "tcp6"} {
		l, err := mars.Listen(network, ":0")
		if err != nil {
			t.Fatal(err)
		}
		c, err := dialTimeout(t, venus, "tcp", net.JoinHostPort("mars.example.com", portOf(l.Addr())))
		if err != nil {
			t.Errorf("listening at %s: %v", network, err)
		} else {
			c.Close()
		}
		l.Close()
	}
}
