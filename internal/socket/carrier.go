package socket

import (
	"errors"
	"net/netip"
)

// Carrier is what takes datagrams for addresses that no socket reaches: streams to
// members, package carrier. All of the /64 of Local is its own. Its methods may be
// called by any number of goroutines.
type Carrier interface {
	// Local is the near end, the local address of the Conn.
	Local() netip.Addr
	// Start has what comes in delivered, as link.read gives it, by any number of
	// goroutines. It is called once.
	Start(deliver func(b []byte, seg int, from netip.AddrPort))
	// Write is link.write.
	Write(b []byte, seg int, to netip.AddrPort) error
	// Close returns when nothing is delivered any more.
	Close() error
}

// carrierLink is a Carrier as a link. Nobody reads from it: it delivers.
type carrierLink struct {
	Carrier
	number  uint16
	tooLong error // of Write, which is ErrMessageTooLong here
}

var errNoRead = errors.New("socket: a carrier delivers by itself")

func (l carrierLink) read([]byte) (n, seg int, from netip.AddrPort, err error) {
	return 0, 0, netip.AddrPort{}, errNoRead
}

func (l carrierLink) write(b []byte, seg int, to netip.AddrPort, _ uint8) error {
	err := l.Write(b, seg, to)
	if err != nil && l.tooLong != nil && errors.Is(err, l.tooLong) {
		return ErrMessageTooLong
	}
	return err
}

func (l carrierLink) offloads() (gso, gro bool) { return false, false }
func (l carrierLink) port() (uint16, error)     { return l.number, nil }
func (l carrierLink) close() error              { return l.Carrier.Close() }

// carry makes the Conn of the Port's Carrier, if it has one.
func (p *Port) carry() {
	k := p.cfg.Carrier
	if k == nil {
		return
	}
	at, _ := k.Local().Prefix(64)
	c := &Conn{
		port: p, link: carrierLink{k, p.number, p.cfg.CarrierTooLong}, net: at,
		local:  netip.AddrPortFrom(k.Local(), p.number),
		closed: make(chan struct{}),
	}
	c.iface.Store(&Interface{Name: "carrier", Net: at})
	c.id = p.connIDs.get()
	c.views.Store(&noViews)
	p.carrier = c
}

// Carrier returns the Conn of Config.Carrier, nil if there is none. It is not one of
// Conns, because its address is nobody else's business; ConnOn and ConnFor know it.
func (p *Port) Carrier() *Conn { return p.carrier }

// carries says whether an address is a carrier's.
func (p *Port) carries(a netip.Addr) bool { return p.carrier != nil && p.carrier.net.Contains(a) }

// Carried says whether the Conn is that of carriers.
func (c *Conn) Carried() bool { return c == c.port.carrier }
