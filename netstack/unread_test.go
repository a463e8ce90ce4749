package netstack

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/idloc/idloc/shim"
)

// budget sets what a peer may have unread at n.
func (n *node) budget(bytes int64) {
	sh := &n.link.shares
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.unread = bytes
}

// unread returns what n counts of a peer.
func (n *node) unreadOf(of *node) int64 {
	sh := &n.link.shares
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if h := sh.byPeer[of.ID]; h != nil {
		return h.held.bytes.Load()
	}
	return 0
}

// liar is a peer whose connections go on without its TCP: what it sends obeys
// no window.
type liar struct {
	r     *rig
	to    uint16 // b's port
	flows []lie
}

type lie struct {
	from     uint16
	seq, ack uint32
	options  []byte
}

// newLiar opens count connections from a to l, which wait there, and takes a's
// TCP away.
func newLiar(t *testing.T, r *rig, l net.Listener, count int) *liar {
	t.Helper()
	x := &liar{r: r, to: port(l.Addr())}
	var mu sync.Mutex
	acks := map[uint16]lie{}
	r.a.SetTap(func(outbound bool, p []byte) {
		th := header.TCP(p[header.IPv4MinimumSize:])
		if outbound && th.Flags() == header.TCPFlagAck {
			mu.Lock()
			acks[th.SourcePort()] = lie{th.SourcePort(), th.SequenceNumber(), th.AckNumber(), bytes.Clone(th.Options())}
			mu.Unlock()
		}
	})
	for range count {
		c, err := r.a.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(r.b4, x.to))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	}
	eventually(t, "not all connections wait", func() bool {
		waiting, _, _ := r.b.share(r.a.ID)
		mu.Lock()
		defer mu.Unlock()
		return waiting == count && len(acks) == count
	})
	r.a.SetTap(nil)
	r.a.Shim.Attach(nil)
	for _, f := range acks {
		x.flows = append(x.flows, f)
	}
	return x
}

// say sends b as what comes at offset at in a flow.
func (x *liar) say(f lie, at int, b []byte) {
	th := make(header.TCP, header.TCPMinimumSize+len(f.options))
	th.Encode(&header.TCPFields{
		SrcPort: f.from, DstPort: x.to, SeqNum: f.seq + uint32(at), AckNum: f.ack,
		DataOffset: uint8(len(th)), Flags: header.TCPFlagAck | header.TCPFlagPsh, WindowSize: 65535,
	})
	copy(th[header.TCPMinimumSize:], f.options)
	_ = x.r.a.Shim.Output(&shim.Packet{
		IP:        ipHeader(false, byte(header.TCPProtocolNumber), len(th)+len(b), x.r.a.v4, x.r.b4),
		Transport: th, Payload: [][]byte{b}, Size: len(b),
	})
}

// A peer that sends into all its connections more than anybody reads, in
// whatever way, does not get more memory than its share. Nobody else notices.
func TestUnreadOfALiar(t *testing.T) {
	const conns = 48
	for _, tt := range []struct {
		what        string
		size, count int // of what is sent into each connection
		gap         int // what lacks before
		budget      int64
	}{
		{"in order", 16 << 10, 32, 0, 4 << 20},
		{"out of order", 16 << 10, 32, 1, 4 << 20},
		{"single bytes", 1, 250, 0, 2 << 20},
		{"single bytes out of order", 1, 250, 1, 2 << 20},
	} {
		t.Run(tt.what, func(t *testing.T) {
			r := newBareRig(t)
			r.b.budget(tt.budget)
			other, at := r.third(t)
			l, err := r.b.ListenTCP("tcp", netip.AddrPort{}, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			x := newLiar(t, r, l, conns)
			before := min(heap(), heap()) // the second time without what pools had
			b := make([]byte, tt.size)
			sent := r.net.Lost.Load()
			came := func() uint64 { return r.b.Stats().SegmentsIn + r.b.Stats().Unread }
			first := came()
			for i := range tt.count {
				for _, f := range x.flows {
					x.say(f, tt.gap+i*(tt.size+tt.gap), b)
				}
				// The wire's queue must not overflow, nor be taken for what
				// the peer holds.
				eventually(t, "not all comes", func() bool { return came() >= first+uint64(i*conns+conns/2) })
			}
			eventually(t, "nothing was refused", func() bool { return r.b.Stats().Unread > 0 })
			held, grown := r.b.unreadOf(r.a), min(heap(), heap())-before
			t.Logf("counted %d KiB, heap +%d KiB, %d dropped, %d lost on the way", held>>10, grown>>10, r.b.Stats().Unread, r.net.Lost.Load()-sent)
			if held < tt.budget/2 || held > 2*tt.budget+conns*leastUnread {
				t.Errorf("%d bytes are counted, of a budget of %d", held, tt.budget)
			}
			if grown > 2*tt.budget+8<<20 {
				t.Errorf("the heap has grown by %d bytes, of a budget of %d", grown, tt.budget)
			}
			c, err := other.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(at, port(l.Addr())))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			served := make(chan error, 1)
			go func() { served <- serveOne(l, other) }()
			msg := bytes.Repeat([]byte("other"), 1<<18)
			if _, err := c.Write(msg); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(msg))
			if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, msg) {
				t.Errorf("another peer meanwhile: %v", err)
			}
			c.Close()
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
	}
}

