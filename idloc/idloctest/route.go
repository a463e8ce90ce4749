package idloctest

import (
	"container/heap"
	"encoding/binary"
	"net/netip"
	"sync"
	"time"
)

// maxHops bounds boxes on a way, both directions together.
const maxHops = 16

// network is all hosts and boxes. One mutex guards the whole: a datagram costs
// about a microsecond under it.
type network struct {
	seed uint64
	wg   sync.WaitGroup

	mu       sync.Mutex
	boxes    uint64 // made so far
	internet *realm
	next6    uint16
	filter   func(Packet) bool
	cuts     map[[2]*Host]bool
	side     map[*Host]int // of a partition; 0: in no group
	due      schedule
	seq      uint64
	plan     []time.Time // scratch
	closed   bool
	wake     chan struct{} // capacity 1: due has a new head
	done     chan struct{}
}

// realm is an address space: the internet, or what is behind a box.
type realm struct {
	prefix netip.Prefix
	next   netip.Addr
	owners map[netip.Addr]any // *Host or *NAT
	up     *NAT               // nil: the internet
}

func newRealm(p netip.Prefix, up *NAT) *realm {
	r := &realm{owners: map[netip.Addr]any{}, up: up}
	r.renumber(p)
	return r
}

// renumber sets the prefix of a realm that nobody is in.
func (r *realm) renumber(p netip.Prefix) { r.prefix, r.next = p, p.Addr().Next() }

// allocate returns an address that was never given out before.
func (r *realm) allocate() netip.Addr {
	r.next = r.next.Next()
	if !r.prefix.Contains(r.next) {
		panic("idloctest: no more addresses in " + r.prefix.String())
	}
	return r.next
}

func (n *network) allocate6() netip.Addr {
	n.next6++
	a := netip.MustParseAddr("2a00:1d::").As16()
	binary.BigEndian.PutUint16(a[6:], n.next6) // a subnet each
	a[15] = 2
	return netip.AddrFrom16(a)
}

func newNetwork(seed uint64) *network {
	n := &network{
		seed: seed, cuts: map[[2]*Host]bool{},
		wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	// Not the addresses for documentation: libp2p takes those for
	// unroutable and does not tell them to others.
	n.internet = newRealm(netip.MustParsePrefix("20.0.0.0/8"), nil)
	n.wg.Go(n.run)
	return n
}

func (n *network) close() {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	close(n.done)
	n.wg.Wait()
}

func (n *network) setCut(a, b *Host, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cuts[[2]*Host{a, b}], n.cuts[[2]*Host{b, a}] = cut, cut
}

// flight is a datagram on its way: first to leave its host's link, then, with
// at set, to arrive over that of the receiver.
type flight struct {
	due      time.Time
	seq      uint64
	from     *Host
	via      *uplink // of from
	realm    *realm
	src, dst netip.AddrPort
	b        []byte
	at       *Host   // nil: not routed yet
	to       *uplink // of at
}

// size is that of the IP packet.
func (f *flight) size() int {
	if f.src.Addr().Is4() {
		return 20 + 8 + len(f.b)
	}
	return 40 + 8 + len(f.b)
}

// send takes a datagram from a host's socket; b is copied. It says whether
// the host has the source address.
func (n *network) send(h *Host, src, dst netip.AddrPort, b []byte) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	u, r := h.uplinkOf(src.Addr())
	if u == nil && !h.onDeadEnd(src.Addr()) || n.closed {
		return false
	}
	if h.off {
		return true
	}
	h.sent.count(b)
	if n.filter != nil && !n.filter(Packet{h, src, dst, b}) {
		return true
	}
	if h.onDeadEnd(dst.Addr()) { // its own address, wherever else there is one like it
		if c := h.conns[dst]; c != nil {
			c.push(src, append([]byte(nil), b...))
		}
		return true
	}
	if u == nil {
		return true // it may leave, but nothing can come back
	}
	f := flight{from: h, via: u, realm: r, src: src, dst: dst, b: append([]byte(nil), b...)}
	now := time.Now()
	n.over(&u.out, &u.link, f, now)
	return true
}

