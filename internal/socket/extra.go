package socket

import (
	"fmt"
	"net/netip"
	"time"
)

const (
	// extraMost bounds the extra sockets that are open at a time, keptMost those of
	// them that are kept.
	extraMost = keptMost + 256
	keptMost  = 256
	// extraSilent is how long an extra socket is kept on which nothing comes in: pipes
	// are heard more often as long as they have a path there.
	extraSilent = 3 * time.Minute
	// extraRead is the read buffer of an extra socket that is not kept: there are
	// hundreds of them, and they get connectivity checks.
	extraRead = 2048
)

// OpenExtra opens one more socket on a local address of the port, with a number of its
// own: behind a NAT that gives each destination another port, each is seen as another
// address, and one of them may be the one that the peer has guessed. What comes in goes
// where all goes, but for QUIC, which is dropped. It is none of Conns. Who opens it calls
// CloseExtra or Keep; it is closed with the Port as well, and when the address goes away.
func (p *Port) OpenExtra(local netip.Addr) (*Conn, error) {
	like := p.ConnOn(local)
	if like == nil || like.Translated() || like.Carried() {
		return nil, fmt.Errorf("an extra socket on %v: no socket of the port is there", local)
	}
	c, err := p.open(localAddr{addr: like.local.Addr(), net: like.net, iface: *like.iface.Load()}, 0)
	if err != nil {
		return nil, err
	}
	p.connIDs.put(c.id)
	c.id = 0
	c.extra = true
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.extras) >= extraMost || p.set.Load().byAddr[c.local.Addr()] == nil {
		_ = c.shut()
		return nil, fmt.Errorf("an extra socket on %v: too many, or the port has left the address", local)
	}
	p.extras[c] = true
	p.wg.Go(c.read)
	return c, nil
}

// CloseExtra closes an extra socket, unless it is kept.
func (p *Port) CloseExtra(c *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !c.kept.Load() {
		p.dropExtra(c)
	}
}

// Keep has an extra socket stay open as long as something comes in, and ended called when
// it is closed. It says whether it could be kept; ended is not called otherwise.
func (p *Port) Keep(c *Conn, ended func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	kept := 0
	for x := range p.extras {
		if x.kept.Load() {
			kept++
		}
	}
	if !p.extras[c] || p.closed || kept >= keptMost || c.kept.Load() {
		return false
	}
	c.kept.Store(true)
	p.wg.Go(func() {
		defer ended()
		p.watchExtra(c)
	})
	return true
}

// watchExtra closes a kept socket when it has been silent for long.
func (p *Port) watchExtra(c *Conn) {
	last := c.heard.Load()
	t := time.NewTicker(extraSilent)
	defer t.Stop()
	for {
		select {
		case <-c.closed:
			return
		case <-t.C:
		}
		now := c.heard.Load()
		if now == last {
			p.mu.Lock()
			p.dropExtra(c)
			p.mu.Unlock()
			return
		}
		last = now
	}
}

// dropExtra closes an extra socket. p.mu is held.
func (p *Port) dropExtra(c *Conn) {
	if p.extras[c] {
		delete(p.extras, c)
		p.retire(c)
	}
}

// dropExtras closes the extra sockets that are on none of the addresses of set; nil: all.
// p.mu is held.
func (p *Port) dropExtras(set *connSet) {
	for c := range p.extras {
		if set == nil || set.byAddr[c.local.Addr()] == nil {
			p.dropExtra(c)
		}
	}
}
