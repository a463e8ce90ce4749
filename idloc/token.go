package idloc

import (
	"cmp"
	"fmt"
	"net/netip"
	"time"

	"github.com/idloc/idloc/overlay/admission"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/p2p"
)

// TokenInfo is what a token is for. The secret is not in it: who has it cannot
// join.
type TokenInfo struct {
	Domain   string    `json:"domain"`         // of the overlay that it admits to
	Name     string    `json:"name,omitempty"` // the one label that it admits; "" is any
	From     time.Time `json:"from"`           // it admits from then
	Expires  time.Time `json:"expires"`        // until then
	Uses     int       `json:"uses"`           // members that it admits; AnyNumber: with a Name one at a time, InviteOptions.Reuse
	Relay    bool      `json:"relay,omitzero"`
	Delegate bool      `json:"delegate,omitzero"`
	Tags     []string  `json:"tags,omitempty"` // that the member will have
	// Issuer is the delegate that has made it; the zero ID is an authority.
	Issuer PeerID `json:"issuer,omitzero"`
	// Invitation is its ID, as in Node.Invitations and PeerStatus.
	Invitation string `json:"invitation"`
	// Members are where members were when it was minted, which Join tries first.
	Members []netip.AddrPort `json:"members"`
	// Carriers are those of members, as Config.Reached has them, for networks without UDP.
	Carriers []string `json:"carriers,omitempty"`
}

// ParseToken tells what a token is for, without asking anybody: whether it was
// revoked or used since it does not know, and the clock it leaves to the caller.
// Errors are those that Join has for a text that is no token.
func ParseToken(token string) (TokenInfo, error) {
	t, err := membership.ParseToken(token)
	if err != nil {
		return TokenInfo{}, fmt.Errorf("idloc: %w", err)
	}
	c := t.Invitation()
	info := TokenInfo{
		Domain: t.Overlay().Domain, Name: c.Label, From: c.NotBefore, Expires: c.NotAfter,
		Issuer: t.Delegate(), Invitation: admission.InvitationID(c.Subject),
		Uses: cmp.Or(c.Uses, AnyNumber), Relay: c.Roles.Has(membership.RoleRelay), Delegate: c.Roles.Has(membership.RoleDelegate), Tags: c.Tags.Words(),
	}
	if info.Name == membership.AnyLabel {
		info.Name = ""
	}
	for _, m := range p2p.Parse(t.Addrs()) {
		if at, ok := p2p.AddrPort(m); ok {
			info.Members = append(info.Members, at)
		}
	}
	for _, member := range p2p.ParseInfos(t.Addrs()) {
		for _, m := range member.Addrs {
			if c, ok := p2p.CarrierAddress(m); ok {
				info.Carriers = append(info.Carriers, c.String())
			}
		}
	}
	return info, nil
}
