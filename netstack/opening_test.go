package netstack

import (
	"bytes"
	"io"
	"net/netip"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"

	"github.com/idloc/idloc/internal/wire"
	"github.com/idloc/idloc/shim/shimtest"
)

// syn is the length of a datagram (DESIGN §6) with a SYN: the TCP header and 20
// bytes of options. What only acknowledges is shorter, unless selectively.
const syn = 8 + 1 + 20 + 20 + 16

// firstData has a client's first datagrams arrive one right after the other,
// and what only acknowledges not at all until then. A segment that the client
// sends twice, because it hears nothing, is as good as any.
type firstData struct {
	a    *shimtest.Node
	want int // datagrams

	mu    sync.Mutex // guards what follows
	opens bool       // the SYN has passed
	held  [][]byte
}

func (f *firstData) filter(from, to *shimtest.Node, b []byte, seg int) []byte {
	if b[0] > wire.TypeData6 || from != f.a {
		return b
	}
	f.mu.Lock()
	if !f.opens || len(f.held) == f.want {
		defer f.mu.Unlock()
		f.opens = f.opens || len(b) == syn
		return b
	}
	for ; len(b) > 0; b = b[min(seg, len(b)):] {
		if d := b[:min(seg, len(b))]; len(d) > syn {
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

// gap says whether a packet of TCP tells its peer that something is missing: it
// has, selectively, what lies above what it acknowledges. (Below, it tells of
// something that came twice, RFC 2883.)
func gap(p []byte) bool {
	th := header.TCP(p[header.IPv4MinimumSize:])
	if p[0]>>4 == 6 {
		th = header.TCP(p[header.IPv6MinimumSize:])
	}
	for _, b := range th.ParsedOptions().SACKBlocks {
		if seqnum.Value(th.AckNumber()).LessThan(b.Start) {
			return true
		}
	}
	return false
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
	var server taps
	r.b.SetTap(server.see)
	defer r.b.SetTap(nil)
	var gaps, answers int
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
			_, out := server.take()
			for _, p := range out {
				answers++
				if gap(p) {
					gaps++
				}
			}
			defer c.Close() // in the end: nothing of one comes between those of the next
			defer s.Close()
		}
	}
	if gaps > 0 || answers < 2*20 {
		t.Errorf("in %d packets the server told of %d gaps", answers, gaps)
	}
}
