package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/idloc"
)

// echo answers each datagram on a loopback port with itself, until the test
// ends.
func echo(t *testing.T) net.PacketConn {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 65535)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			pc.WriteTo(b[:n], from)
		}
	}()
	t.Cleanup(func() { pc.Close(); <-done })
	return pc
}

// associate asks a SOCKS5 proxy for UDP ASSOCIATE, as RFC 1928 has it.
func associate(t *testing.T, proxy string) (control, relay net.Conn) {
	t.Helper()
	c, err := net.Dial("tcp", proxy)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(2 * time.Minute))
	c.Write([]byte{5, 1, 0})
	answer := make([]byte, 2)
	if _, err := io.ReadFull(c, answer); err != nil || !bytes.Equal(answer, []byte{5, 0}) {
		t.Fatalf("method: % x, %v", answer, err)
	}
	c.Write([]byte{5, 3, 0, 1, 0, 0, 0, 0, 0, 0})
	answer = make([]byte, 10)
	if _, err := io.ReadFull(c, answer); err != nil || !bytes.Equal(answer[:4], []byte{5, 0, 0, 1}) {
		t.Fatalf("UDP ASSOCIATE: % x, %v", answer, err)
	}
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte(answer[4:8])), binary.BigEndian.Uint16(answer[8:]))
	u, err := net.Dial("udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close() })
	return c, u
}

// header is what SOCKS5 puts before a datagram for a host.
func header(host string, port uint16) []byte {
	b := []byte{0, 0, 0}
	switch a, err := netip.ParseAddr(host); {
	case err != nil:
		b = append(append(b, 3, byte(len(host))), host...)
	case a.Is4():
		b = append(append(b, 1), a.AsSlice()...)
	default:
		b = append(append(b, 4), a.AsSlice()...)
	}
	return binary.BigEndian.AppendUint16(b, port)
}

// swap sends a datagram until an answer with the same header and data comes.
func swap(c net.Conn, head, data []byte) error {
	b := make([]byte, 65535)
	for range 30 {
		if _, err := c.Write(append(head[:len(head):len(head)], data...)); err != nil {
			return err
		}
		c.SetReadDeadline(time.Now().Add(time.Second))
		for {
			n, err := c.Read(b)
			if err != nil {
				break
			}
			if bytes.Equal(b[:n], append(head[:len(head):len(head)], data...)) {
				return nil
			}
		}
	}
	return errors.New("no answer")
}

// TestAssociate: UDP through the SOCKS5 proxy, to names (remote DNS), LSIs of
// both kinds and real addresses, all on one association.
func TestAssociate(t *testing.T) {
	t.Parallel()
	behind, outside := echo(t), echo(t)
	earth := up(t, t.TempDir(), "create", "-name", "earth", "-outside", "example.com")
	up(t, t.TempDir(), "join", "-R", "udp:7:"+behind.LocalAddr().String(), must(t)(tell(t, earth.dir, "invite", "mars")))
	control, u := associate(t, earth.at(t, "SOCKS5 proxy"))
	data := bytes.Repeat([]byte("to mars and back. "), 60)
	if err := swap(u, header("mars.example.com", 7), data); err != nil {
		t.Fatalf("by name: %v", err)
	}
	var st idloc.Status
	if err := json.Unmarshal([]byte(must(t)(tell(t, earth.dir, "status", "-json"))), &st); err != nil || len(st.Peers) == 0 {
		t.Fatalf("status: %v, %+v", err, st.Peers)
	}
	mars := st.Peers[0]
	_, port, _ := net.SplitHostPort(outside.LocalAddr().String())
	var outer uint16
	fmt.Sscan(port, &outer)
	for _, to := range [][]byte{header(mars.LSI4.String(), 7), header(mars.LSI6.String(), 7), header("mars", 7), header("127.0.0.1", outer)} {
		if err := swap(u, to, data); err != nil {
			t.Errorf("to % x: %v", to, err)
		}
	}
	// What must not get through, or must not do harm: a name that nobody has,
	// a port that is closed, a fragment, garbage, a stranger.
	stranger, err := net.Dial("udp", u.RemoteAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	fragment := append(header("mars.example.com", 7), "piece"...)
	fragment[2] = 1
	for _, b := range [][]byte{append(header("pluto.example.com", 7), data...), append(header("mars.example.com", 8), data...), fragment, {}, {0}, header("", 0), bytes.Repeat([]byte{3}, 40)} {
		u.Write(b)
	}
	stranger.Write(append(header("mars.example.com", 7), "stranger"...))
	if err := swap(u, header("mars.example.com", 7), []byte("still here")); err != nil {
		t.Errorf("after datagrams that lead nowhere: %v", err)
	}
	b := make([]byte, 2000)
	stranger.SetReadDeadline(time.Now().Add(-time.Second))
	if n, err := stranger.Read(b); err == nil {
		t.Errorf("a stranger got an answer: %q", b[:n])
	}
	// The association ends with the connection that it came on.
	control.Close()
	for deadline := time.Now().Add(2 * time.Minute); ; {
		u.Write(append(header("mars.example.com", 7), data...))
		u.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := u.Read(b); errors.Is(err, syscall.ECONNREFUSED) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the relay outlives its connection")
		}
	}
}

