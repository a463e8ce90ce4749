package socket

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// viewQueue bounds the datagrams that wait for ReadFrom.
const viewQueue = 1024

// view is a net.PacketConn onto the QUIC packets of one socket, or of all
// sockets of a family. It may be used by any number of goroutines.
//
// It deliberately has no SyscallConn: what would be set or read there belongs
// to everyone on the port.
type view struct {
	port  *Port
	id    uint8        // names the view in the sources and connection ID tables
	addr  netip.Addr   // of the one socket; invalid: all of the families below
	v4    bool         // sees IPv4 sockets
	v6    bool         // sees IPv6 sockets
	local *net.UDPAddr // what LocalAddr says

	mu   sync.Mutex // guards the ring
	ring [viewQueue]queued
	head int
	n    int

	ready         chan struct{} // holds a token when the ring may not be empty
	readDeadline  deadline
	writeDeadline deadline
	closeOnce     sync.Once
	closed        chan struct{}

	// addrs spares ReadFrom an allocation per packet. Entries are never
	// changed, only replaced; callers must not change them either.
	addrs [64]atomic.Pointer[knownAddr]
}

var _ net.PacketConn = (*view)(nil)

// queued is a datagram in a buffer from quicPool.
type queued struct {
	buf  *[maxQUIC]byte
	n    int
	from netip.AddrPort
}

type knownAddr struct {
	ap  netip.AddrPort
	udp *net.UDPAddr
}

var (
	noViews  []*view
	quicPool = sync.Pool{New: func() any { return new([maxQUIC]byte) }}
)

// ListenQUIC returns a view of the port that sees only QUIC packets: for
// quicreuse.OverrideListenUDP and quic.Transport. network is udp, udp4 or
// udp6. A nil or unspecified laddr sees all sockets of the network's family,
// also those to come, and sends from the one that suits the destination; any
// other laddr must be an address that has a socket. The port in laddr must be
// 0 or the Port's own.
//
// Views may overlap. Each then gets the packets for the connection IDs that
// were seen leaving through it, and all of them get first packets.
//
// Close closes the view alone; Port.Close closes all views.
func (p *Port) ListenQUIC(network string, laddr *net.UDPAddr) (net.PacketConn, error) {
	v, err := p.newView(network, laddr)
	if err != nil {
		return nil, quicListenError(network, laddr, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return nil, quicListenError(network, laddr, net.ErrClosed)
	case v.addr.IsValid() && p.set.Load().byAddr[v.addr] == nil:
		return nil, quicListenError(network, laddr, os.NewSyscallError("bind", syscall.EADDRNOTAVAIL))
	}
	v.id = p.viewIDs.get()
	p.views = append(p.views, v)
	p.arrangeViews()
	return v, nil
}

// newView makes the view that network and laddr of ListenQUIC ask for, which is
// not the Port's yet.
func (p *Port) newView(network string, laddr *net.UDPAddr) (*view, error) {
	v := &view{port: p, ready: make(chan struct{}, 1), closed: make(chan struct{})}
	v.readDeadline.init()
	v.writeDeadline.init()
	switch network {
	case "udp":
		v.v4, v.v6 = true, true
	case "udp4":
		v.v4 = true
	case "udp6":
		v.v6 = true
	default:
		return nil, net.UnknownNetworkError(network)
	}
	if laddr != nil && laddr.Port != 0 && laddr.Port != int(p.number) {
		return nil, os.NewSyscallError("bind", syscall.EADDRNOTAVAIL)
	}
	var a netip.Addr
	if laddr != nil && len(laddr.IP) != 0 {
		a, _ = netip.AddrFromSlice(laddr.IP)
		if a = a.Unmap(); a.IsUnspecified() {
			v.v4, v.v6 = v.v4 && (a.Is4() || network == "udp"), v.v6 && a.Is6()
		}
		if !v.v4 && a.Is4() || !v.v6 && a.Is6() {
			return nil, &net.AddrError{Err: "address of another family", Addr: a.String()}
		}
	}
	if a.IsValid() && !a.IsUnspecified() {
		v.addr = a
		v.v4, v.v6 = a.Is4(), a.Is6()
	} else if a = netip.IPv6Unspecified(); !v.v6 {
		a = netip.IPv4Unspecified()
	}
	v.local = net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, p.number))
	return v, nil
}

