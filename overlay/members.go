package overlay

import (
	"context"
	"net/netip"
	"time"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/admission"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/naming"
	"github.com/idloc/idloc/overlay/nullflow"
	"github.com/idloc/idloc/overlay/upkeep"
)

// membersChanged is called when a new revocation list is in force: it puts it into
// the database, too, and drops what belongs to those who are no members by it.
func (o *Overlay) membersChanged() {
	o.enforce()
	l := o.roster.Revocations()
	o.life.spawn(func() {
		_ = o.directory.Put(o.life.ctx, naming.RevocationKey(o.ID()), naming.RevocationValue(l))
	})
}

// enforce drops all that belongs to those who are no members any more.
func (o *Overlay) enforce() {
	e := upkeep.Enforcer{
		Sweep: o.roster.Sweep, Check: o.roster.Check, Expel: o.mesh.Expel, Pipes: o.pipes.Pipes, EndUnless: o.flows.EndUnless,
		Dismiss: o.directory.Dismiss, Forget: o.mesh.Known().Forget,
		Name: o.roster.Overlay().FullName, Events: o.cfg.Events, Log: o.cfg.Logger,
	}
	e.Enforce()
}

// Revoke ends the membership of the peer that has a label, or whose ID is
// given as a label, of the invitation it came by, and of whom scope says. Only
// authorities can. When it returns, the list has been signed, saved and sent to all connected
// members.
func (o *Overlay) Revoke(ctx context.Context, label string, scope admission.Scope) error {
	return o.roster.RevokeLabel(label, scope, func() (peerid.ID, error) {
		f, err := o.Resolve(ctx, label)
		return f.Peer, err
	})
}

// EndNullFlows ends the flows with null encapsulation that peers have opened and keep
// does not want, and returns how many.
func (o *Overlay) EndNullFlows(keep func(nullflow.Flow) bool) int { return o.flows.EndOpened(keep) }

// Invite makes a token. Only authorities and delegates can.
func (o *Overlay) Invite(opts InviteOptions) (string, error) {
	own, kinds := o.nat.Own().Best(membership.MaxAddrs), o.nat.Kinds()
	t, err := o.roster.Invite(membership.InviteOptions{
		Label: opts.Name, Expires: opts.Expires, Roles: membership.RolesOf(opts.Relay, opts.Delegate), Tags: opts.Tags, Uses: opts.Uses, Reuse: opts.Reuse,
		Addrs: o.mesh.TokenAddrs(own, o.carriers.Own(membership.MaxAddrs), func(a netip.AddrPort) bool { return kinds[a].Lonely() }),
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
	o.roster.WatchClock(o.life.ctx, func() {
		o.mesh.Forgive()
		o.enforce()
	}, func() {
		o.mesh.Greet() // tells the time
		o.directory.Changed()
		o.mesh.Stir()
		o.mesh.Wake()
	})
}

// Roster is what is known of members, and what authorities and issuers do.
func (o *Overlay) Roster() admission.View { return o.roster }

// NameOf returns the full name that a peer's certificate or record gives it,
// "" if none is known.
func (o *Overlay) NameOf(id peerid.ID) string { return o.roster.FullName(id) }

// Account is to whom what a peer uses is charged besides itself. It is pipe.Config.Account.
func (o *Overlay) Account(p peerid.ID) account.Account { return o.roster.Account(p) }

// RelayFor says whether this peer forwards what comes from a member, to the peers that it
// has pipes with, and to whom that is charged besides from. It is for pipe.Config.Relay.
// Whoever hides its addresses relays for nobody: those that it relayed for would have to
// know them.
func (o *Overlay) RelayFor(from peerid.ID) (account.Account, bool) {
	if o.cfg.NoRelay || o.cfg.Paths == PathRelayOnly {
		return account.Account{}, false
	}
	return o.roster.RelayFor(from)
}
