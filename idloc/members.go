package idloc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay"
	"github.com/idloc/idloc/overlay/admission"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/resolver"
	"github.com/idloc/idloc/shim"
)

// Invite mints a token: one line of text that lets its bearer in until it
// expires, and says where to find members; ParseToken tells what it is for. Only authorities and members
// invited with Delegate can, each by its own word; others get ErrRefusedByPolicy. A token admits one
// member unless opts say otherwise, and is a secret until it has: internal/THREATS.md
// says what its holder can do. Invitations lists it, Withdraw ends it.
func (n *Node) Invite(opts InviteOptions) (string, error) {
	if err := n.alive(); err != nil {
		return "", err
	}
	if opts.Replaces != "" {
		return n.inviteInstead(opts)
	}
	tags, err := membership.NewTags(opts.Tags)
	if err != nil {
		return "", fmt.Errorf("idloc: invite: %w", err)
	}
	token, err := n.ov.Invite(overlay.InviteOptions{Name: opts.Name, Expires: opts.Expires, Relay: opts.Relay, Delegate: opts.Delegate, Tags: tags, Uses: opts.Uses, Reuse: opts.Reuse})
	if err != nil {
		return "", n.ended(policy("invite", err))
	}
	return token, nil
}

// replaceFor bounds how long Invite looks for the member that it is to replace.
const replaceFor = 10 * time.Second

// inviteInstead is Invite with opts.Replaces. The token is made first: where it cannot be
// nobody is revoked.
func (n *Node) inviteInstead(opts InviteOptions) (string, error) {
	label, err := n.label(opts.Replaces)
	if err != nil {
		return "", err
	}
	if opts.Name != "" && opts.Name != label {
		return "", fmt.Errorf("idloc: invite: the token is for %q, whom it replaces, and cannot be for %q", label, opts.Name)
	}
	if all, _ := n.Authorities(); !slices.ContainsFunc(all, func(a Authority) bool { return a.Self }) {
		return "", policy("invite", overlay.ErrNotFounder)
	}
	old := opts.Replaces
	opts.Name, opts.Replaces = label, ""
	token, err := n.Invite(opts)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(n.ctx, replaceFor)
	defer cancel()
	err = n.Revoke(ctx, old)
	if err != nil && !notYet(err) {
		return "", errors.Join(err, n.Withdraw(ctx, token)) // nobody has it
	}
	return token, err
}

// Invitations returns the invitations that this node has made and that have ended no
// longer than a week ago, newest first, and who came by them. A node that may not
// invite has none.
func (n *Node) Invitations() []Invitation {
	var out []Invitation
	for _, i := range n.ov.Roster().Invitations() {
		v := Invitation{
			ID: i.ID, Name: i.Label, Made: i.Made, Expires: i.Expires, Uses: cmp.Or(i.Uses, AnyNumber), Withdrawn: i.Withdrawn,
			Relay: i.Roles.Has(membership.RoleRelay), Delegate: i.Roles.Has(membership.RoleDelegate), Tags: i.Tags.Words(),
		}
		if v.Name == membership.AnyLabel {
			v.Name = ""
		}
		for _, m := range i.Members {
			v.Members = append(v.Members, InvitedMember{n.peer(m.Peer), m.Confirmed})
		}
		out = append(out, v)
	}
	return out
}

// Withdraw ends an invitation, of which the token or the ID that Invitations gives, or
// its beginning, is told: nobody enters by it any more, and who has entered by it and
// was not confirmed ends. Members that were confirmed stay; Revoke ends those. An
// authority can withdraw any, with ErrPending where others have to agree (Promote); a
// delegate those that it has made, while it is connected to an authority, which tells all
// others. Others get ErrRefusedByPolicy.
func (n *Node) Withdraw(ctx context.Context, tokenOrID string) error {
	if err := n.alive(); err != nil {
		return err
	}
	ctx, cancel := n.bind(ctx)
	defer cancel()
	return n.ended(policy("withdraw", n.ov.Roster().Withdraw(ctx, tokenOrID)))
}

// RevokeOption says whom Revoke ends besides the peer that is named.
type RevokeOption func(*admission.Scope)

// RevokeInvited ends all members that came by the same invitation: for a person, or a
// token that got into wrong hands, rather than a key.
func RevokeInvited() RevokeOption { return func(s *admission.Scope) { s.Invited = true } }

// RevokeDelegated ends all members that the delegate has invited or confirmed through
// which the peer came, and all tokens that it has made. The delegate itself stays a
// member; it can invite again when an authority has renewed its membership. Who stands below an authority itself came through
// no delegate: that is an error. To revoke a delegate ends what it has signed anyhow.
func RevokeDelegated() RevokeOption { return func(s *admission.Scope) { s.Delegated = true } }

// Revoke ends the membership of the peer that has name now, and the
// invitation that it came with: its pipes, connections and records end
// everywhere within 60 s. Others that came by the invitation and were confirmed stay,
// unless an option says so; Status and Invitations tell who they are. Only authorities
// can; others get ErrRefusedByPolicy. Where more than one has to agree it is a proposal,
// with ErrPending, and nobody ends before they do (Promote). An authority cannot be
// revoked: Demote it first.
func (n *Node) Revoke(ctx context.Context, name string, opts ...RevokeOption) error {
	var scope admission.Scope
	for _, o := range opts {
		o(&scope)
	}
	if err := n.alive(); err != nil {
		return err
	}
	label, err := n.label(name)
	if err != nil {
		return err
	}
	ctx, cancel := n.bind(ctx)
	defer cancel()
	return n.ended(policy("revoke "+name, n.ov.Revoke(ctx, label, scope)))
}

