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
// given as a label, of the invitation it came by, and of whom scope says. Only the
// founder can. When it returns, the list has been signed, saved and sent to all connected
// members.
func (o *Overlay) Revoke(ctx context.Context, label string, scope admission.Scope) error {
	return o.roster.RevokeLabel(label, scope, func() (peerid.ID, error) {
		f, err := o.Resolve(ctx, label)
		return f.Peer, err
	})
}

// Rotate has this peer be another key, under the same name, when it is opened the next
// time: see admission.Roster.Rotate.
func (o *Overlay) Rotate(ctx context.Context) error { return o.roster.Rotate(ctx) }

// Invite makes a token. Only the founder and delegates can.
func (o *Overlay) Invite(opts InviteOptions) (string, error) {
	own, kinds := o.nat.Own().Best(membership.MaxAddrs), o.nat.Kinds()
	t, err := o.roster.Invite(membership.InviteOptions{
		Label: opts.Name, Expires: opts.Expires, Roles: membership.RolesOf(opts.Relay, opts.Delegate), Uses: opts.Uses,
		Addrs: o.mesh.TokenAddrs(own, o.carriers.Own(membership.MaxAddrs), func(a netip.AddrPort) bool { return kinds[a].Lonely() }),
	})
	if err != nil {
		return "", err
	}
	return t.String(), nil
}

// Invitations returns the invitations that this issuer has made, and who came by
// them, newest first.
func (o *Overlay) Invitations() []Invitation { return o.roster.Invitations() }

// WithdrawInvitation ends one, of which the token or the ID is given: admission.Roster
// has the rules.
func (o *Overlay) WithdrawInvitation(ctx context.Context, tokenOrID string) error {
	return o.roster.Withdraw(ctx, tokenOrID)
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

// NameOf returns the full name that a peer's certificate or record gives it,
// "" if none is known.
func (o *Overlay) NameOf(id peerid.ID) string { return o.roster.FullName(id) }

// Origin returns by which invitation another member came, as admission.InvitationID
// has it, and the delegate below whom it is one; zero for the founder, and where
// nothing is known.
func (o *Overlay) Origin(id peerid.ID) (invitation string, delegate peerid.ID) {
	return o.roster.Origin(id)
}

// Account is to whom what a peer uses is charged besides itself. It is pipe.Config.Account.
func (o *Overlay) Account(p peerid.ID) account.Account { return o.roster.Account(p) }

// RelayFor says whether this peer forwards between two members, and to whom
// from's traffic is charged besides from. It is pipe.Config.Relay. Whoever hides
// its addresses relays for nobody: those that it relayed for would have to know them.
func (o *Overlay) RelayFor(from, to peerid.ID) (account.Account, bool) {
	if o.cfg.NoRelay || o.cfg.Paths == PathRelayOnly {
		return account.Account{}, false
	}
	return o.roster.RelayFor(from)
}
