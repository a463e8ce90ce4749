package tun

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"

	"github.com/idloc/idloc/internal/inner"
	"github.com/idloc/idloc/internal/logpace"
	"github.com/idloc/idloc/netstack"
	"github.com/idloc/idloc/shim"
)

// Config is what New needs. Shim must be set.
type Config struct {
	Shim *shim.Shim // Attach is called; the Shim must be closed after the Host

	// Name is the device's, "idloc0". A %d in it is a number that the kernel
	// chooses; empty is "idloc%d".
	Name string

	// Admit is asked about inbound flows as netstack.Config.Admit is.
	Admit func(network string, local, remote netip.AddrPort) bool

	Logger *slog.Logger // nil = silent
}

// Host is the host's TCP/IP as the stack above a shim. All methods may be used
// concurrently.
type Host struct {
	shim         *shim.Shim
	log          *slog.Logger
	admit        *netstack.Admission // nil: everything
	self4, self6 netip.Addr
	dev          *device
	tap          atomic.Pointer[netstack.Tap]
	count        counters
	last         resets
	done         chan struct{} // closed by Close
	wg           sync.WaitGroup

	// The read goroutine's.
	icmp    [maxAnswer6]byte // the answer that it makes
	answers bucket

	mu     sync.Mutex // guards what follows
	closed bool
	open   map[io.Closer]struct{} // what Close closes: conns, listeners
	extra  []netip.Addr           // addresses beside the LSIs
	ended  chan struct{}          // closed when Close has finished
}

// counters are written on the data path with atomic adds only.
type counters struct{ lost, strange atomic.Uint64 }

var (
	_ shim.PacketUpper = (*Host)(nil)
	_ shim.PeerUpper   = (*Host)(nil)
)

// New makes the device, gives it the node's LSIs and the routes to the LSI
// prefixes, and puts it above the shim. Where the host has a network or an
// address in them the error is a *PrefixError. Without the right to make a
// device it is an fs.ErrPermission that says what is missing; on systems other
// than Linux it is an errors.ErrUnsupported.
func New(cfg Config) (*Host, error) {
	h := &Host{
		shim:  cfg.Shim,
		log:   logpace.New(cfg.Logger),
		done:  make(chan struct{}),
		open:  make(map[io.Closer]struct{}),
		ended: make(chan struct{}),
	}
	h.self4, h.self6 = cfg.Shim.Table().Self()
	if cfg.Admit != nil {
		h.admit = netstack.NewAdmission(cfg.Admit, cfg.Shim)
	}
	var err error
	if h.dev, err = openDevice(cmp.Or(cfg.Name, "idloc%d")); err != nil {
		return nil, err
	}
	if err = h.dev.settle(h.shim.Table().Prefixes()); err == nil {
		if err = h.dev.up(); err == nil {
			err = h.address()
		}
		if err != nil {
			h.unguard()
		}
	}
	if err != nil {
		h.dev.discard()
		return nil, err
	}
	cfg.Shim.Attach(h)
	h.wg.Go(h.read)
	h.wg.Go(h.watch)
	return h, nil
}

// Name returns the device's name.
func (h *Host) Name() string { return h.dev.name }

// address gives the device, which is up, its addresses and routes, and puts
// unreachable routes behind those. What is there already stays.
func (h *Host) address() error {
	h.mu.Lock()
	addrs := append([]netip.Addr{h.self4, h.self6}, h.extra...)
	h.mu.Unlock()
	v4, v6 := h.shim.Table().Prefixes()
	for _, a := range addrs {
		if a.IsValid() {
			if err := h.dev.addAddr(a); err != nil && !h.without6(a, err) {
				return err
			}
		}
	}
	for _, r := range []route{{v4, h.self4}, {v6, h.self6}} {
		if r.to.IsValid() && r.from.IsValid() {
			if err := h.dev.addRoute(r); err != nil && !h.without6(r.from, err) {
				return err
			}
		}
	}
	// After the device's own, so that a node that ends now sees it, see unguard.
	for _, p := range []netip.Prefix{v4, v6} {
		if err := h.dev.guard(p); err != nil && !h.without6(p.Addr(), err) {
			return err
		}
	}
	return nil
}