// serveOne echoes on the first connection of a peer.
func serveOne(l net.Listener, of *node) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		defer c.Close()
		if c.(*tcpConn).pinned == of.ID {
			_, err := io.Copy(c, c)
			return err
		}
	}
}

// TCP in IP fragments, of whatever size, is no way around the count.
func TestUnreadFragments(t *testing.T) {
	r := newBareRig(t)
	for n, tt := range []struct {
		v6   bool
		size int
		off  uint16 // in bytes
	}{{false, 8, 0}, {false, 8, 64}, {false, 1000, 0}, {false, 1000, 64}, {true, 8, 0}, {true, 8, 64}, {true, 1000, 0}, {true, 1000, 64}} {
		var b []byte
		if tt.v6 {
			b = append([]byte{0x60, 0, 0, 0, 0, 0, 44, 64}, r.a6.AsSlice()...)
			b = append(append(b, r.b.v6.AsSlice()...), 6, 0, byte(tt.off>>8), byte(tt.off)|1, 0, 0, 0, 1)
			binary.BigEndian.PutUint16(b[4:], uint16(8+tt.size))
		} else {
			b = append([]byte{0x45, 0, 0, 0, 0, 1, 0x20, byte(tt.off / 8), 64, 6, 0, 0}, r.a4.AsSlice()...)
			b = append(b, r.b.v4.AsSlice()...)
			binary.BigEndian.PutUint16(b[2:], uint16(20+tt.size))
		}
		deliver(r.b.link, buffer.MakeWithData(append(b, make([]byte, tt.size)...)))
		if st := r.b.Stats(); st.Unread != uint64(n+1) || st.SegmentsIn != 0 {
			t.Errorf("%+v: %d dropped, %d segments", tt, st.Unread, st.SegmentsIn)
		}
	}
}

// A peer with many connections that nobody reads for a while: those that are
// read go on, and in the end not a byte lacks anywhere.
func TestUnreadIsNotLost(t *testing.T) {
	const (
		conns  = 24
		budget = 2 << 20
		size   = 1 << 20
	)
	r := newBareRig(t)
	r.b.budget(budget)
	l, err := r.b.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dial := func() (c, s net.Conn) {
		t.Helper()
		c, err := r.a.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(r.b4, port(l.Addr())))
		if err != nil {
			t.Fatal(err)
		}
		if s, err = l.Accept(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close(); s.Close() })
		return c, s
	}
	want := make([]byte, size)
	for i := 0; i < size; i += 4 {
		binary.BigEndian.PutUint32(want[i:], uint32(i))
	}
	var writing sync.WaitGroup
	var ends []net.Conn
	for range conns {
		c, s := dial()
		ends = append(ends, s)
		writing.Go(func() {
			if _, err := c.Write(want); err != nil {
				t.Error(err)
			}
			if err := c.(*tcpConn).CloseWrite(); err != nil {
				t.Error(err)
			}
		})
	}
	// One more is not closed afterwards.
	late, reads := dial()
	writing.Go(func() {
		if _, err := late.Write(want); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "the budget is never reached", func() bool { return r.b.Stats().Unread > 0 })
	reads.(*tcpConn).squeeze() // if it was not
	c, s := dial()
	echoed := make(chan struct{})
	go func() { _, _ = io.Copy(s, s); close(echoed) }()
	_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
	for i := range 50 {
		msg := bytes.Repeat([]byte{byte(i)}, 1000)
		got := make([]byte, len(msg))
		if _, err := c.Write(msg); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, msg) {
			t.Fatalf("a connection that is read: %v", err)
		}
	}
	c.Close()
	<-echoed
	s.Close()
	if held := r.b.unreadOf(r.a); held > 2*budget+conns*leastUnread {
		t.Errorf("%d bytes are counted, of a budget of %d", held, budget)
	}
	for _, s := range ends {
		_ = s.SetDeadline(time.Now().Add(2 * time.Minute))
		writing.Go(func() {
			if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes of %d, equal %v: %v", len(got), size, bytes.Equal(got, want), err)
			}
		})
	}
	_ = reads.SetDeadline(time.Now().Add(2 * time.Minute))
	got := make([]byte, size)
	if _, err := io.ReadFull(reads, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the one that stays: %v", err)
	}
	writing.Wait()
	if held := r.b.unreadOf(r.a); held != 0 {
		t.Errorf("%d bytes are counted though all were read", held)
	}
	if _, err := late.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(reads, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if size := reads.(*tcpConn).ep.SocketOptions().GetReceiveBufferSize(); size < tcpBufferDefault {
		t.Errorf("the receive buffer stays at %d bytes", size)
	}
}

