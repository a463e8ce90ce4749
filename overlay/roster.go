package overlay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/admission"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/mesh"
	"github.com/idloc/idloc/overlay/naming"
	"github.com/idloc/idloc/overlay/p2p"
)

// errRevoked ends what those have open who are no members any more.
var errRevoked = errors.New("membership revoked")

// rosterConfig is what the Roster needs of the rest.
func (o *Overlay) rosterConfig() admission.Config {
	return admission.Config{
		Key: o.cfg.Key, State: o.cfg.State, Now: o.cfg.clock, Log: o.log,
		Network: neighbours{o},
		Lookup: func(ctx context.Context, label string) *naming.Record {
			return o.directory.Read(ctx, label)
		},
		Changed: o.membersChanged,
		Renewed: func() { o.directory.Renewed() },
		Shown: func(p peerid.ID) []byte {
			if pp := o.pipes.Pipe(p); alive(pp) {
				return pp.Chain()
			}
			return nil
		},
	}
}

// neighbours is the mesh as the Roster sees it.
type neighbours struct{ o *Overlay }

var _ admission.Network = neighbours{}

func (n neighbours) Neighbours() []admission.Neighbour {
	var out []admission.Neighbour
	for _, d := range n.o.mesh.Members() {
		out = append(out, admission.Neighbour{Peer: d.ID, Issuer: d.Issuer, Server: d.Server})
	}
	return out
}

func (n neighbours) Ask(ctx context.Context, p peerid.ID, pr admission.Protocol, request []byte) ([]byte, error) {
	return n.o.mesh.Ask(ctx, p2p.ID(p), mesh.Protocol(pr), request)
}

func (n neighbours) Go(f func(ctx context.Context)) {
	n.o.mesh.Go(func() { f(n.o.ctx) })
}

// membersChanged is called when a new revocation list is in force: it puts it into
// the database, too, and drops what belongs to those who are no members by it.
func (o *Overlay) membersChanged() {
	o.enforce()
	l := o.roster.Revocations()
	o.spawn(func() {
		_ = o.directory.Put(o.ctx, naming.RevocationKey(o.ov.ID), naming.RevocationValue(l))
	})
}

// enforce drops all that belongs to those who are no members any more, by the list
// or by the clock: connections, pipes, flows, and what is remembered of them.
// Nothing that asks the Roster waits for that.
func (o *Overlay) enforce() {
	for _, d := range o.roster.Sweep() {
		o.dismiss(d)
	}
	o.mesh.Expel()
	for _, p := range o.pipes.Pipes() {
		if err := o.roster.Check(p.Chain(), p.Peer()); err != nil {
			p.End(fmt.Errorf("%w: %w", errRevoked, err))
		}
	}
	o.flows.EndUnless(func(chain []byte, p peerid.ID) bool { return o.roster.Check(chain, p) == nil })
}

// dismiss drops what is remembered of a peer that is no member any more.
func (o *Overlay) dismiss(d admission.Departure) {
	o.directory.Dismiss(d.Peer, d.Revoked)
	if d.Revoked {
		o.peers.Forget(d.Peer)
		o.cfg.Events.Emit(event.Event{Kind: event.Revoked, Peer: d.Peer, Name: o.fullName(d.Label)})
	}
	o.log.Info("no member any more", "peer", d.Peer, "label", d.Label)
}

// Revoke ends the membership of the peer that has a label, or whose ID is
// given as a label, and of the invitation it came by. Only the founder can.
// When it returns, the list has been signed, saved and sent to all connected
// members.
func (o *Overlay) Revoke(ctx context.Context, label string) error {
	if !o.roster.Founder() {
		return ErrNotFounder
	}
	id, ok := naming.PeerLabel(label)
	if !ok {
		if id, ok = o.roster.Holder(label); !ok {
			f, err := o.Resolve(ctx, label)
			if err != nil {
				return err
			}
			id = f.Peer
		}
	}
	return o.roster.Revoke(id)
}

// Invite makes a token. Only the founder and delegates can.
func (o *Overlay) Invite(opts InviteOptions) (string, error) {
	var roles membership.Roles
	if opts.Relay {
		roles |= membership.RoleRelay
	}
	if opts.Delegate {
		roles |= membership.RoleDelegate
	}
	t, err := o.roster.Invite(membership.InviteOptions{
		Label: opts.Name, Expires: opts.Expires, Roles: roles, Addrs: o.tokenAddrs(),
	})
	if err != nil {
		return "", err
	}
	return t.String(), nil
}

// ClockOff returns how far this machine's clock is ahead of those of the members
// it has met (the median; negative: behind), and how many those are. Hellos tell
// whole seconds.
func (o *Overlay) ClockOff() (time.Duration, int) { return o.roster.ClockOff() }

// watchClock tries again what failed because the clock was wrong, when it is set.
func (o *Overlay) watchClock() {
	o.roster.WatchClock(o.ctx, func() {
		o.mesh.Forgive()
		o.enforce()
	}, func() {
		o.mesh.Greet() // tells the time
		o.directory.Changed()
		o.mesh.Stir()
		o.mesh.Wake()
	})
}