// far is a conn that a flow opens: it answers nothing until it is told to.
type far struct {
	net.Conn
	near net.Conn
}

func dialFar(opened chan<- far) func(context.Context) (net.Conn, error) {
	return func(context.Context) (net.Conn, error) {
		a, b := net.Pipe()
		go io.Copy(io.Discard, b)
		opened <- far{a, b}
		return a, nil
	}
}

// A flow lives while it is used and two minutes longer; a new one takes the
// place of the one that was idle for longest.
func TestFlowsLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlows(t.Context())
		defer f.close()
		opened := make(chan far, 2*flowsMax)
		count := func() int { f.mu.Lock(); defer f.mu.Unlock(); return len(f.open) }
		send := func(key string) {
			f.send(key, []byte("x"), dialFar(opened), func([]byte) error { return nil })
			synctest.Wait()
		}
		send("a")
		time.Sleep(flowIdle - time.Second)
		send("a")
		time.Sleep(flowIdle - time.Second)
		if n := count(); n != 1 || len(opened) != 1 {
			t.Errorf("a flow in use: %d open, %d dials", n, len(opened))
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := count(); n != 0 {
			t.Errorf("an idle flow is still there")
		}
		for i := range flowsMax {
			time.Sleep(time.Millisecond)
			send(fmt.Sprint(i))
		}
		send("0") // not the oldest any more
		send("one more")
		f.mu.Lock()
		_, zero := f.open["0"]
		_, one := f.open["1"]
		f.mu.Unlock()
		if n := count(); n != flowsMax || !zero || one {
			t.Errorf("%d flows; the one in use is there: %v; the oldest: %v", n, zero, one)
		}
	})
}

// What comes while a flow is being opened waits for it, so much and no more;
// what cannot be opened is tried again by the next datagram.
func TestFlowsEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlows(t.Context())
		defer f.close()
		release := make(chan error)
		var got [][]byte
		dial := func(context.Context) (net.Conn, error) {
			if err := <-release; err != nil {
				return nil, err
			}
			a, b := net.Pipe()
			go func() {
				for {
					p := make([]byte, 10)
					n, err := b.Read(p)
					if err != nil {
						return
					}
					got = append(got, p[:n])
				}
			}()
			return a, nil
		}
		reply := func([]byte) error { return nil }
		f.send("a", []byte("lost"), dial, reply)
		release <- errors.New("no way there")
		synctest.Wait()
		for i := range flowEarly + 5 {
			f.send("a", []byte{byte(i)}, dial, reply)
		}
		release <- nil
		synctest.Wait()
		f.send("a", []byte("late"), dial, reply)
		synctest.Wait()
		if len(got) != flowEarly+1 || got[0][0] != 0 || string(got[flowEarly]) != "late" {
			t.Errorf("%d datagrams arrived: %q", len(got), got)
		}
	})
}

// TestProgress: who waits hears what is reached, and what goes wrong.
func TestProgress(t *testing.T) {
	t.Parallel()
	earth := up(t, t.TempDir(), "create", "-name", "earth", "example.com")
	token := must(t)(tell(t, earth.dir, "invite", "mars"))
	mars := up(t, t.TempDir(), "join", token)
	said := strings.Join(mars.lines, "\n")
	for _, want := range []string{"joining", "connected to earth.example.com at 127.0.0.1:", "mars.example.com stands in the database", "mars.example.com is up after"} {
		if !strings.Contains(said, want) {
			t.Errorf("joining does not say %q: %s", want, said)
		}
	}
}

// TestProgressWaits: who waits in vain hears after a second what for, and then every
// few seconds that it goes on, until the node is up.
func TestProgressWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out, errOut bytes.Buffer
		p := watch(&out, &errOut, false)
		log := slog.New(p)
		time.Sleep(time.Second)
		log.Info("waiting for a member to answer", "why", "no answer yet from 192.0.2.1:4000")
		log.Info("pipe-up", "peer", "12D3") // is of no use to who waits
		time.Sleep(10 * time.Second)
		log.Info(string(idloc.EventPeerConnected), "name", "earth.example.com", "remote", "192.0.2.1:4000")
		time.Sleep(5 * time.Second)
		log.Info("waiting", "why", "the name is put into the members' database")
		p.done()
		log.Info("waiting", "why", "of nothing")
		time.Sleep(time.Minute)
		want := `  1.00 s  waiting for a member to answer: no answer yet from 192.0.2.1:4000
  5.00 s  … no member reached yet, trying on
 10.00 s  … no member reached yet, trying on
 11.00 s  connected to earth.example.com at 192.0.2.1:4000
 15.00 s  … no end yet
 16.00 s  waiting: the name is put into the members' database
`
		if out.String() != want || errOut.Len() > 0 {
			t.Errorf("it says\n%s%s\nwant\n%s", out.String(), errOut.String(), want)
		}
	})
}