// The counts end where they began, whatever comes twice or in another order.
func TestUnreadCounts(t *testing.T) {
	h := &share{held: held{limit: 1 << 20}}
	h.held.conns.Store(1)
	u, wrapped := new(unread), new(unread)
	u.begin(h, 100)
	wrapped.begin(h, 0)
	overtaken, early := new(unread), new(unread)
	const room = 1 << 20
	o := 10 + overheadOf(10) // a segment of 10 bytes
	for _, step := range []struct {
		what string
		do   func()
		want int64
	}{
		{"before it was known", func() {}, 100},
		{"a segment", func() { u.arrive(1000, 10, room) }, 100 + o},
		{"again", func() { u.arrive(1000, 10, room) }, 100 + 2*o},
		{"too early", func() { u.arrive(1020, 10, room) }, 100 + 3*o},
		{"what was there is read", func() { u.take(110); u.empty() }, 20 + 3*(o-10) - 3*(o-10)*110/130},
		{"what lacked", func() { u.arrive(1010, 10, room); u.take(20); u.empty() }, 0},
		{"what was read", func() { u.arrive(1020, 10, room) }, 0},
		{"twice", func() { u.arrive(1030, 10, room); u.arrive(1030, 10, room) }, 2 * o},
		{"read once", func() { u.take(10); u.empty() }, 0},
		{"up to the last sequence number", func() { wrapped.arrive(0xffff_fff6, 10, room) }, o},
		{"beyond it", func() { wrapped.arrive(0, 10, room); wrapped.take(20); wrapped.empty() }, 0},
		{"the first overtaken", func() { overtaken.begin(h, 20); overtaken.arrive(2010, 10, room); overtaken.arrive(2000, 10, room) }, 20 + 2*o},
		{"read with what was before", func() { overtaken.take(40); overtaken.arrive(2000, 10, room) }, 0},
		{"all was read before anything came", func() { early.begin(h, 20); early.take(20); early.arrive(2000, 10, room); early.take(10) }, 0},
		{"more than there is room for", func() { u.arrive(1040, 10, 0); u.arrive(1050, 10, 0) }, o},
		{"all is read", func() { u.take(20); u.empty() }, 0},
		{"too much", func() { u.arrive(1060, 1<<20, room) }, 0},
		{"over", func() {
			u.arrive(1050, 10, room)
			u.end()
			u.arrive(1060, 10, room)
			u.take(3)
			u.empty()
			u.end()
		}, 0},
	} {
		if step.do(); h.held.bytes.Load() != step.want {
			t.Fatalf("%s: %d, want %d", step.what, h.held.bytes.Load(), step.want)
		}
	}
}

// A connection that is read goes on when what lacks comes, however much it holds
// behind that, and however little its peer may have unread by then.
func TestUnreadGapIsFilled(t *testing.T) {
	const (
		conns = 8
		size  = 16 << 10
		early = 16 // segments behind the gap: more than the connection's part
	)
	r := newBareRig(t)
	r.b.budget(1 << 20)
	l, err := r.b.ListenTCP("tcp", netip.AddrPort{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	x := newLiar(t, r, l, conns)
	read, others := x.flows[0], x.flows[1:]
	var s net.Conn
	for range conns {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if port(c.RemoteAddr()) == read.from {
			s = c
		}
	}
	b := make([]byte, size)
	for i := range early {
		x.say(read, 1000+i*size, b)
	}
	eventually(t, "what is early does not come", func() bool { return r.b.unreadOf(r.a) >= early*size })
	for i := 0; r.b.Stats().Unread == 0; i++ {
		came := r.b.Stats().SegmentsIn
		for _, f := range others {
			x.say(f, i*size, b)
		}
		eventually(t, "nothing comes", func() bool { return r.b.Stats().SegmentsIn > came || r.b.Stats().Unread > 0 })
	}
	refused := r.b.Stats().Unread
	x.say(read, 1000+early*size, b)
	eventually(t, "it holds more than its part", func() bool { return r.b.Stats().Unread > refused })
	got := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(s, make([]byte, 1000+early*size))
		got <- err
	}()
	_ = s.SetReadDeadline(time.Now().Add(time.Minute))
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		x.say(read, 0, b[:1000]) // as TCP does
		select {
		case err := <-got:
			if err != nil {
				t.Errorf("%v, %d dropped", err, r.b.Stats().Unread)
			}
			return
		case <-tick.C:
		}
	}
}
