package tcp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/overlay/ice/stun"
)

// A frame is its length and its message, and nothing of what follows is read.
func TestFrames(t *testing.T) {
	t.Parallel()
	m, id := stun.Question()
	var framed bytes.Buffer
	if err := writeMessage(&framed, m); err != nil {
		t.Fatal(err)
	}
	b := append(framed.Bytes(), "the flow's first bytes"...)
	r := bytes.NewReader(b)
	got, err := readMessage(r)
	if err != nil || got.ID() != id {
		t.Fatalf("%x, %v", got.ID(), err)
	}
	if rest, _ := io.ReadAll(r); string(rest) != "the flow's first bytes" {
		t.Errorf("%q is left", rest)
	}
	for i := range 2 + len(m) {
		if _, err := readMessage(bytes.NewReader(b[:i])); err == nil {
			t.Errorf("%d of %d bytes are a frame", i, 2+len(m))
		}
	}
	for _, n := range []int{0, 19, maxMessage + 1, 65535} {
		b := binary.BigEndian.AppendUint16(nil, uint16(n))
		if _, err := readMessage(bytes.NewReader(append(b, make([]byte, n)...))); !errors.Is(err, stun.ErrMessage) {
			t.Errorf("a frame of %d bytes: %v", n, err)
		}
	}
}

// Which requests are the peer's.
func TestVerifyRequest(t *testing.T) {
	t.Parallel()
	local, remote := stun.Credentials{Ufrag: "mine", Pwd: "my password"}, stun.Credentials{Ufrag: "theirs", Pwd: "their password"}
	for _, tt := range []struct {
		what string
		stun.Check
		controlling bool // this side
		ok          bool
	}{
		{"the peer's, controlled", stun.Check{Local: "theirs", Remote: local, Role: stun.Controlled}, true, true},
		{"the peer's, controlling", stun.Check{Local: "theirs", Remote: local, Role: stun.Controlling, Nominate: true}, false, true},
		{"both control", stun.Check{Local: "theirs", Remote: local, Role: stun.Controlling}, true, false},
		{"none controls", stun.Check{Local: "theirs", Remote: local, Role: stun.Controlled}, false, false},
		{"another sender", stun.Check{Local: "another", Remote: local, Role: stun.Controlled}, true, false},
		{"another receiver", stun.Check{Local: "theirs", Remote: stun.Credentials{Ufrag: "else", Pwd: local.Pwd}, Role: stun.Controlled}, true, false},
		{"a guessed password", stun.Check{Local: "theirs", Remote: stun.Credentials{Ufrag: "mine", Pwd: "guessed"}, Role: stun.Controlled}, true, false},
	} {
		b, _, err := tt.Message()
		if err != nil {
			t.Fatal(err)
		}
		m, err := stun.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		if err := verifyRequest(m, local, remote, tt.controlling); (err == nil) != tt.ok || err != nil && !errors.Is(err, stun.ErrMessage) {
			t.Errorf("%s: %v", tt.what, err)
		}
	}
	q, _ := stun.Question()
	m, err := stun.Parse(q)
	if err != nil {
		t.Fatal(err)
	}
	if verifyRequest(m, local, remote, true) == nil {
		t.Error("a question of nobody is the peer's check")
	}
}

// passive are candidates of a peer, the first with the highest priority.
func passive(at ...string) []wire.Candidate {
	var out []wire.Candidate
	for i, a := range at {
		out = append(out, wire.Candidate{Type: wire.Host, TCP: wire.Passive, Addr: netip.MustParseAddrPort(a), Foundation: a,
			Priority: Priority(wire.Host, wire.Passive, i)})
	}
	return out
}

