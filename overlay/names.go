package overlay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/overlay/admission"
	"github.com/idloc/idloc/overlay/directory"
	"github.com/idloc/idloc/overlay/mesh"
	"github.com/idloc/idloc/overlay/p2p"
)

// What package directory needs of the connections and of the roster.

// hearsayAddrs are the addresses taken of a server that another one names.
const hearsayAddrs = 8

func (o *Overlay) newDirectory() (*directory.Directory, error) {
	d, err := directory.New(directory.Config{
		Key: o.cfg.Key, Self: o.self, Overlay: o.ov, Prefix: o.prefix(), Now: o.now,
		Log: o.log, Events: o.cfg.Events, State: o.cfg.State,
		Mesh: directoryMesh{o.mesh}, Roster: directoryRoster{o.roster},
		Addrs: func(n int) []string {
			var out []string
			for _, a := range o.nat.Own().Best(n) {
				out = append(out, p2p.QUIC(a).String())
			}
			return out
		},
		Remembered: func() int { return len(o.peers.AddrInfos()) },
		JustBack:   o.justBack,
		Piped:      func(p peerid.ID) bool { return alive(o.pipes.Pipe(p)) },
		Silent:     func(p peer.ID) { o.mesh.Suspect(p) },
		Told: func(by peer.ID, addrs []ma.Multiaddr) []ma.Multiaddr {
			return o.mesh.Told(by, mesh.BestOf(addrs, hearsayAddrs))
		},
		Reached:     func() bool { return o.mesh.Reached().Unasked() },
		AskDialBack: o.mesh.AskDialBack,
		DialedBack:  func() bool { return o.mesh.DialledBack().Decided() },
	})
	if err != nil {
		return nil, fmt.Errorf("directory: %w", err)
	}
	return d, nil
}

// directoryMesh is directory.Mesh.
type directoryMesh struct{ *mesh.Mesh }

func (m directoryMesh) Neighbors() []directory.Neighbor {
	var out []directory.Neighbor
	for _, n := range m.Members() {
		out = append(out, directory.Neighbor{Peer: n.Peer, ID: n.ID, Server: n.Server, NoRelay: n.NoRelay})
	}
	return out
}

// directoryRoster is directory.Roster.
type directoryRoster struct{ *admission.Roster }

func (r directoryRoster) Own() (chain []byte, label string, confirmed bool) {
	own := r.Roster.Own()
	return own.Chain, own.Label, own.Member.Confirmed
}

// Resolve returns the peer that has a label. The error is ErrNotFound only if
// enough servers have answered or, as ErrRevoked, if the membership of whoever had
// it was taken back, and ErrUnavailable, which is temporary, if not. A label that is
// a peer ID needs no record, only that the peer has once shown its membership.
func (o *Overlay) Resolve(ctx context.Context, label string) (Found, error) {
	f, err := o.directory.Resolve(ctx, label)
	if errors.Is(err, directory.ErrClosed) {
		err = ErrClosed
	}
	return f, err
}

// Withdraw gives this peer's name up in the database, to be called before
// Close by a peer that does not come back soon: whoever asks for the name is
// told from then on that there is none. Nothing is published any more.
func (o *Overlay) Withdraw(ctx context.Context) error { return o.directory.Withdraw(ctx) }

// Server says whether this peer keeps a part of the database.
func (o *Overlay) Server() bool {
	server, _ := o.directory.Serving()
	return server
}

// justBack says whether this peer has only just begun to look for the others: a
// server may be reached any moment.
func (o *Overlay) justBack() bool {
	return len(o.peers.AddrInfos()) > 0 && (time.Since(o.started) < mesh.AloneAfter || o.mesh.JustAlone())
}

// alive says whether there is a pipe and it has not ended.
func alive(pp *pipe.Pipe) bool { return pp != nil && pp.Err() == nil }