// policy marks errors about rights that this node does not have.
func policy(what string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, overlay.ErrNotFounder) || errors.Is(err, overlay.ErrNotIssuer) {
		return fmt.Errorf("idloc: %s: %w: %w", what, ErrRefusedByPolicy, err)
	}
	return fmt.Errorf("idloc: %s: %w", what, err)
}

// admit is asked by the stack about each inbound flow.
func (n *Node) admit(network string, local, remote netip.AddrPort) bool {
	peer, ok := n.table.Peer(remote.Addr())
	if !ok || n.late.Load() == nil {
		return false
	}
	if _, ok := n.bare.Load(shim.BareFlow{Local: local, Remote: remote}); ok && network == "udp" {
		return true // asked when it was opened
	}
	return n.grants(peer, network, local) &&
		(n.cfg.Admit == nil || n.cfg.Admit(Flow{Peer: n.peer(peer), Network: network, Local: local, Remote: remote}))
}

// Resolver returns a resolver that asks the node's own DNS, without leaving
// the process: names of the overlay give LSIs, LookupAddr of an LSI gives a
// name, and everything else goes to the system's DNS servers. Names of the
// overlay are never sent there, nor is a label alone ("mars") that a member
// has, whatever search list the system has: it is the member.
//
// The server that its errors name is the one that package net would have asked,
// the first of the system's, also where the overlay's database was asked.
// Node.Dial names that.
func (n *Node) Resolver() *net.Resolver { return n.dns.NetResolver() }

// OfferSRV has programs that ask this node's DNS find a service of the whole domain at this
// node's port: with "_sip._udp" and 5060, a phone that looks for the SIP server of
// example.com (RFC 3263) finds the one that its own node runs; port 0 ends it. Programs at
// other nodes are not told.
func (n *Node) OfferSRV(service string, port uint16) error {
	if err := n.alive(); err != nil {
		return err
	}
	if err := n.dns.SetService(service, n.Name(), port); err != nil {
		return fmt.Errorf("idloc: %w", err)
	}
	return nil
}

// upstream are the DNS servers of the host, but not the node's own: with a TUN
// device the host may have been told to ask that for everything. Those it
// asked before are asked on then.
func (n *Node) upstream() func() []netip.AddrPort {
	v4, v6 := n.table.Prefixes()
	own := func(a netip.AddrPort) bool { return v4.Contains(a.Addr()) || v6.Contains(a.Addr()) }
	system := resolver.System()
	var mu sync.Mutex
	var last []netip.AddrPort
	return func() []netip.AddrPort {
		mu.Lock()
		defer mu.Unlock()
		if now := slices.DeleteFunc(slices.Clone(system()), own); len(now) > 0 || last == nil {
			last = now
		}
		return last
	}
}

// startDNS makes the node's DNS server and lets it listen inside the stack,
// at the second well-known LSI.
func (n *Node) startDNS() error {
	v4, v6 := n.table.Prefixes()
	if !n.cfg.LSIPrefix.IsValid() {
		v4 = defaultLSIs // what a name outside may not point to are the LSIs of other nodes in this process, too
	}
	at := n.table.Resolver()
	upstream := n.upstream()
	upstream() // before somebody points the host at us
	var err error
	n.dns, err = resolver.New(resolver.Config{
		Domain: n.ov.Domain(), Names: dnsNames{n}, LSIs: n.table,
		NameOf:   func(id peerid.ID) string { return n.peer(id).Name },
		Prefixes: []netip.Prefix{v4, v6}, Addr: at, Upstream: upstream,
		Search: resolver.SystemSearch(), NoIPv4: n.cfg.DNSNoIPv4,
		Events: n.emit, Logger: n.log,
	})
	if err != nil {
		return err
	}
	if err := n.stack.AddAddress(at); err != nil {
		return err
	}
	pc, err := n.stack.ListenUDP("udp", netip.AddrPortFrom(at, 53))
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("the DNS server needs the right CAP_NET_BIND_SERVICE: %w", err)
	}
	if err != nil {
		return err
	}
	l, err := n.stack.ListenTCP("tcp", netip.AddrPortFrom(at, 53), 0)
	if err != nil {
		pc.Close()
		return err
	}
	n.wg.Go(func() { n.dns.Serve(pc) })
	n.wg.Go(func() { n.dns.ServeListener(l) })
	return nil
}

// dnsNames is the database as the DNS server sees it.
type dnsNames struct{ n *Node }

func (d dnsNames) Resolve(ctx context.Context, name string) (PeerID, string, error) {
	id, full, err := d.n.resolve(ctx, name)
	var dns *net.DNSError
	if errors.As(err, &dns) && dns.IsNotFound {
		err = fmt.Errorf("%w: %w", resolver.ErrNotFound, err)
	}
	return id, full, err
}
