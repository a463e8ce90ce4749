package idloctest

import (
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// Link is what happens to the datagrams of a host, the same in both
// directions and independently in each. The zero Link is perfect.
type Link struct {
	Delay   time.Duration // one way
	Jitter  time.Duration // more, at random up to this; the order is kept
	Rate    int           // bytes of UDP payload a second; 0 = no limit. 200 ms are queued, the rest is dropped
	Loss    float64       // fraction lost
	Burst   int           // lost in runs of this many; 0 = singly
	Dup     float64       // fraction that comes twice
	Reorder float64       // fraction that is overtaken by what is sent in the 10 ms after it
	Behind  int           // by so many others instead of those of 10 ms, or until SetLink; 0 = 10 ms
	MTU     int           // larger IP packets, in bytes, vanish without an error; 0 = no limit. Of them UDP over IPv4 takes 28, over IPv6 48
}

const (
	linkQueue    = 200 * time.Millisecond
	reorderDelay = 10 * time.Millisecond
)

// way is one direction of a host's link. The network's mu guards it.
type way struct {
	rng     *rand.Rand
	burst   int       // still to be lost
	free    time.Time // when the link has sent what it has
	lastDue time.Time
	passed  int      // datagrams that came through
	late    []latter // overtaken, those to come first first
}

// latter is a datagram that comes when others have passed.
type latter struct {
	f     flight
	after int // passed
}

// plan decides about one datagram: when its copies arrive. None: it is lost.
func (w *way) plan(l *Link, n int, now time.Time, due []time.Time) []time.Time {
	if w.burst > 0 {
		w.burst--
		return due
	}
	if l.Loss > 0 && w.rng.Float64() < l.Loss/float64(max(1, l.Burst)) {
		w.burst = max(0, l.Burst-1)
		return due
	}
	at := now
	if l.Rate > 0 {
		if w.free.Before(now) {
			w.free = now
		}
		if w.free.Sub(now) > linkQueue {
			return due
		}
		w.free = w.free.Add(time.Duration(n) * time.Second / time.Duration(l.Rate))
		at = w.free
	}
	at = at.Add(l.Delay)
	if l.Jitter > 0 {
		at = at.Add(time.Duration(w.rng.Int64N(int64(l.Jitter))))
	}
	if l.Reorder > 0 && w.rng.Float64() < l.Reorder {
		return append(due, at.Add(reorderDelay))
	}
	if at.Before(w.lastDue) {
		at = w.lastDue
	}
	w.lastDue = at
	due = append(due, at)
	if l.Dup > 0 && w.rng.Float64() < l.Dup {
		due = append(due, at)
	}
	return due
}

// place is where a host is.
type place struct {
	box  *NAT // nil: on the internet
	v6   bool // has an IPv6 address
	no4  bool // has no IPv4 address
	only *Host
}

// address is one of a host.
type address struct {
	ip     netip.Addr
	prefix netip.Prefix
	realm  *realm
}

// uplink is one attachment of a host: addresses in one place, behind one link.
// The network's mu guards it.
type uplink struct {
	addrs    []address
	firewall *Host
	box      *NAT
	link     Link
	out, in  way
}

// deadEnd is an interface that leads nowhere.
type deadEnd struct {
	name string
	at   netip.Prefix // address and subnet
}

// attachment is an uplink that is wanted.
type attachment struct {
	place
	link Link
}

// Host is a machine on the network.
type Host struct {
	net  *network
	name string

	// The network's mu guards what follows.
	uplinks []*uplink
	ends    []deadEnd
	rngs    int // given out, so that each way has its own
	conns   map[netip.AddrPort]*udpConn
	port    uint16 // last one given out
	off     bool   // switched off: nothing gets out or in

	sent, received counter
}

type counter struct{ packets, bytes, stun atomic.Uint64 }

func (c *counter) count(b []byte) {
	c.packets.Add(1)
	c.bytes.Add(uint64(len(b)))
	if len(b) > 0 && b[0] < 4 {
		c.stun.Add(1)
	}
}

// Traffic counts datagrams.
type Traffic struct {
	Packets uint64
	Bytes   uint64 // of UDP payload
	STUN    uint64 // packets with a first byte of 0 to 3 (RFC 7983)
}

func (c *counter) snapshot() Traffic {
	return Traffic{c.packets.Load(), c.bytes.Load(), c.stun.Load()}
}

// Sent counts what the host has given to its link.
func (h *Host) Sent() Traffic { return h.sent.snapshot() }

// Received counts what has come to the host's addresses, whether a socket was
// there or not.
func (h *Host) Received() Traffic { return h.received.snapshot() }

// Addrs returns the host's present addresses, uplink by uplink; those of dead
// ends are not among them.
func (h *Host) Addrs() []netip.Addr {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	var out []netip.Addr
	for _, u := range h.uplinks {
		for _, a := range u.addrs {
			out = append(out, a.ip)
		}
	}
	return out
}

// Claim gives the host one more address that it shows as its own, but that
// the network does not lead to it: what a liar would name to others. What the
// host sends from there is lost.
func (h *Host) Claim(ip netip.Addr) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	u := h.uplinks[0]
	u.addrs = append(u.addrs, address{ip, netip.PrefixFrom(ip, ip.BitLen()), newRealm(netip.MustParsePrefix("192.168.1.0/24"), nil)})
}

