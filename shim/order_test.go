package shim_test

import (
	"context"
	"encoding/binary"
	"testing"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/shim"
)

// Segments are put in order in the pipe that follows one that went down while
// it was on its way, too.
func TestOrderInTheNextPipe(t *testing.T) {
	p := newPair(t, nil)
	asked, gate := make(chan struct{}), make(chan struct{})
	p.a.OnConnect = func(context.Context, peerid.ID) error { close(asked); <-gate; return nil }
	back, _ := p.b.LSI(t, p.a)
	self, _ := p.b.Table.Self()
	segment := func(i int) *shim.Packet {
		k := tcp(self, back, 0x10, []byte("0123456789"), 0)
		binary.BigEndian.PutUint32(k.Transport[4:], uint32(i*10))
		return k
	}
	number := func(b []byte) uint32 { return binary.BigEndian.Uint32(b[20+4:]) }
	send := func(k *shim.Packet) {
		t.Helper()
		if err := p.b.Shim.Output(k); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.a.Shim.Output(udp(p.src, p.dst, "waits")); err != nil {
		t.Fatal(err)
	}
	<-asked
	send(segment(0)) // b is faster
	p.ua.next(t)
	p.ub.next(t)
	first := p.a.Pipes.Pipe(p.b.ID)
	first.Close(nil)
	<-first.Closed()
	waitFor(t, func() bool { return !p.a.Shim.HasPipe(p.dst) && !p.b.Shim.HasPipe(back) })
	close(gate)
	waitFor(t, func() bool { return p.a.Shim.HasPipe(p.dst) && p.b.Shim.HasPipe(back) })
	send(segment(0))
	p.ua.next(t)
	// On a busy machine the one that lacks may come later than it is waited for.
	for i := 1; i < 200 && p.a.Shim.Stats().Early == 0; i += 2 {
		send(segment(i + 1))
		send(segment(i))
		first, second := number(p.ua.next(t)), number(p.ua.next(t))
		if first > second && p.a.Shim.Stats().Early > 0 {
			t.Errorf("%d came up before %d", first, second)
		}
	}
	if n := p.a.Shim.Stats().Early; n == 0 {
		t.Error("nothing was put in order")
	}
}
