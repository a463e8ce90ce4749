package main

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// TestForwards: -L and -R, TCP and UDP, there and back through two real ports.
func TestForwards(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
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
			go func() { defer c.Close(); io.Copy(c, c) }()
		}
	}()
	pc := echo(t)
	earth := up(t, t.TempDir(), "create", "-name", "earth", "-L", "0:mars:7", "-L", "udp:0:mars.example.com:7", "example.com")
	token := must(t)(tell(t, earth.dir, "invite", "mars"))
	up(t, t.TempDir(), "join", "-R", fmt.Sprintf("7:%s", l.Addr()), "-R", fmt.Sprintf("udp:7:%s", pc.LocalAddr()), token)

	c, err := net.Dial("tcp", earth.at(t, "tcp at"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(2 * time.Minute))
	sent := make([]byte, 3_000_000)
	rand.Read(sent)
	go func() {
		c.Write(sent)
		c.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(c) // the half-close came through both ways
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d of %d bytes, %v", len(got), len(sent), err)
	}

	u, err := net.Dial("udp", earth.at(t, "udp at"))
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	b := make([]byte, 65535)
	for _, size := range []int{0, 1, 1400, 9000} {
		answered := false
		for range 20 { // datagrams may be lost
			u.Write(sent[:size])
			u.SetReadDeadline(time.Now().Add(time.Second))
			if n, err := u.Read(b); err == nil && bytes.Equal(b[:n], sent[:size]) {
				answered = true
				break
			}
		}
		if !answered {
			t.Errorf("no answer to a datagram of %d bytes", size)
		}
	}
}

func TestParseForward(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]forward{
		"80:mars:8080":              {"tcp", true, "127.0.0.1:80", "mars:8080"},
		"udp:53:mars:53":            {"udp", true, "127.0.0.1:53", "mars:53"},
		"0.0.0.0:80:mars:80":        {"tcp", true, "0.0.0.0:80", "mars:80"},
		"[::1]:80:[2001:21::1]:80":  {"tcp", true, "[::1]:80", "[2001:21::1]:80"},
		"tcp:80:mars.example.com:1": {"tcp", true, "127.0.0.1:80", "mars.example.com:1"},
	} {
		if got, err := parseForward(in, true); err != nil || got != want {
			t.Errorf("%s: %+v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "80", "80:mars", "80::80", "x:mars:80", "80:mars:x", "80:mars:99999", "[::1:80:mars:80", "a:b:c:d:e", "80:mars:80:x"} {
		if got, err := parseForward(in, true); err == nil {
			t.Errorf("%q: %+v", in, got)
		}
	}
	if got, err := parseForward("1.2.3.4:80:mars:80", false); err == nil {
		t.Errorf("a bind address in the overlay: %+v", got)
	}
}