// over sends f over one direction of a link. The caller holds mu.
func (n *network) over(w *way, l *Link, f flight, now time.Time) {
	if *l == (Link{}) && !w.lastDue.After(now) {
		n.land(f, now)
		return
	}
	if l.MTU > 0 && f.size() > l.MTU {
		return
	}
	if l.Reorder > 0 && l.Behind > 0 && w.rng.Float64() < l.Reorder {
		w.late = append(w.late, latter{f, w.passed + l.Behind})
		return
	}
	plain := *l
	if l.Behind > 0 {
		plain.Reorder = 0
	}
	n.plan = w.plan(&plain, len(f.b), now, n.plan[:0])
	for _, due := range n.plan {
		n.fly(f, due)
	}
	if len(n.plan) > 0 {
		w.passed++
		n.let(w, w.passed, n.plan[0])
	}
}

// let lets go what others have overtaken by now, passed being -1 all of it.
// The caller holds mu.
func (n *network) let(w *way, passed int, at time.Time) {
	for len(w.late) > 0 && (passed < 0 || w.late[0].after <= passed) {
		n.fly(w.late[0].f, at)
		w.late = w.late[1:]
	}
}

// fly has f land at a time. The caller holds mu.
func (n *network) fly(f flight, due time.Time) {
	f.due = due
	n.seq++
	f.seq = n.seq
	heap.Push(&n.due, f)
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// land does what comes next for f. The caller holds mu.
func (n *network) land(f flight, now time.Time) {
	if f.at != nil {
		if f.at.off || !f.to.has(f.dst.Addr()) {
			return // it left meanwhile
		}
		if c := f.at.conns[f.dst]; c != nil {
			c.push(f.src, f.b)
		}
		return
	}
	r, src, dst := f.realm, f.src, f.dst
	for range maxHops {
		switch owner := r.owners[dst.Addr()].(type) {
		case *Host:
			u, _ := owner.uplinkOf(dst.Addr())
			if n.cuts[[2]*Host{f.from, owner}] || n.side[f.from] != n.side[owner] || owner.off || !f.via.admits(owner) || !u.admits(f.from) {
				return
			}
			owner.received.count(f.b)
			f.at, f.to, f.src, f.dst = owner, u, src, dst
			n.over(&u.in, &u.link, f, now)
			return
		case *NAT:
			var ok bool
			if dst, ok = owner.inbound(src, dst, now); !ok {
				return
			}
			r = owner.inner
		default:
			if r.up == nil {
				return
			}
			var ok bool
			if src, ok = r.up.outbound(src, dst, now); !ok {
				return
			}
			r = r.up.outer
		}
	}
}

// run lands what is due, until close.
func (n *network) run() {
	t := time.NewTimer(time.Hour)
	defer t.Stop()
	for {
		wait := time.Hour
		n.mu.Lock()
		for len(n.due) > 0 {
			now := time.Now()
			if wait = n.due[0].due.Sub(now); wait > 0 {
				break
			}
			wait = time.Hour
			n.land(heap.Pop(&n.due).(flight), now)
		}
		n.mu.Unlock()
		t.Reset(wait)
		select {
		case <-n.done:
			return
		case <-n.wake:
		case <-t.C:
		}
	}
}

// schedule is a heap by time, and by order of sending at the same time.
type schedule []flight

func (s schedule) Len() int { return len(s) }
func (s schedule) Less(i, j int) bool {
	if s[i].due.Equal(s[j].due) {
		return s[i].seq < s[j].seq
	}
	return s[i].due.Before(s[j].due)
}
func (s schedule) Swap(i, j int) { s[i], s[j] = s[j], s[i] }
func (s *schedule) Push(x any)   { *s = append(*s, x.(flight)) }
func (s *schedule) Pop() any {
	old := *s
	f := old[len(old)-1]
	old[len(old)-1] = flight{}
	*s = old[:len(old)-1]
	return f
}
