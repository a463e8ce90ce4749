package nat

import (
	"context"
	"net/netip"
	"slices"
)

// Remote is where a connected member is.
type Remote struct {
	At     netip.AddrPort
	Server bool // others reach it
}

// STUNSources says where STUN servers come from. All of it is required; its functions
// may be called from any goroutine.
type STUNSources struct {
	Configured []ICEServer
	// Plain returns the IPv4 address that one which DNS64 has made stands for, others as
	// they are.
	Plain func(netip.Addr) netip.Addr
	// Given is told of the addresses of Configured, which the user has named.
	Given func(...netip.AddrPort)
	// Connected are the members that are connected, Remembered where others may be.
	Connected  func() []Remote
	Remembered func() []netip.AddrPort
}

// Servers lists whom to ask for mapped addresses: configured servers first, then the
// connected database servers, which others reach, then the other connected members,
// whose NATs let in what comes from this peer; those remembered while nobody is
// connected. Of each those come first that see most of the way: the ones on the
// internet.
func (s *STUNSources) Servers(ctx context.Context) []netip.AddrPort {
	var servers, others, remembered Ranking[netip.AddrPort]
	for _, m := range s.Connected() {
		if m.Server {
			addRemote(&servers, m.At)
		} else {
			addRemote(&others, m.At)
		}
	}
	var configured []netip.AddrPort
	for _, at := range STUNServers(ctx, s.Configured) {
		if at = netip.AddrPortFrom(s.Plain(at.Addr()), at.Port()); !slices.Contains(configured, at) {
			configured = append(configured, at)
		}
	}
	s.Given(configured...)
	out := slices.Concat(configured, servers.Best(servers.Len()), others.Best(others.Len()))
	if len(out) > 0 {
		return out
	}
	for _, at := range s.Remembered() {
		addRemote(&remembered, at)
	}
	return remembered.Best(remembered.Len())
}

func addRemote(r *Ranking[netip.AddrPort], at netip.AddrPort) {
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	r.Add(at, Of(at.Addr()), at)
}
