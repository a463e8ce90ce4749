package tun

import (
	"cmp"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"

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
	done         chan struct{} // closed by Close
	wg           sync.WaitGroup

	mu     sync.Mutex // guards what follows
	closed bool
	open   map[io.Closer]struct{} // what Close closes: conns, listeners
	extra  []netip.Addr           // addresses beside the LSIs
	ended  chan struct{}          // closed when Close has finished
}

// counters are written on the data path with atomic adds only.
type counters struct{ lost, strange atomic.Uint64 }

var _ shim.PacketUpper = (*Host)(nil)

// New makes the device, gives it the node's LSIs and the routes to the LSI
// prefixes, and puts it above the shim. Without the right to do so the error
// is an fs.ErrPermission that says what is missing; on systems other than
// Linux it is an errors.ErrUnsupported.
func New(cfg Config) (*Host, error) {
	h := &Host{
		shim:  cfg.Shim,
		log:   cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler)),
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
	if err = h.dev.up(); err == nil {
		err = h.address()
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

// address gives the device, which is up, its addresses and routes. What is
// there already stays.
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
	return nil
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

// Drops counts by reason what went no further here, zeros left out.
func (h *Host) Drops() map[string]uint64 {
	d := make(map[string]uint64, 2)
	if n := h.count.lost.Load(); n != 0 {
		d["not-taken"] = n // by the kernel: the device is down, or memory short
	}
	if n := h.count.strange.Load(); n != 0 {
		d["strange"] = n // from the kernel: no packet that this package understands
	}
	return d
}

// Close ends the conns and listeners that were made here, lets what the host's
// connections have in closing go out, for half a second at most, takes the
// device away and waits for all goroutines. Conns of other programs to LSIs
// end as on a cable that was pulled. It is idempotent.
func (h *Host) Close() error {
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
	h.flush()
	h.shim.Attach(nil)
	err := h.dev.close()
	h.wg.Wait()
	close(h.ended)
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
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
	if tap := h.tap.Load(); tap != nil {
		(*tap)(true, b)
	}
	if h.admit != nil {
		h.admit.Sent(pk)
	}
	_ = h.shim.Output(pk) // counted, and answered with ICMP where that is due
}

// Packet implements shim.PacketUpper.
func (h *Host) Packet(v6 bool, head, payload []byte, seg int) {
	if tap := h.tap.Load(); tap != nil {
		(*tap)(false, append(append([]byte(nil), head...), payload...))
	}
	if h.admit != nil && !h.admitted(v6, head, payload) {
		return
	}
	f := framePool.Get().(*frame)
	finish(&f.vnet, v6, head, payload, seg)
	if !h.dev.write(f, head, payload) {
		h.count.lost.Add(1)
	}
	framePool.Put(f)
}

// admitted asks about a packet and answers one that is refused. The ports of a
// fragment are in its payload.
func (h *Host) admitted(v6 bool, head, payload []byte) bool {
	var b [ipv6Len + 60 + 8]byte
	n := copy(b[:], head)
	n += copy(b[n:], payload)
	if h.admit.Received(v6, b[:n]) {
		return true
	}
	h.admit.Refuse(v6, append(append([]byte(nil), head...), payload...))
	return false
}

// MergesUDP implements shim.PacketUpper.
func (h *Host) MergesUDP() bool { return h.dev.datagrams }

// Deliver implements shim.Upper: an ICMP error of the shim's.
func (h *Host) Deliver(v6 bool, b buffer.Buffer) {
	packet := b.Flatten()
	b.Release()
	if tap := h.tap.Load(); tap != nil {
		(*tap)(false, packet)
	}
	f := framePool.Get().(*frame)
	f.vnet = [vnetLen]byte{}
	if !h.dev.write(f, packet, nil) {
		h.count.lost.Add(1)
	}
	framePool.Put(f)
}
