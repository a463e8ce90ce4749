package idloctest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"
)

// Dependence says on how much of the remote address a NAT's mapping or
// filtering depends (RFC 4787 §4.1, §5).
type Dependence uint8

// The three behaviours.
const (
	EndpointIndependent Dependence = iota
	AddressDependent
	AddressPortDependent
)

// Kind is how a NAT box behaves.
type Kind struct {
	Mapping, Filtering Dependence
	// OneToOne maps the one host behind the box to the outer address, all
	// ports unchanged and without filtering, as clouds do.
	OneToOne bool
	// Lifetime is how long a mapping lives without outbound datagrams; 0 is
	// two minutes (RFC 4787 REQ-5).
	Lifetime time.Duration
	// NoHairpin drops what comes from inside for the box's own outer
	// address (against RFC 4787 REQ-9).
	NoHairpin bool
}

// The usual kinds.
var (
	FullCone          = Kind{}                                                               // EIM/EIF
	AddressRestricted = Kind{Filtering: AddressDependent}                                    // EIM/ADF
	PortRestricted    = Kind{Filtering: AddressPortDependent}                                // EIM/APDF
	Symmetric         = Kind{Mapping: AddressPortDependent, Filtering: AddressPortDependent} // APDM/APDF
	OneToOne          = Kind{OneToOne: true}
)

const defaultLifetime = 2 * time.Minute

// NAT is a box between an inner network and the one outside of it.
type NAT struct {
	net    *network
	kind   Kind
	inner  *realm
	outer  *realm
	ext    netip.Addr
	static netip.Addr // OneToOne: who is inside

	// The network's mu guards what follows.
	rng     *rand.Rand
	byInner map[mappingKey]*mapping
	byPort  map[uint16]*mapping
}

// mappingKey is an inner address and as much of the remote one as the mapping
// depends on.
type mappingKey struct{ inner, remote netip.AddrPort }

type mapping struct {
	key    mappingKey
	port   uint16
	used   time.Time
	passes map[netip.AddrPort]time.Time // who may answer, as far as filtering depends on it
}

// newNAT makes a box inside another, or on the internet. The caller holds mu.
func (n *network) newNAT(k Kind, outer *NAT) *NAT {
	n.boxes++
	b := &NAT{net: n, kind: k, outer: n.internet, rng: rand.New(rand.NewPCG(n.seed, n.boxes))}
	if k.Lifetime == 0 {
		b.kind.Lifetime = defaultLifetime
	}
	inside := netip.MustParsePrefix("192.168.1.0/24")
	if outer != nil {
		b.outer = outer.inner
		// The outer box of a chain is a carrier's (RFC 6598).
		b.outer.renumber(netip.MustParsePrefix("100.64.0.0/10"))
	}
	b.inner = newRealm(inside, b)
	b.ext = b.outer.allocate()
	b.outer.owners[b.ext] = b
	if outer != nil && outer.kind.OneToOne {
		outer.static = b.ext
	}
	b.forget()
	return b
}

func (b *NAT) forget() {
	b.byInner = map[mappingKey]*mapping{}
	b.byPort = map[uint16]*mapping{}
}

// String names the behaviour as RFC 4787 does.
func (k Kind) String() string {
	if k.OneToOne {
		return "1:1"
	}
	names := [...]string{"EI", "AD", "APD"}
	return fmt.Sprintf("%sM/%sF", names[k.Mapping], names[k.Filtering])
}

// reduce returns as much of a as d depends on.
func (d Dependence) reduce(a netip.AddrPort) netip.AddrPort {
	switch d {
	case EndpointIndependent:
		return netip.AddrPort{}
	case AddressDependent:
		return netip.AddrPortFrom(a.Addr(), 0)
	}
	return a
}

// outbound translates the source of a datagram that leaves. The caller holds
// mu.
func (b *NAT) outbound(src, dst netip.AddrPort, now time.Time) (netip.AddrPort, bool) {
	if b.kind.NoHairpin && dst.Addr() == b.ext {
		return src, false
	}
	if b.kind.OneToOne {
		return netip.AddrPortFrom(b.ext, src.Port()), src.Addr() == b.static
	}
	key := mappingKey{src, b.kind.Mapping.reduce(dst)}
	m := b.byInner[key]
	if m != nil && now.Sub(m.used) > b.kind.Lifetime {
		b.drop(m)
		m = nil
	}
	if m == nil {
		m = &mapping{key: key, passes: map[netip.AddrPort]time.Time{}}
		for m.port == 0 || b.byPort[m.port] != nil {
			m.port = uint16(1024 + b.rng.IntN(1<<16-1024))
		}
		b.byInner[key], b.byPort[m.port] = m, m
	}
	m.used = now
	m.passes[b.kind.Filtering.reduce(dst)] = now
	return netip.AddrPortFrom(b.ext, m.port), true
}

// inbound translates the destination of a datagram that comes to the outer
// address, or refuses it. The caller holds mu.
func (b *NAT) inbound(src, dst netip.AddrPort, now time.Time) (netip.AddrPort, bool) {
	if b.kind.OneToOne {
		return netip.AddrPortFrom(b.static, dst.Port()), b.static.IsValid()
	}
	m := b.byPort[dst.Port()]
	if m == nil {
		return dst, false
	}
	if now.Sub(m.used) > b.kind.Lifetime {
		b.drop(m)
		return dst, false
	}
	if at, ok := m.passes[b.kind.Filtering.reduce(src)]; !ok || now.Sub(at) > b.kind.Lifetime {
		return dst, false
	}
	return m.key.inner, true
}

func (b *NAT) drop(m *mapping) {
	delete(b.byInner, m.key)
	delete(b.byPort, m.port)
}
