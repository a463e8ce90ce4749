package netstack

import (
	"encoding/binary"
	"io"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/idloc/idloc/internal/inner"
	"github.com/idloc/idloc/shim"
)

// A member that sends SYNs and nothing more neither keeps others out nor
// fills the memory.
func TestSYNFlood(t *testing.T) {
	var syns atomic.Int64
	r := newRigWith(t, func(string, netip.AddrPort, netip.AddrPort) bool { syns.Add(1); return true })
	other := newNode(t, r.net, nil)
	at, _ := other.LSI(t, r.b.Node)
	r.b.LSI(t, other.Node)
	l, err := r.b.ListenTCP("tcp", netip.AddrPort{}, 0)
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
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	dial := func() {
		t.Helper()
		c, err := other.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(at, port(l.Addr())))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		var b [5]byte
		if _, err := io.ReadFull(c, b[:]); err != nil || string(b[:]) != "hello" {
			t.Fatalf("%q, %v", b, err)
		}
	}
	dial()
	before := heap()
	// The attacker's stack would reset what it did not begin; it says nothing.
	r.a.Shim.Attach(nil)
	seq := uint32(0)
	flood := func(syns int) {
		for range syns {
			seq++
			th := make(header.TCP, header.TCPMinimumSize)
			th.Encode(&header.TCPFields{
				SrcPort: uint16(1024 + seq%60_000), DstPort: port(l.Addr()), SeqNum: seq,
				DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagSyn, WindowSize: 65535,
			})
			_ = r.a.Shim.Output(&shim.Packet{IP: ipHeader(false, byte(header.TCPProtocolNumber), len(th), r.a.v4, r.b4), Transport: th})
		}
	}
	flood(5000)
	dial()
	// And while it goes on, as fast as b gets through them: a queue that is
	// always full would be the wire's limit, not TCP's.
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(100 * time.Microsecond)
		defer tick.Stop()
		for !isClosed(stop) {
			before := syns.Load()
			flood(50)
			for ticks := 0; syns.Load() < before+50 && ticks < 100; ticks++ {
				<-tick.C
			}
		}
	}()
	for n := 0; n < 20 || syns.Load() < 200; n++ { // else it was no flood yet
		dial()
	}
	close(stop)
	<-stopped
	// Some find a full queue on the way, as at a real socket.
	seen, grown := syns.Load(), heap()-before
	t.Logf("%d SYNs cost %d KiB", seen, grown>>10)
	if grown > 128<<20 {
		t.Errorf("%d SYNs cost %d MiB", seen, grown>>20)
	}
}

// UDP flows that are only asked about are bounded in number.
func TestFlowLimit(t *testing.T) {
	asked := 0
	a := NewAdmission(func(string, netip.AddrPort, netip.AddrPort) bool { asked++; return true }, nil)
	local := netip.MustParseAddrPort("198.18.0.1:53")
	for i := range 3 * maxFlows {
		var ip [4]byte
		binary.BigEndian.PutUint32(ip[:], 198<<24|19<<16|uint32(i))
		f := inner.FlowOf(local.Port(), netip.AddrPortFrom(netip.AddrFrom4(ip), 1))
		for range 2 {
			if !a.udp(f, local.Addr()) {
				t.Fatal("refused")
			}
		}
	}
	if asked != 3*maxFlows {
		t.Errorf("asked %d times about %d flows", asked, 3*maxFlows)
	}
	if n := len(a.flows); n > maxFlows {
		t.Errorf("%d flows remembered, limit %d", n, maxFlows)
	}
}

// A peer that makes up flows without end pushes out neither another's nor those
// that we began.
func TestFlowShare(t *testing.T) {
	asked := map[netip.Addr]int{}
	a := NewAdmission(func(_ string, _, remote netip.AddrPort) bool { asked[remote.Addr()]++; return true }, nil)
	local := netip.MustParseAddrPort("198.18.0.1:53")
	flooder, other := netip.MustParseAddr("198.18.0.2"), netip.MustParseAddr("198.18.0.3")
	ours := inner.FlowOf(local.Port(), netip.AddrPortFrom(flooder, 9))
	a.sent(ours)
	theirs := inner.FlowOf(local.Port(), netip.AddrPortFrom(other, 9))
	a.udp(theirs, local.Addr())
	for p := range 65_000 {
		a.udp(inner.FlowOf(local.Port(), netip.AddrPortFrom(flooder, uint16(10+p))), local.Addr())
	}
	for range 10 {
		a.udp(theirs, local.Addr())
		a.udp(ours, local.Addr())
	}
	if asked[other] != 1 {
		t.Errorf("asked %d times about another's flow", asked[other])
	}
	if asked[flooder] != 65_000 {
		t.Errorf("asked %d times about 65,000 flows that are not ours", asked[flooder])
	}
	if n := len(a.flows); n > maxPeerFlows+2 {
		t.Errorf("%d flows remembered", n)
	}
	// Idle ones make room again.
	for f, v := range a.flows {
		v.at = v.at.Add(-flowIdle)
		a.flows[f] = v
	}
	a.swept = a.swept.Add(-flowSweep)
	again := inner.FlowOf(local.Port(), netip.AddrPortFrom(flooder, 1))
	a.udp(again, local.Addr())
	a.udp(again, local.Addr())
	if asked[flooder] != 65_001 || len(a.flows) != 1 || len(a.count) != 1 {
		t.Errorf("asked %d times, %d flows of %d addresses remembered", asked[flooder], len(a.flows), len(a.count))
	}
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Who asks from ever another port, and is answered, does not have others' flows
// forgotten.
func TestAdmissionAnswered(t *testing.T) {
	a := NewAdmission(func(_ string, local, _ netip.AddrPort) bool { return local.Port() == 53 }, nil)
	self, many, other := netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("198.18.0.2"), netip.MustParseAddr("198.18.0.3")
	packet := func(in bool, peer netip.Addr, own, theirs uint16) *inner.Header {
		h := &inner.Header{Protocol: inner.UDP, Ports: true, Src: self, SrcPort: own, Dst: peer, DstPort: theirs}
		if in {
			h.Src, h.SrcPort, h.Dst, h.DstPort = h.Dst, h.DstPort, h.Src, h.SrcPort
		}
		return h
	}
	for i := range uint16(100) {
		a.Sent(packet(false, other, 5000+i, 53))
	}
	for i := range uint16(20000) {
		if !a.Received(packet(true, many, 53, 1000+i)) {
			t.Fatal("refused")
		}
		a.Sent(packet(false, many, 53, 1000+i))
	}
	lost := 0
	for i := range uint16(100) {
		if !a.Received(packet(true, other, 5000+i, 53)) {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%d of 100 answers of another peer are refused", lost)
	}
}