func quicListenError(network string, laddr *net.UDPAddr, err error) error {
	op := &net.OpError{Op: "listen", Net: network, Err: err}
	if laddr != nil {
		op.Addr = laddr
	}
	return op
}

// arrangeViews tells each socket which views see it. p.mu is held.
func (p *Port) arrangeViews() {
	for _, c := range append(p.Conns(), p.carrier) {
		if c == nil {
			continue
		}
		var exact, wild []*view
		for _, v := range p.views {
			switch {
			case v.addr == c.local.Addr():
				exact = append(exact, v)
			case !v.addr.IsValid() && v.family(c.local.Addr()):
				wild = append(wild, v)
			}
		}
		all := append(exact, wild...)
		c.views.Store(&all)
	}
}

func (v *view) family(a netip.Addr) bool { return a.Is4() && v.v4 || a.Is6() && v.v6 }

// put queues a copy of d, borrowed; the oldest datagram makes room if need be.
func (v *view) put(c *Conn, d []byte, from netip.AddrPort) {
	q := queued{buf: quicPool.Get().(*[maxQUIC]byte), from: from}
	q.n = copy(q.buf[:], d)
	v.mu.Lock()
	select {
	case <-v.closed:
		v.mu.Unlock()
		quicPool.Put(q.buf)
		return
	default:
	}
	if v.n == viewQueue {
		quicPool.Put(v.ring[v.head].buf)
		v.ring[v.head] = queued{}
		v.head = (v.head + 1) % viewQueue
		v.n--
		c.count.drop(dropQueueFull)
	}
	v.ring[(v.head+v.n)%viewQueue] = q
	v.n++
	v.mu.Unlock()
	v.wake()
}

func (v *view) wake() {
	select {
	case v.ready <- struct{}{}:
	default:
	}
}

// take removes the oldest datagram.
func (v *view) take() (q queued, ok, more bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.n == 0 {
		return q, false, false
	}
	q = v.ring[v.head]
	v.ring[v.head] = queued{}
	v.head = (v.head + 1) % viewQueue
	v.n--
	return q, true, v.n > 0
}

// ReadFrom implements net.PacketConn. What does not fit into b is lost. The
// address must not be changed.
func (v *view) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		switch {
		case isDone(v.closed):
			return 0, nil, v.opError("read", nil, net.ErrClosed)
		case isDone(v.readDeadline.wait()):
			return 0, nil, v.opError("read", nil, os.ErrDeadlineExceeded)
		}
		q, ok, more := v.take()
		if more {
			v.wake() // another reader may wait
		}
		if ok {
			n := copy(b, q.buf[:q.n])
			quicPool.Put(q.buf)
			return n, v.udpAddr(q.from), nil
		}
		select {
		case <-v.ready:
		case <-v.closed:
		case <-v.readDeadline.wait():
		}
	}
}

// udpAddr returns ap in the form that net wants.
func (v *view) udpAddr(ap netip.AddrPort) *net.UDPAddr {
	slot := &v.addrs[v.port.sources.key(ap)%sourceKey(len(v.addrs))]
	if k := slot.Load(); k != nil && k.ap == ap {
		return k.udp
	}
	k := &knownAddr{ap, net.UDPAddrFromAddrPort(ap)}
	slot.Store(k)
	return k.udp
}

// WriteTo implements net.PacketConn. It waits for room in the send buffer no
// longer than writePatience; a datagram that found none is lost silently, as
// one that a router drops: the QUIC stack would end the connection for less.
// One that is too long for the interface is an error that says so: it fails a
// handshake at once, and a connection takes it for lost.
func (v *view) WriteTo(b []byte, addr net.Addr) (int, error) {
	switch {
	case isDone(v.closed):
		return 0, v.opError("write", addr, net.ErrClosed)
	case isDone(v.writeDeadline.wait()):
		return 0, v.opError("write", addr, os.ErrDeadlineExceeded)
	}
	u, ok := addr.(*net.UDPAddr)
	if !ok {
		return 0, v.opError("write", addr, syscall.EINVAL)
	}
	to := u.AddrPort()
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	key := v.port.sources.key(to)
	c := v.connFor(key, to.Addr())
	if c == nil {
		return 0, v.opError("write", addr, v.port.NoSource(to.Addr()))
	}
	if len(b) > 0 && kindOf(b[0]) == kindQUIC {
		v.port.sources.sent(key, v.id, c.id)
		if b[0]&0x80 != 0 {
			if h, bad := parseLong(b); bad == dropReasons {
				v.port.cids.learn(h.scid, v.id)
			}
		}
	}
	switch err := c.WriteTo(b, to); {
	case err == ErrMessageTooLong:
		return 0, v.opError("write", addr, newTooLongFor(len(b), to.Addr()))
	case err != nil && err != ErrBusy:
		return 0, v.opError("write", addr, err)
	}
	return len(b), nil
}