// unguard takes the unreachable routes away, when the device is gone, unless
// another node's device is behind whose route they stand. Should one come just
// now, which took them for its own, they are made again.
func (h *Host) unguard() {
	v4, v6 := h.shim.Table().Prefixes()
	free, err := h.dev.unneeded(v4, v6)
	for _, p := range free {
		err = errors.Join(err, h.dev.unguard(p))
	}
	if still, e := h.dev.unneeded(free...); e == nil && len(still) < len(free) {
		for _, p := range free {
			if !slices.Contains(still, p) {
				err = errors.Join(err, h.dev.guard(p))
			}
		}
	}
	if err != nil {
		h.log.Warn("the unreachable routes behind the TUN device stay", "err", err)
	}
}

// without6 says whether the node can do without what failed for a: the IPv6
// LSIs where the host has no IPv6, or has it for another overlay.
func (h *Host) without6(a netip.Addr, err error) bool {
	if a.Is4() {
		return false
	}
	h.log.Warn("no IPv6 LSIs for this host", "device", h.dev.name, "err", err)
	return true
}

// AddAddress gives the host one more address that only it can reach, such as
// the resolver's.
func (h *Host) AddAddress(a netip.Addr) error {
	a = a.Unmap()
	if err := h.dev.addAddr(a); err != nil {
		return err
	}
	h.mu.Lock()
	h.extra = append(h.extra, a)
	h.mu.Unlock()
	return nil
}

// SetTap shows every inner packet to t from now on; nil ends that. Packets
// between the host's own addresses are not seen.
func (h *Host) SetTap(t netstack.Tap) {
	if t == nil {
		h.tap.Store(nil)
		return
	}
	h.tap.Store(&t)
}

// Ask is netstack.Stack's. Sockets of the kernel get answers when they have sent
// something again after it began.
func (h *Host) Ask(on bool) {
	if h.admit != nil {
		h.admit.Ask(on)
	}
}

// Recheck is netstack.Stack's. Of the kernel's TCP connections it has those ended that are
// to a port on which somebody listens still; their programs read ECONNABORTED.
func (h *Host) Recheck(keep func(network string, local, remote netip.AddrPort) bool) (ended int) {
	v4, v6 := h.shim.Table().Prefixes()
	listens := listening()
	err := h.dev.destroy(func(s socket) bool {
		a := s.remote.Addr()
		if !v4.Contains(a) && !v6.Contains(a) || s.local.Addr() != h.self4 && s.local.Addr() != h.self6 ||
			!listens[s.local.Port()] || keep("tcp", s.local, s.remote) {
			return false
		}
		ended++
		return true
	})
	if err != nil {
		h.log.Warn("the host's connections that are not admitted any more live on", "err", err)
	}
	if h.admit != nil {
		ended += h.admit.Recheck(keep)
	}
	return ended
}

// Stats may be called at any time from any goroutine. What the kernel counts
// for all of the host is not in it.
func (h *Host) Stats() netstack.Stats {
	h.mu.Lock()
	st := netstack.Stats{Conns: len(h.open)}
	h.mu.Unlock()
	if h.admit != nil {
		st.Refused = h.admit.Refused()
	}
	return st
}

// The reasons by which drops are counted.
const (
	dropNotTaken = "not-taken" // by the kernel: the device is down, or memory short
	dropStrange  = "strange"   // from the kernel: no packet that this package understands
)

// DropReasons are the reasons by which Drops counts.
func DropReasons() []string { return []string{dropNotTaken, dropStrange} }

// Drops counts by reason what went no further here, zeros left out.
func (h *Host) Drops() map[string]uint64 {
	d := make(map[string]uint64, 2)
	if n := h.count.lost.Load(); n != 0 {
		d[dropNotTaken] = n
	}
	if n := h.count.strange.Load(); n != 0 {
		d[dropStrange] = n
	}
	return d
}

// flushEvery is how often Drain and Close look whether they are through.
const flushEvery = 5 * time.Millisecond

// Drain closes the listeners that were made here and waits until the TCP conns
// that were are closed, or ctx ends. Those of other programs do not count.
func (h *Host) Drain(ctx context.Context) error {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		conns := false
		var listeners []*listener
		h.mu.Lock()
		for c := range h.open {
			switch c := c.(type) {
			case *listener:
				if !slices.Contains(h.extra, c.addr.AddrPort().Addr()) {
					listeners = append(listeners, c)
				}
			case *tcpConn:
				conns = true
			}
		}
		h.mu.Unlock()
		for _, l := range listeners {
			_ = l.Close()
		}
		if !conns && len(listeners) == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-h.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Close ends the conns and listeners that were made here, lets what the host's
// connections have in closing go out, while their peers answer and ctx lasts, takes the
// device away and waits for all goroutines. Conns of other programs to LSIs
// end as on a cable that was pulled. It is idempotent.
func (h *Host) Close(ctx context.Context) error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		<-h.ended
		return nil
	}
	h.closed = true
	open := h.open
	h.open = nil
	h.mu.Unlock()
	close(h.done)
	for c := range open {
		c.Close()
	}
	cut := h.flush(ctx)
	h.shim.Attach(nil)
	err := h.dev.close()
	h.wg.Wait()
	h.unguard()
	h.dev.forget()
	close(h.ended)
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return errors.Join(cut, err)
}

