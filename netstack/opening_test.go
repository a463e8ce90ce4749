package netstack

import (
	"bytes"
	"io"
	"net/netip"
	"sync"
	"testing"

	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/shim/shimtest"
)

// Lengths of datagrams (DESIGN §6) with a TCP header, timestamps and nothing
// else, and with the options of a SYN. Selective acknowledgements are longer.
const (
	pureAck = 8 + 1 + 20 + 12 + 16
	synAck  = 8 + 1 + 20 + 20 + 16
)

// firstData has a client's first datagrams arrive one right after the other,
// and what only acknowledges not at all until then.
type firstData struct {
	a    *shimtest.Node
	want int // datagrams

	mu    sync.Mutex // guards what follows
	opens bool       // the SYN has passed
	held  [][]byte
	gaps  int // selective acknowledgements of the server's
}

func (f *firstData) filter(from, to *shimtest.Node, b []byte, seg int) []byte {
	if b[0] > wire.TypeData6 {
		return b
	}
	f.mu.Lock()
	if from != f.a {
		defer f.mu.Unlock()
		if len(b) > synAck {
			f.gaps++
		}
		return b
	}
	if !f.opens || len(f.held) == f.want {
		defer f.mu.Unlock()
		f.opens = true
		return b
	}
	for ; len(b) > 0; b = b[min(seg, len(b)):] {
		if d := b[:min(seg, len(b))]; len(d) > pureAck {
			f.held = append(f.held, bytes.Clone(d))
		}
	}
	all := f.held
	f.mu.Unlock()
	if len(all) == f.want {
		for _, d := range all {
			to.Pipes.Receive(to, from.LocalAddr(), d, len(d))
		}
	}
	return nil
}

// Data that come with what acknowledges the SYN-ACK, and more right behind
// them, are not taken for ones out of order.
func TestDataOpen(t *testing.T) {
	r := newRig(t)
	l, err := r.b.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	defer r.net.SetFilter(func(_, _ *shimtest.Node, b []byte, _ int) []byte { return b })
	for _, to := range []netip.Addr{r.b4, r.b6} {
		for range 20 {
			f := &firstData{a: r.a.Node, want: 6}
			r.net.SetFilter(f.filter)
			c, err := r.a.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(to, port(l.Addr())))
			if err != nil {
				t.Fatal(err)
			}
			var want []byte
			for i := range f.want {
				piece := bytes.Repeat([]byte{byte(i)}, 100-i)
				if _, err := c.Write(piece); err != nil {
					t.Fatal(err)
				}
				want = append(want, piece...)
			}
			s, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(want))
			if _, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%v, %v", got, err)
			}
			f.mu.Lock()
			if f.gaps > 0 {
				t.Errorf("%v: the server saw %d gaps", to, f.gaps)
			}
			f.mu.Unlock()
			defer c.Close() // in the end: nothing of one comes between those of the next
			defer s.Close()
		}
	}
}
