package mesh

import (
	"net/netip"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/quic-go/quic-go"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/p2p"
)

// PeerInfo is a connected member.
type PeerInfo struct {
	Peer   peerid.ID      `json:"peer"`
	Label  string         `json:"label,omitempty"`
	Remote netip.AddrPort `json:"remote,omitzero"`
	FarEnd netip.AddrPort `json:"-"`      // Remote, or that of the carrier that leads there
	Server bool           `json:"server"` // keeps a part of the database
	RTT    time.Duration  `json:"rtt"`    // of the connection, smoothed; 0 is not measured
}

// Peers describes the connected members, ordered by their IDs.
func (m *Mesh) Peers() []PeerInfo {
	var out []PeerInfo
	for _, n := range m.Members() {
		remote, _ := p2p.AddrPort(n.Remote)
		far, _ := p2p.FarEnd(n.Remote)
		label := n.Member.Label
		if label == membership.AnyLabel {
			label = ""
		}
		out = append(out, PeerInfo{Peer: n.ID, Label: label, Remote: remote, FarEnd: far, Server: n.Server, RTT: m.RTT(n.Peer)})
	}
	slices.SortFunc(out, func(a, b PeerInfo) int { return a.Peer.Compare(b.Peer) })
	return out
}

// RTT returns the round trip time of the newest connection to p, smoothed; zero if
// it is not known.
func (m *Mesh) RTT(p peer.ID) time.Duration {
	var newest network.Conn
	for _, c := range m.host.Network().ConnsToPeer(p) {
		if newest == nil || c.Stat().Opened.After(newest.Stat().Opened) {
			newest = c
		}
	}
	var q *quic.Conn
	if newest == nil || !newest.As(&q) {
		return 0
	}
	return q.ConnectionStats().SmoothedRTT
}

// Metrics gathers libp2p's own metrics. libp2p keeps them for the process:
// several nodes in one process share their numbers.
func (m *Mesh) Metrics() prometheus.Gatherer { return m.metrics }

// Held is how many datagrams were not sent to addresses that were only heard of
// (package hearsay).
func (m *Mesh) Held() uint64 { return m.cfg.Hearsay.Held() }
