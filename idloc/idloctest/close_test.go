package idloctest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
	"time"

	. "github.com/idloc/idloc/idloc/idloctest"
	"github.com/idloc/idloc/internal/yardstick"
)

// TestCloseDelivers: a program writes, closes its conn or does not, and then its
// node, over a slow link that loses a little. The reader gets every byte and the
// end: Close of a node is the end of a process.
func TestCloseDelivers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		what   string
		link   Link
		closed bool // the conn, before the node
	}{
		{"1.5 MB/s, 0.5 % lost", Link{Delay: 20 * time.Millisecond, Rate: 1_500_000, Loss: 0.005}, true},
		{"1.5 MB/s, 0.5 % lost, conn open", Link{Delay: 20 * time.Millisecond, Rate: 1_500_000, Loss: 0.005}, false},
		{"1 MB/s", Link{Delay: 20 * time.Millisecond, Rate: 1_000_000}, true},
	} {
		t.Run(tt.what, func(t *testing.T) {
			t.Parallel()
			lab := New(t)
			earth := lab.Node("earth")
			mars := lab.Node("mars", Over(tt.link))
			l, err := earth.Listen("tcp", ":80")
			if err != nil {
				t.Fatal(err)
			}
			c, err := mars.Dial(t.Context(), "tcp", "earth:80")
			if err != nil {
				t.Fatal(err)
			}
			s, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			want := make([]byte, 2_000_000)
			_, _ = rand.NewChaCha8([32]byte{1}).Read(want)
			if _, err := c.Write(want); err != nil {
				t.Fatal(err)
			}
			if tt.closed {
				c.Close()
			}
			began, lived := time.Now(), yardstick.Start()
			err = mars.Node.Close()
			given := lived.Stop()
			t.Logf("Close took %v, of which the machine gave it %v", time.Since(began), given)
			// Close waits ten seconds, and the link needs two. What it could not send
			// because others computed is not Close's fault; what has arrived is right.
			starved := errors.Is(err, context.DeadlineExceeded) && given < 8*time.Second
			if err != nil && !starved {
				t.Errorf("Close: %v", err)
			}
			s.SetReadDeadline(time.Now().Add(patience))
			if got, err := io.ReadAll(s); starved {
				if !bytes.HasPrefix(want, got) || !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the reader has %d bytes, %v", len(got), err)
				}
			} else if !bytes.Equal(got, want) || err != nil {
				t.Errorf("the reader has %d of %d bytes, %v", len(got), len(want), err)
			}
		})
	}
}

// TestCloseIsHeard: whatever is lost when a node ends whose conns have nothing to
// deliver, each conn to it ends, and so does one that its peer has not read.
func TestCloseIsHeard(t *testing.T) {
	t.Parallel()
	lab := New(t)
	earth := lab.Node("earth")
	mars := lab.Node("mars")
	l, err := earth.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	const conns = 50
	ends := make(chan error, conns)
	for i := range conns {
		c, err := mars.Dial(t.Context(), "tcp", "earth:80")
		if err != nil {
			t.Fatal(err)
		}
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			if _, err := s.Write([]byte("unread")); err != nil {
				t.Fatal(err)
			}
		} else {
			defer c.Close()
		}
		go func() {
			defer s.Close()
			s.SetReadDeadline(time.Now().Add(patience))
			_, err := s.Read(make([]byte, 1))
			ends <- err
		}()
	}
	mars.SetLink(Link{Delay: 5 * time.Millisecond, Loss: 0.1})
	began := time.Now()
	if err := mars.Node.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	t.Logf("Close took %v", time.Since(began))
	for range conns {
		switch err := <-ends; {
		case errors.Is(err, os.ErrDeadlineExceeded):
			t.Error("a conn has heard nothing")
		case err != io.EOF && !errors.Is(err, syscall.ECONNRESET):
			t.Errorf("a conn ended with %v", err)
		}
	}
}
