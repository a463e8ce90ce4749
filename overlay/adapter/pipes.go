package adapter

import (
	"net/netip"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/overlay/mesh"
)

// Alive says whether there is a pipe and it has not ended.
func Alive(p *pipe.Pipe) bool { return p != nil && p.Err() == nil }

// Pipes is mesh.Pipes.
type Pipes struct{ *pipe.Endpoint }

var _ mesh.Pipes = Pipes{}

// Peers implements mesh.Pipes.
func (p Pipes) Peers() []peerid.ID {
	var out []peerid.ID
	for _, pp := range p.Pipes() {
		out = append(out, pp.Peer())
	}
	return out
}

// Remotes implements mesh.Pipes.
func (p Pipes) Remotes(id peerid.ID) []netip.AddrPort {
	pp := p.Pipe(id)
	if !Alive(pp) {
		return nil
	}
	var out []netip.AddrPort
	for _, at := range pp.Direct() {
		out = append(out, at.Remote)
	}
	return out
}

// Source implements mesh.Pipes.
func (p Pipes) Source(remote netip.AddrPort) netip.Addr {
	for _, pp := range p.Pipes() {
		for _, at := range pp.Direct() {
			if at.Remote == remote {
				return at.Local.LocalAddr().Addr()
			}
		}
	}
	return netip.Addr{}
}
