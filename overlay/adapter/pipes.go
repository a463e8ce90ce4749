package adapter

import (
	"net/netip"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/socket"
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

// Chain is what a peer has shown in the pipe to it, nil if there is none now.
func (p Pipes) Chain(id peerid.ID) []byte {
	if pp := p.Pipe(id); Alive(pp) {
		return pp.Chain()
	}
	return nil
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

// Senders are a port's sockets as packages pipe and roaming have them. The slice is the
// caller's.
func Senders(port *socket.Port) []pipe.Sender {
	var out []pipe.Sender
	for _, c := range port.Conns() {
		out = append(out, c)
	}
	return out
}