// SetLink changes the link of the host's first uplink. What is on its way
// stays so.
func (h *Host) SetLink(l Link) { h.SetUplink(0, l) }

// SetUplink changes the link of uplink i, counted from 0 as the options of
// the host gave them. Link{Loss: 1} is a cable that is cut far away, where the
// host does not see it.
func (h *Host) SetUplink(i int, l Link) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	u := h.uplinks[i]
	u.link = l
	h.net.let(&u.out, -1, time.Now())
	h.net.let(&u.in, -1, time.Now())
}

// link returns the link of uplink i.
func (h *Host) link(i int) Link {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	return h.uplinks[i].link
}

// power switches the host off or on.
func (h *Host) power(on bool) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.off = !on
}

// Rebind has the boxes before the host forget all their mappings, as one that
// restarts does: the host's datagrams leave from other ports from now on, and
// what is sent to the old ones is lost. Nobody is told. Of boxes in a chain it
// is the one nearest to the internet.
func (h *Host) Rebind() {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	for _, u := range h.uplinks {
		for b := u.box; b != nil; b = b.outer.up {
			if b.outer.up == nil {
				b.forget()
			}
		}
	}
}

// host adds a host.
func (n *network) host(name string, at []attachment, ends []deadEnd) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := &Host{net: n, name: name, conns: map[netip.AddrPort]*udpConn{}, port: 40000, ends: ends}
	for _, a := range at {
		h.attach(a)
	}
	return h
}

// move detaches the host and puts it elsewhere.
func (h *Host) move(at []attachment) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	for _, u := range h.uplinks {
		u.detach()
	}
	h.uplinks = nil
	for _, a := range at {
		h.attach(a)
	}
}

// unplug takes uplink i away; the others keep their numbers.
func (h *Host) unplug(i int) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.uplinks[i].detach()
}

// detach gives the addresses back. The caller holds mu.
func (u *uplink) detach() {
	for _, a := range u.addrs {
		delete(a.realm.owners, a.ip)
	}
	u.addrs = nil
}

// attach adds an uplink. The caller holds mu.
func (h *Host) attach(at attachment) {
	u := &uplink{firewall: at.only, box: at.box, link: at.link}
	u.out.rng, u.in.rng = h.rng(), h.rng()
	h.uplinks = append(h.uplinks, u)
	internet := h.net.internet
	if !at.no4 {
		r := internet
		if at.box != nil {
			r = at.box.inner
		}
		ip := r.allocate()
		for other, _ := h.uplinkOf(ip); other != nil; other, _ = h.uplinkOf(ip) {
			ip = r.allocate() // two boxes may number alike, one host's interfaces not
		}
		r.owners[ip] = h
		u.addrs = append(u.addrs, address{ip, netip.PrefixFrom(ip, r.prefix.Bits()).Masked(), r})
		if at.box != nil && at.box.kind.OneToOne {
			at.box.static = ip
		}
	}
	if at.v6 {
		ip := h.net.allocate6()
		internet.owners[ip] = h
		u.addrs = append(u.addrs, address{ip, netip.PrefixFrom(ip, 64).Masked(), internet})
	}
}

// rng returns a source of chance for one way, fixed by the network's seed, the
// host's name and how many the host had before. The caller holds mu.
func (h *Host) rng() *rand.Rand {
	f := fnv.New64a()
	f.Write([]byte(h.name))
	h.rngs++
	return rand.New(rand.NewPCG(h.net.seed, f.Sum64()+uint64(h.rngs)))
}

// uplinkOf returns the uplink that has an address and where that is, nil if
// the host has none. The caller holds mu.
func (h *Host) uplinkOf(ip netip.Addr) (*uplink, *realm) {
	for _, u := range h.uplinks {
		for _, a := range u.addrs {
			if a.ip == ip {
				return u, a.realm
			}
		}
	}
	return nil, nil
}

// onDeadEnd says whether an address is that of an interface that leads nowhere.
// The caller holds mu.
func (h *Host) onDeadEnd(ip netip.Addr) bool {
	return slices.ContainsFunc(h.ends, func(e deadEnd) bool { return e.at.Addr() == ip })
}

// has says whether the uplink has an address. The caller holds mu.
func (u *uplink) has(ip netip.Addr) bool {
	return slices.ContainsFunc(u.addrs, func(a address) bool { return a.ip == ip })
}

// admits says whether the uplink's firewall lets the host talk with other. The
// caller holds mu.
func (u *uplink) admits(other *Host) bool { return u.firewall == nil || u.firewall == other }