// connFor chooses the socket to send from: the view's own; the one that was
// used with this destination before, so that answers come from where they
// were asked; the one that the system would take.
func (v *view) connFor(key sourceKey, to netip.Addr) *Conn {
	if !to.IsValid() || !v.family(to) {
		return nil
	}
	set := v.port.set.Load()
	if v.addr.IsValid() {
		return set.byAddr[v.addr]
	}
	if _, id, ok := v.port.sources.find(key); ok {
		if c := set.byID[id]; c != nil && c.local.Addr().Is4() == to.Is4() {
			return c
		}
	}
	return v.port.ConnFor(to)
}

// LocalAddr returns a *net.UDPAddr with the Port's number: of the one socket,
// or the unspecified address.
func (v *view) LocalAddr() net.Addr { return v.local }

// Close closes the view; the sockets stay. It unblocks ReadFrom.
func (v *view) Close() error {
	p := v.port
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, o := range p.views {
		if o == v {
			p.views = append(append([]*view(nil), p.views[:i]...), p.views[i+1:]...)
			p.arrangeViews()
			p.viewIDs.put(v.id)
			break
		}
	}
	v.shut()
	return nil
}

// shut unblocks readers and gives the buffers back.
func (v *view) shut() {
	v.closeOnce.Do(func() {
		close(v.closed)
		v.readDeadline.set(time.Time{})
		v.writeDeadline.set(time.Time{})
		v.mu.Lock()
		defer v.mu.Unlock()
		for ; v.n > 0; v.n-- {
			quicPool.Put(v.ring[v.head].buf)
			v.ring[v.head] = queued{}
			v.head = (v.head + 1) % viewQueue
		}
	})
}

// SetDeadline implements net.PacketConn.
func (v *view) SetDeadline(t time.Time) error {
	if err := v.SetReadDeadline(t); err != nil {
		return err
	}
	return v.SetWriteDeadline(t)
}

// SetReadDeadline implements net.PacketConn.
func (v *view) SetReadDeadline(t time.Time) error {
	if isDone(v.closed) {
		return v.opError("set", nil, net.ErrClosed)
	}
	v.readDeadline.set(t)
	return nil
}

// SetWriteDeadline implements net.PacketConn.
func (v *view) SetWriteDeadline(t time.Time) error {
	if isDone(v.closed) {
		return v.opError("set", nil, net.ErrClosed)
	}
	v.writeDeadline.set(t)
	return nil
}

// SetReadBuffer is what the QUIC stack asks for; the sockets have theirs.
func (v *view) SetReadBuffer(int) error { return nil }

// SetWriteBuffer is what the QUIC stack asks for; the sockets have theirs.
func (v *view) SetWriteBuffer(int) error { return nil }

func (v *view) opError(op string, addr net.Addr, err error) error {
	return &net.OpError{Op: op, Net: "udp", Source: v.local, Addr: addr, Err: err}
}

// deadline is a channel that closes at a time that may be moved, after net's
// own pipe.
type deadline struct {
	mu     sync.Mutex // guards timer and replacing cancel
	timer  *time.Timer
	cancel atomic.Pointer[chan struct{}]
}

func (d *deadline) init() {
	c := make(chan struct{})
	d.cancel.Store(&c)
}

// wait returns the channel that is closed once the deadline passed.
func (d *deadline) wait() chan struct{} { return *d.cancel.Load() }

// set moves the deadline; the zero time is never.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.wait() // the timer fired: let it finish closing
	}
	d.timer = nil
	passed := isDone(d.wait())
	if t.IsZero() || time.Until(t) > 0 {
		if passed {
			d.init()
		}
		if !t.IsZero() {
			c := d.wait()
			d.timer = time.AfterFunc(time.Until(t), func() { close(c) })
		}
		return
	}
	if !passed {
		close(d.wait())
	}
}

func isDone(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
