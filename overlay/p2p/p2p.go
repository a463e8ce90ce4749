// Package p2p converts peer IDs and UDP addresses between this module's types and
// libp2p's, for all packages of the overlay. Its functions are pure.
package p2p

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/netip"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/carrier"
	"github.com/idloc/idloc/internal/peerid"
)

// ID returns the libp2p form of id. It cannot fail: every ID is 32 bytes, and
// libp2p's form is a fixed prefix and these.
func ID(id peerid.ID) peer.ID { return peer.ID(id.Multihash()) }

// PeerID returns the peer ID behind p. A peer whose key is not Ed25519 is an
// error: it is no member of any overlay.
func PeerID(p peer.ID) (peerid.ID, error) { return peerid.FromMultihash([]byte(p)) }

// Compare says which of a and b is nearer to a target in the DHT's key space:
// negative if a is, 0 if they are one, else positive. It is for sorts.
func Compare(a, b, target peerid.ID) int {
	x, y, t := key(a), key(b), key(target)
	for i := range t {
		x[i] ^= t[i]
		y[i] ^= t[i]
	}
	return bytes.Compare(x[:], y[:])
}

// key is where a peer stands in the key space (kbucket.ConvertPeerID).
func key(id peerid.ID) [sha256.Size]byte { return sha256.Sum256(id.Multihash()) }

// QUIC returns the multiaddr of a QUIC listener at a, without its zone.
func QUIC(a netip.AddrPort) ma.Multiaddr {
	family := "ip4"
	if a.Addr().Is6() {
		family = "ip6"
	}
	m, err := ma.NewMultiaddr(fmt.Sprintf("/%s/%s/udp/%d/quic-v1", family, a.Addr().WithZone(""), a.Port()))
	if err != nil {
		panic("p2p: " + err.Error()) // an AddrPort always has this form
	}
	return m
}

// QUICs is QUIC of each.
func QUICs(at []netip.AddrPort) []ma.Multiaddr {
	var out []ma.Multiaddr
	for _, a := range at {
		out = append(out, QUIC(a))
	}
	return out
}

// AddrPort reads the IP address and UDP port that m begins with; false if it
// begins with anything else. The far end of a carrier is no such address.
func AddrPort(m ma.Multiaddr) (netip.AddrPort, bool) {
	at, ok := udpAddr(m)
	if ok && carrier.Prefix.Contains(at.Addr()) {
		return netip.AddrPort{}, false
	}
	return at, ok
}

func udpAddr(m ma.Multiaddr) (netip.AddrPort, bool) {
	var ip netip.Addr
	var ok bool
	var out netip.AddrPort
	ma.ForEach(m, func(c ma.Component) bool {
		switch c.Protocol().Code {
		case ma.P_IP4, ma.P_IP6:
			ip, ok = netip.AddrFromSlice(c.RawValue())
			return ok
		case ma.P_UDP:
			if b := c.RawValue(); ip.IsValid() && len(b) == 2 {
				out = netip.AddrPortFrom(ip, uint16(b[0])<<8|uint16(b[1]))
			}
		}
		return false
	})
	return out, out.IsValid()
}

// Parse reads multiaddrs; what cannot be read is left out.
func Parse(texts []string) []ma.Multiaddr {
	var out []ma.Multiaddr
	for _, s := range texts {
		if m, err := ma.NewMultiaddr(s); err == nil {
			out = append(out, m)
		}
	}
	return out
}

// ParseInfos reads multiaddrs that end with a peer ID, one AddrInfo for each
// peer; what cannot be read is left out.
func ParseInfos(texts []string) []peer.AddrInfo {
	out, err := peer.AddrInfosFromP2pAddrs(Parse(texts)...)
	if err != nil {
		return nil
	}
	return out
}