// A connection of a better address is waited for, a little.
func TestBetterConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			late time.Duration // of the better one
			want string
			took time.Duration
		}{
			{0, "20.0.0.1", 0},
			{betterWait - time.Millisecond, "20.0.0.1", betterWait - time.Millisecond},
			{betterWait + 10*time.Millisecond, "20.0.0.2", betterWait},
		} {
			m := newMemory()
			m.delay[netip.MustParseAddrPort("20.0.0.1:4000")] = tt.late
			b := session(t, m.port(t, nil, "20.0.0.1", "20.0.0.2"))
			a := session(t, m.port(t, nil, "20.0.0.9"))
			begun := time.Now()
			x := start(t.Context(), a, true, b, passive("20.0.0.1:4000", "20.0.0.2:4000"))
			y := start(t.Context(), b, false, a, nil)
			r, q := <-x, <-y
			if r.err != nil || q.err != nil {
				t.Fatalf("%v; %v", r.err, q.err)
			}
			if at := addrPort(r.c.RemoteAddr()).Addr().String(); at != tt.want || time.Since(begun) != tt.took {
				t.Errorf("%v late: connected to %s after %v", tt.late, at, time.Since(begun))
			}
			_, _ = r.c.Close(), q.c.Close()
			time.Sleep(time.Second) // until the late dial has ended
		}
	})
}

// Dials wait while too many have gone to the same host.
func TestDialsArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		var allowed atomic.Bool
		b := session(t, m.port(t, nil, "20.0.0.1"))
		a := session(t, m.port(t, func(c *Config) { c.Allow = func(netip.AddrPort) bool { return allowed.Load() } }, "20.0.0.9"))
		x, y := start(t.Context(), a, true, b, passive("20.0.0.1:4000")), start(t.Context(), b, false, a, nil)
		time.Sleep(time.Second)
		if n := m.dials("20.0.0.1:4000"); n != 0 {
			t.Errorf("%d dials", n)
		}
		allowed.Store(true)
		r, q := <-x, <-y
		if r.err != nil || q.err != nil {
			t.Fatalf("%v; %v", r.err, q.err)
		}
		_, _ = r.c.Close(), q.c.Close()
	})
}

// mutePeer answers the checks of a session's peer on one address, nominations
// only if it is to.
func mutePeer(t *testing.T, m *memory, at string, pwd string, nominations bool) {
	t.Helper()
	a := netip.MustParseAddrPort(at)
	l, err := memHost{m: m}.ListenTCP("tcp4", net.TCPAddrFromAddrPort(a))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				for {
					q, err := readMessage(c)
					if err != nil {
						_ = c.Close()
						return
					}
					if q.Nominates() && !nominations {
						continue
					}
					r, err := stun.Success(q.ID(), addrPort(c.RemoteAddr()), pwd)
					if err != nil || writeMessage(c, r) != nil {
						_ = c.Close()
						return
					}
				}
			}()
		}
	}()
}

// A nomination that is not answered is given up for the next connection; a
// connection that answers with another's password is none.
func TestNominationsAreAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		pwd := strings.Repeat("p", wire.PwdLen)
		mutePeer(t, m, "20.0.0.1:4000", pwd, false)
		mutePeer(t, m, "20.0.0.2:4000", pwd, true)
		mutePeer(t, m, "20.0.0.3:4000", "guessed", true)
		begun := time.Now()
		a := session(t, m.port(t, nil, "20.0.0.9"))
		c, err := a.Run(t.Context(), true, wire.Ufrag(pwd), pwd, passive("20.0.0.1:4000", "20.0.0.2:4000", "20.0.0.3:4000"))
		if err != nil {
			t.Fatal(err)
		}
		if at := addrPort(c.RemoteAddr()).Addr().String(); at != "20.0.0.2" || time.Since(begun) != nominated {
			t.Errorf("connected to %s after %v", at, time.Since(begun))
		}
		_ = c.Close()

		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		a = session(t, m.port(t, nil, "20.0.0.8"))
		if _, err := a.Run(ctx, true, wire.Ufrag(pwd), pwd, passive("20.0.0.3:4000")); !errors.Is(err, ErrNoPair) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a peer that answers with a guessed password: %v", err)
		}
		a = session(t, m.port(t, nil, "20.0.0.7"))
		if _, err := a.Run(ctx, true, wire.Ufrag(pwd), pwd, nil); !errors.Is(err, ErrNoPair) {
			t.Errorf("nobody: %v", err)
		}
		a = session(t, m.port(t, nil, "20.0.0.6"))
		a.Close()
		if _, err := a.Run(t.Context(), true, wire.Ufrag(pwd), pwd, nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed: %v", err)
		}
	})
}
