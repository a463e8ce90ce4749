package idloc_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

var past = time.Unix(1, 0)

// soon is a deadline that a blocked call meets.
func soon() time.Time { return time.Now().Add(20 * time.Millisecond) }

// A TCP conn between two nodes behaves as one of the kernel's: the same
// values, the same errors with the same text.
func TestTCPSemantics(t *testing.T) {
	t.Parallel()
	kernel, nodes := worlds(t)
	for _, network := range []string{"tcp4", "tcp6", "tcp"} {
		if network == "tcp6" && kernel.far6 == "" {
			t.Log("the kernel has no IPv6 loopback: tcp6 not compared")
			continue
		}
		for _, tt := range []struct {
			what string
			do   func(r *transcript, c, s net.Conn)
		}{
			{"after Close", func(r *transcript, c, s net.Conn) {
				r.note("Close", c.Close())
				_, err := c.Read(r.buf)
				r.note("Read", err)
				_, err = c.Read(nil)
				r.note("Read of nothing", err)
				_, err = c.Write(r.buf)
				r.note("Write", err)
				_, err = c.Write(nil)
				r.note("Write of nothing", err)
				r.note("Close", c.Close())
				r.note("SetDeadline", c.SetDeadline(time.Now()))
				r.note("SetReadDeadline", c.SetReadDeadline(past))
				r.note("SetWriteDeadline", c.SetWriteDeadline(time.Time{}))
				h := c.(halves)
				r.note("CloseRead", h.CloseRead())
				r.note("CloseWrite", h.CloseWrite())
				r.note("SetLinger", h.SetLinger(0))
				r.note("SetNoDelay", h.SetNoDelay(true))
				r.note("SetKeepAlive", h.SetKeepAlive(true))
				r.note("SetKeepAlivePeriod", h.SetKeepAlivePeriod(time.Second))
				r.note("SetKeepAliveConfig", h.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true}))
				r.note("SetReadBuffer", h.SetReadBuffer(1<<16))
				r.note("SetWriteBuffer", h.SetWriteBuffer(1<<16))
				_, err = h.ReadFrom(strings.NewReader("x"))
				r.note("ReadFrom", err)
				_, err = h.WriteTo(io.Discard)
				r.note("WriteTo", err)
				_, err = h.MultipathTCP()
				r.note("MultipathTCP", err)
				r.note("LocalAddr stays", c.LocalAddr() != nil && c.LocalAddr().String() != "")
			}},
			{"after the peer's FIN", func(r *transcript, c, s net.Conn) {
				r.note("Write", second(s.Write([]byte("last words"))))
				r.note("Close", s.Close())
				got := make([]byte, 10)
				r.note("ReadFull", second(io.ReadFull(c, got)))
				r.note("got", string(got))
				for range 2 {
					n, err := c.Read(r.buf)
					r.note("Read", err)
					r.note("n", n)
				}
				r.note("Read of nothing", second(c.Read(nil)))
				n, err := c.(halves).WriteTo(io.Discard)
				r.note("WriteTo", err)
				r.note("n", n)
				r.note("Close", c.Close())
			}},
			{"half-close", func(r *transcript, c, s net.Conn) {
				r.note("CloseWrite", c.(halves).CloseWrite())
				r.note("CloseWrite again", c.(halves).CloseWrite())
				r.note("Write", second(c.Write(r.buf)))
				r.note("Write again", second(c.Write(r.buf)))
				r.note("peer reads", second(s.Read(r.buf)))
				r.note("peer writes", second(s.Write([]byte("still here"))))
				got := make([]byte, 10)
				r.note("ReadFull", second(io.ReadFull(c, got)))
				r.note("got", string(got))
				r.note("peer CloseWrite", s.(halves).CloseWrite())
				r.note("Read", second(c.Read(r.buf)))
				r.note("Close", c.Close())
				r.note("peer Close", s.Close())
			}},
			{"CloseRead", func(r *transcript, c, s net.Conn) {
				r.note("CloseRead", c.(halves).CloseRead())
				r.note("CloseRead again", c.(halves).CloseRead())
				r.note("Read", second(c.Read(r.buf)))
				r.note("Write", second(c.Write([]byte("only out"))))
				got := make([]byte, 8)
				r.note("peer reads", second(io.ReadFull(s, got)))
				r.note("got", string(got))
				r.note("Close", c.Close())
				r.note("peer Read", second(s.Read(r.buf)))
			}},
			{"CloseRead while Read is blocked", func(r *transcript, c, s net.Conn) {
				got := async(func() error { return second(c.Read(r.buf)) })
				r.note("CloseRead", c.(halves).CloseRead())
				r.note("Read", <-got)
			}},
			{"reset by SetLinger(0)", func(r *transcript, c, s net.Conn) {
				r.note("SetLinger", s.(halves).SetLinger(0))
				r.note("Close", s.Close())
				r.note("Read", second(c.Read(r.buf)))
				r.note("Read again", second(c.Read(r.buf)))
				r.note("Write", second(c.Write(r.buf)))
				r.note("CloseWrite", c.(halves).CloseWrite())
				r.note("Close", c.Close())
			}},
			{"reset seen by a blocked Write", func(r *transcript, c, s net.Conn) {
				failed := async(func() error {
					for big := make([]byte, 1<<20); ; {
						if _, err := c.Write(big); err != nil {
							return err
						}
					}
				})
				io.ReadFull(s, make([]byte, 1<<16))
				s.(halves).SetLinger(0)
				s.Close()
				r.note("Write", <-failed)
			}},
			{"unread data at Close is a reset", func(r *transcript, c, s net.Conn) {
				c.Write(r.buf)
				s.Read(make([]byte, 1))
				r.note("Close", s.Close())
				r.note("Read", second(c.Read(r.buf)))
			}},
			{"deadlines", func(r *transcript, c, s net.Conn) {
				r.note("SetReadDeadline", c.SetReadDeadline(past))
				r.note("Read", second(c.Read(r.buf)))
				r.note("Read of nothing", second(c.Read(nil)))
				r.note("Write", second(c.Write([]byte("a"))))
				r.note("SetWriteDeadline", c.SetWriteDeadline(past))
				r.note("Write", second(c.Write(r.buf)))
				r.note("Write of nothing", second(c.Write(nil)))
				_, err := c.(halves).ReadFrom(strings.NewReader("x"))
				r.note("ReadFrom", err)
				_, err = c.(halves).WriteTo(io.Discard)
				r.note("WriteTo", err)
				r.note("SetDeadline", c.SetDeadline(time.Time{}))
				r.note("Write", second(c.Write([]byte("b"))))
				got := make([]byte, 2)
				r.note("peer reads", second(io.ReadFull(s, got)))
				r.note("got", string(got))
				c.SetReadDeadline(soon())
				r.note("blocked Read", second(c.Read(r.buf)))
				s.Write([]byte("waiting"))
				r.note("data and a past deadline", second(c.Read(r.buf)))
				c.SetReadDeadline(time.Time{})
				got = make([]byte, 7)
				r.note("lifted", second(io.ReadFull(c, got)))
				r.note("got", string(got))
				s.Close()
				c.SetReadDeadline(past)
				r.note("FIN and a past deadline", second(c.Read(r.buf)))
			}},
			{"deadline set while Read is blocked", func(r *transcript, c, s net.Conn) {
				got := async(func() error { return second(c.Read(r.buf)) })
				c.SetReadDeadline(soon())
				r.note("Read", <-got)
			}},
			{"deadline moved while Read is blocked", func(r *transcript, c, s net.Conn) {
				c.SetReadDeadline(time.Now().Add(time.Hour))
				got := async(func() error { return second(c.Read(r.buf)) })
				c.SetReadDeadline(time.Now().Add(time.Minute))
				c.SetReadDeadline(past)
				r.note("Read", <-got)
			}},
			{"deadline lifted while Read is blocked", func(r *transcript, c, s net.Conn) {
				for {
					at := time.Now().Add(50 * time.Millisecond)
					c.SetReadDeadline(at)
					got := async(func() error { return second(c.Read(r.buf)) })
					c.SetReadDeadline(time.Time{})
					late := time.Now().After(at) // and Read may have met it
					s.Write([]byte("x"))
					if err := <-got; err == nil || !late {
						r.note("Read", err)
						return
					}
					c.Read(r.buf)
				}
			}},
			{"blocked Write meets its deadline", func(r *transcript, c, s net.Conn) {
				c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
				big := make([]byte, 64<<20)
				n, err := c.Write(big)
				r.note("Write", err)
				r.note("all was written", n == len(big))
				c.SetWriteDeadline(time.Time{})
				c.(halves).SetLinger(0)
			}},
			{"Close while Read and Write are blocked", func(r *transcript, c, s net.Conn) {
				read := async(func() error { return second(c.Read(r.buf)) })
				write := async(func() error { return second(c.Write(make([]byte, 64<<20))) })
				io.ReadFull(s, make([]byte, 1<<16))
				c.Close()
				r.note("Read", <-read)
				r.note("Write", <-write)
			}},
			{"options", func(r *transcript, c, s net.Conn) {
				h := c.(halves)
				for _, on := range []bool{false, true} {
					r.note("SetNoDelay", h.SetNoDelay(on))
					r.note("SetKeepAlive", h.SetKeepAlive(on))
				}
				for _, sec := range []int{-1, 0, 1} {
					r.note("SetLinger", h.SetLinger(sec))
				}
				r.note("SetKeepAlivePeriod", h.SetKeepAlivePeriod(time.Minute))
				r.note("SetKeepAlivePeriod below a second", h.SetKeepAlivePeriod(time.Millisecond))
				for _, k := range []net.KeepAliveConfig{{}, {Enable: true}, {Enable: true, Idle: -1, Interval: -1, Count: -1},
					{Enable: true, Idle: time.Minute, Interval: time.Second, Count: 3}} {
					r.note(fmt.Sprintf("SetKeepAliveConfig %+v", k), h.SetKeepAliveConfig(k))
				}
				for _, n := range []int{0, 1, 4096, 1 << 20, 1 << 30} {
					r.note("SetReadBuffer", h.SetReadBuffer(n))
					r.note("SetWriteBuffer", h.SetWriteBuffer(n))
				}
				on, err := h.MultipathTCP()
				r.note("MultipathTCP", err)
				r.note("on", on)
				r.note("Write", second(c.Write(r.buf)))
				r.note("peer reads", second(io.ReadFull(s, make([]byte, len(r.buf)))))
			}},
			{"addresses", func(r *transcript, c, s net.Conn) {
				for _, a := range []net.Addr{c.LocalAddr(), s.RemoteAddr()} {
					tcp, ok := a.(*net.TCPAddr)
					r.note("type", ok)
					r.note("network", a.Network())
					r.note("port", tcp.Port != 0)
					r.note("String", a.String() == net.JoinHostPort(tcp.IP.String(), fmt.Sprint(tcp.Port)))
				}
				_, cp, _ := net.SplitHostPort(c.LocalAddr().String())
				_, sp, _ := net.SplitHostPort(s.RemoteAddr().String())
				r.note("ports agree", cp == sp)
			}},
			{"io.Copy", func(r *transcript, c, s net.Conn) {
				msg := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
				done := async(func() error {
					n, err := io.Copy(s, s)
					if err == nil && n != int64(len(msg)) {
						err = fmt.Errorf("echoed %d", n)
					}
					s.(halves).CloseWrite()
					return err
				})
				go func() {
					io.Copy(c, struct{ io.Reader }{bytes.NewReader(msg)})
					c.(halves).CloseWrite()
				}()
				var got bytes.Buffer
				n, err := io.Copy(&got, c)
				r.note("Copy", err)
				r.note("n", n)
				r.note("equal", bytes.Equal(got.Bytes(), msg))
				r.note("echo", <-done)
				_, err = io.Copy(c, iotestErr{})
				r.note("a reader that fails", errors.Is(err, errReader))
			}},
			{"writes of several goroutines are not mixed", func(r *transcript, c, s net.Conn) {
				var wg sync.WaitGroup
				for i := range 4 {
					wg.Go(func() { c.Write(bytes.Repeat([]byte{byte('a' + i)}, 200_000)) })
				}
				all := make([]byte, 800_000)
				r.note("ReadFull", second(io.ReadFull(s, all)))
				wg.Wait()
				changes := 0
				for i := 1; i < len(all); i++ {
					if all[i] != all[i-1] {
						changes++
					}
				}
				r.note("changes", changes)
			}},
			{"net.Buffers", func(r *transcript, c, s net.Conn) {
				v := net.Buffers{[]byte("one "), nil, []byte("two "), []byte("three")}
				n, err := v.WriteTo(c)
				r.note("WriteTo", err)
				r.note("n", n)
				got := make([]byte, 13)
				r.note("ReadFull", second(io.ReadFull(s, got)))
				r.note("got", string(got))
			}},
		} {
			same(t, kernel, nodes, network+"/"+tt.what, func(r *transcript) {
				c, s := r.pair(network)
				tt.do(r, c, s)
			})
		}
	}
}

var errReader = errors.New("reader")

type iotestErr struct{}

func (iotestErr) Read([]byte) (int, error) { return 0, errReader }

// second drops the first of two results.
func second[T any](_ T, err error) error { return err }

// async runs f and gives its result to whoever waits.
func async(f func() error) <-chan error {
	got := make(chan error, 1)
	go func() { got <- f() }()
	return got
}
