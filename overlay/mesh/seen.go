package mesh

import (
	"bytes"
	"context"
	"net/netip"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/field"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/p2p"
)

// The seen protocol: does a member see a peer at an IP address, on a connection or a pipe
// where the peer has answered? Before much is sent to an address that the peer itself has
// named, a member of the asker's choice confirms it.
//
//	question: peer ID 32 | IP address 16, IPv4 as IPv6 has it
//	answer:   0 no, 1 yes
var seenProtocol = Protocol{Name: "seen", MaxRequest: peerid.Size + 16, MaxAnswer: 1, Timeout: seenTimeout}

// SeenAt asks a connected member whether it sees p at an IP address. Whoever cannot be
// asked does not.
func (m *Mesh) SeenAt(ctx context.Context, by, p peerid.ID, at netip.Addr) bool {
	ip := at.As16()
	ctx, cancel := context.WithTimeout(ctx, seenTimeout)
	defer cancel()
	a, err := m.Ask(ctx, p2p.ID(by), seenProtocol, append(p[:], ip[:]...))
	return err == nil && len(a) == 1 && a[0] == 1
}

func (m *Mesh) answerSeen(_ context.Context, from *membership.Member, question []byte) ([]byte, error) {
	if !m.cfg.Allow(from.Peer) {
		return nil, errTooOften
	}
	id, at, err := readSeen(question)
	if err != nil {
		return nil, err
	}
	if m.sees(id, at) {
		return []byte{1}, nil
	}
	return []byte{0}, nil
}

// readSeen reads a question.
func readSeen(b []byte) (id peerid.ID, at netip.Addr, err error) {
	f := field.NewReader(bytes.NewReader(b))
	var ip [16]byte
	f.Copy(id[:])
	f.Copy(ip[:])
	return id, netip.AddrFrom16(ip).Unmap(), f.Err()
}

// sees says whether a peer has answered at an IP address, on a connection or a pipe that
// is up.
func (m *Mesh) sees(id peerid.ID, at netip.Addr) bool {
	for _, c := range m.host.Network().ConnsToPeer(p2p.ID(id)) {
		if a, ok := p2p.AddrPort(c.RemoteMultiaddr()); ok && a.Addr().Unmap() == at {
			return true
		}
	}
	for _, a := range m.cfg.Pipes.Remotes(id) {
		if a.Addr().Unmap() == at {
			return true
		}
	}
	return false
}