// track notes c for Close; false if it is too late.
func (h *Host) track(c io.Closer) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.open[c] = struct{}{}
	return true
}

func (h *Host) untrack(c io.Closer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.open, c)
}

// pin keeps the LSI of the peer at a from being given to another while a conn
// names it. The function it returns undoes that.
func (h *Host) pin(a netip.Addr) (unpin func()) {
	table := h.shim.Table()
	id, ok := table.Peer(a)
	if !ok || !table.Pin(id) {
		return func() {}
	}
	return sync.OnceFunc(func() { table.Unpin(id) })
}

// read takes what the host sends to peers. A packet goes the whole way down to
// the UDP socket in this goroutine, a super packet in one piece.
func (h *Host) read() {
	b := make([]byte, vnetLen+maxPacket)
	var pk shim.Packet
	for {
		n, err := h.dev.read(b)
		if err != nil {
			select {
			case <-h.done:
			default:
				h.log.Error("the TUN device is gone", "device", h.dev.name, "err", err)
			}
			return
		}
		h.sent(&pk, b[:n])
	}
}

// maxPacket is what one read takes: a packet, or a super packet of 64 KiB.
const maxPacket = 65536 + 128

// sent hands a packet of the host, a virtio_net_hdr before it, to the shim.
func (h *Host) sent(pk *shim.Packet, b []byte) {
	if len(b) < vnetLen {
		h.count.strange.Add(1)
		return
	}
	mss, ok := segment(b)
	if b = b[vnetLen:]; !ok || !pk.Parse(b, mss) {
		h.count.strange.Add(1)
		return
	}
	head, _ := pk.Header() // which Parse has read
	if h.last.take(head) {
		return
	}
	if tap := h.tap.Load(); tap != nil {
		(*tap)(true, b)
	}
	if h.admit.Asks() {
		h.admit.Sent(head)
	}
	// What is dropped is counted, and answered with ICMP where that is due: by
	// the shim, but that it does not know whom it has to do with here.
	if h.shim.Output(pk) == error(shim.DropOutSource) {
		h.prohibit(b)
	}
}

// prohibit answers a packet whose source is not an LSI of the node: of a program
// that is bound to another address of the host, or of another host that uses
// this one as its router. They would wait for an answer that cannot come.
func (h *Host) prohibit(packet []byte) {
	n := prohibited(&h.icmp, packet)
	if n == 0 || !h.answers.take(time.Now()) {
		return
	}
	h.up(h.icmp[:n])
}

// Packet implements shim.PacketUpper.
func (h *Host) Packet(said *inner.Header, head, payload []byte, seg int) {
	if tap := h.tap.Load(); tap != nil {
		(*tap)(false, append(append([]byte(nil), head...), payload...))
	}
	if h.admit.Asks() && !h.admit.Received(said) {
		h.admit.Refuse(said, append(append([]byte(nil), head...), payload...))
		return
	}
	f := framePool.Get().(*frame)
	finish(&f.vnet, said, head, payload, seg)
	if !h.dev.write(f, head, payload) {
		h.count.lost.Add(1)
	}
	framePool.Put(f)
}

// MergesUDP implements shim.PacketUpper.
func (h *Host) MergesUDP() bool { return h.dev.datagrams }

// Deliver implements shim.Upper: an ICMP error of the shim's.
func (h *Host) Deliver(_ *inner.Header, b buffer.Buffer) {
	packet := b.Flatten()
	b.Release()
	h.up(packet)
}

// up gives the kernel an ICMP error, whose checksum is right.
func (h *Host) up(packet []byte) {
	if tap := h.tap.Load(); tap != nil {
		(*tap)(false, bytes.Clone(packet))
	}
	f := framePool.Get().(*frame)
	f.vnet = [vnetLen]byte{}
	if !h.dev.write(f, packet, nil) {
		h.count.lost.Add(1)
	}
	framePool.Put(f)
}
