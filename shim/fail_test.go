package shim_test

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/shim"
)

type refusal struct{}

func (refusal) Error() string { return "not with us" }
func (refusal) Refused() bool { return true }

// What waits for a pipe that cannot be opened is answered, and so is what comes
// right after, without another try; then everything may be well again.
func TestFailedConnect(t *testing.T) {
	for _, tt := range []struct {
		err  error
		code byte // of ICMP's destination unreachable
	}{{errors.New("nobody answers"), 1}, {refusal{}, 13}} {
		p := newPair(t, nil)
		var well atomic.Bool
		p.a.OnConnect = func(context.Context, peerid.ID) error {
			if well.Load() {
				return nil
			}
			return tt.err
		}
		first := udp(p.src, p.dst, "first")
		if err := p.a.Shim.Output(first); err != nil {
			t.Fatal(err)
		}
		answered := func(payload string) {
			t.Helper()
			if b := p.ua.next(t); b[9] != 1 || b[20] != 3 || b[21] != tt.code || !bytes.Contains(b, []byte(payload)) {
				t.Errorf("answer to %q: %x", payload, b)
			}
		}
		answered("first")
		if err := p.a.Shim.LastError(p.b.ID); !errors.Is(err, tt.err) {
			t.Errorf("LastError is %v", err)
		}
		// At once, but for a loaded machine, where this is another try.
		if err := p.a.Shim.Output(udp(p.src, p.dst, "second")); err != nil && !errors.Is(err, shim.DropOutFailed) {
			t.Error(err)
		}
		answered("second")
		well.Store(true)
		p.a.Shim.Forget(p.b.ID)
		if err := p.a.Shim.Output(udp(p.src, p.dst, "third")); err != nil {
			t.Fatal(err)
		}
		if b := p.ub.next(t); string(b[28:]) != "third" {
			t.Errorf("delivered %q", b)
		}
		if err := p.a.Shim.LastError(p.b.ID); err != nil {
			t.Errorf("LastError of a peer with a pipe: %v", err)
		}
	}
}

// Connects that end without a pipe that works are failures, too.
func TestPipeClosedBeforeUp(t *testing.T) {
	synctest.Test(t, testPipeClosedBeforeUp)
}

func testPipeClosedBeforeUp(t *testing.T) {
	p := newPair(t, nil)
	if err := p.a.Shim.Output(udp(p.src, p.dst, "x")); err != nil {
		t.Fatal(err)
	}
	p.ub.next(t)
	synctest.Wait()              // a packet that meets the pipe as it ends is lost with it
	time.Sleep(time.Millisecond) // of the bubble: sessions are told apart by when they began
	for _, pipe := range p.a.Pipes.Pipes() {
		pipe.Close(nil)
	}
	// The next packet finds no pipe and asks again.
	if err := p.a.Shim.Output(udp(p.src, p.dst, "y")); err != nil {
		t.Fatal(err)
	}
	if b := p.ub.next(t); string(b[28:]) != "y" {
		t.Errorf("delivered %q", b)
	}
	if n := p.a.Connects.Load(); n != 2 {
		t.Errorf("%d Connects, want 2", n)
	}
}

// Reasons have names, and the rest is not a panic.
func TestDropNames(t *testing.T) {
	seen := map[string]bool{}
	for d := shim.Drop(1); d < 255; d++ {
		name := d.String()
		if name == "" || d.Error() == "" {
			t.Errorf("Drop %d has no name", d)
		}
		if seen[name] && name != shim.Drop(254).String() {
			t.Errorf("two reasons are called %q", name)
		}
		seen[name] = true
	}
}
