package nat

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/pion/turn/v3"

	"github.com/idloc/idloc/internal/socket"
)

// Allocation is an address that a TURN server lends: a local end of paths, like
// a socket of the port. Sending costs what pion's client allocates for each
// datagram. It is safe for concurrent use, and comparable by identity.
type Allocation struct {
	server  *turnServer
	conn    *socket.Conn // of the port, on the same local address
	base    net.PacketConn
	to      netip.AddrPort // the server
	client  *turn.Client
	relayed net.PacketConn
	at      netip.AddrPort // lent

	once sync.Once
	lost chan struct{} // closed when the way to the server has ended
	wg   sync.WaitGroup

	mu        sync.RWMutex // guards permitted
	permitted map[netip.Addr]bool
}

// LocalAddr returns the address that the server lends.
func (a *Allocation) LocalAddr() netip.AddrPort { return a.at }

// TURN marks what implements pipe.TURN.
func (a *Allocation) TURN() {}

// MaxDatagram bounds the search for the size that gets through.
func (a *Allocation) MaxDatagram() int { return turnDatagram }

// WriteBatch sends through the server, to addresses that checks have opened.
func (a *Allocation) WriteBatch(b []byte, seg int, to netip.AddrPort) error {
	a.mu.RLock()
	ok := a.permitted[to.Addr()]
	a.mu.RUnlock()
	if !ok {
		return errNoPermit
	}
	if seg <= 0 {
		seg = len(b)
	}
	addr := net.UDPAddrFromAddrPort(to)
	for len(b) > 0 {
		d := b[:min(seg, len(b))]
		b = b[len(d):]
		if _, err := a.relayed.WriteTo(d, addr); err != nil {
			return err
		}
	}
	return nil
}

// WriteTo is WriteBatch for one datagram.
func (a *Allocation) WriteTo(b []byte, to netip.AddrPort) error { return a.WriteBatch(b, len(b), to) }

// Open sends b to an address that may have no permission yet: it waits for
// the server to give one.
func (a *Allocation) Open(b []byte, to netip.AddrPort) error {
	a.mu.RLock()
	ok, full := a.permitted[to.Addr()], len(a.permitted) >= turnPeers
	a.mu.RUnlock()
	if ok {
		return a.WriteTo(b, to)
	}
	if full {
		return errTURNFull
	}
	if _, err := a.relayed.WriteTo(b, net.UDPAddrFromAddrPort(to)); err != nil {
		return err
	}
	a.mu.Lock()
	a.permitted[to.Addr()] = true
	a.mu.Unlock()
	return nil
}

// serve passes on what comes in until the server is lost, the local address
// is gone or ctx ends.
func (a *Allocation) serve(ctx context.Context, kick <-chan struct{}) error {
	defer a.close()
	a.wg.Go(a.readRelayed)
	alive := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.wg.Go(func() { alive <- a.keepAlive(ctx) })
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-a.lost:
			return net.ErrClosed
		case err := <-alive:
			return err
		case <-kick:
			if !slices.Contains(a.server.cfg.Sockets.Conns(), a.conn) {
				return errTURNMoved
			}
		}
	}
}

// keepAlive asks the server something now and then: it keeps the NAT's mapping
// of the client's socket, and finds out that the server is gone.
func (a *Allocation) keepAlive(ctx context.Context) error {
	for {
		t := time.NewTimer(turnKeepalive)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
		if _, err := a.client.SendBindingRequestTo(net.UDPAddrFromAddrPort(a.to)); err != nil {
			return fmt.Errorf("the TURN server does not answer: %w", err)
		}
	}
}

// readServer gives the client what its server sends. A message that it cannot
// read ends nothing.
func (a *Allocation) readServer() {
	defer a.lose()
	b := make([]byte, 1<<16)
	for {
		n, from, err := a.base.ReadFrom(b)
		if err != nil {
			return
		}
		if at, ok := udpAddrPort(from); ok && at != a.to {
			continue
		}
		_, _ = a.client.HandleInbound(b[:n], from)
	}
}

// readRelayed takes what peers have sent to the lent address.
func (a *Allocation) readRelayed() {
	b := make([]byte, 1<<16)
	for {
		n, addr, err := a.relayed.ReadFrom(b)
		if err != nil {
			return
		}
		from, ok := udpAddrPort(addr)
		if !ok || n == 0 {
			continue
		}
		switch {
		case b[0] < 4:
			a.server.cfg.STUN(a, from, b[:n])
		case b[0]>>6 == 2:
			a.server.cfg.Data(a, from, b[:n])
		}
	}
}

func (a *Allocation) lose() { a.once.Do(func() { close(a.lost) }) }

// close gives the address back and waits for its goroutines.
func (a *Allocation) close() {
	if a.relayed != nil {
		_ = a.relayed.Close()
	}
	_ = a.base.Close()
	a.client.Close()
	a.wg.Wait()
}

func udpAddrPort(a net.Addr) (netip.AddrPort, bool) {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}, false
	}
	ap := u.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), ap.IsValid()
}
