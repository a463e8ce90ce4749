package idloc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/overlay/admission"
	"github.com/idloc/idloc/overlay/membership"
)

// Errors of the methods about authorities, which errors.Is finds.
var (
	// ErrPending: it is proposed, and in force once other authorities have approved it, too.
	ErrPending = admission.ErrPending
	// ErrNoProposal: no proposal has that ID, or several have one that begins so.
	ErrNoProposal = admission.ErrNoProposal
	// ErrRecoveryLine: a text is no recovery line of this overlay, or was mistyped.
	ErrRecoveryLine = membership.ErrRecoveryLine
)

// Authority is one of those who rule the overlay: of whom so many as the threshold says
// have to sign what changes it. At first that is the founder's key alone.
type Authority struct {
	Name     string `json:"name"`              // the member's when it was promoted; "founder", "recovery"
	Key      string `json:"key"`               // in hex
	Peer     PeerID `json:"peer,omitzero"`     // zero for the founder's key and for recovery lines, which are no node's
	Recovery bool   `json:"recovery,omitzero"` // the key is on paper
	Self     bool   `json:"self,omitzero"`     // it is this node
}

// Proposal is what an authority wants and others have to approve.
type Proposal struct {
	ID       string    `json:"id"`             // for Approve; its beginning does where that is unique
	What     string    `json:"what"`           // in words: "revoke mars"
	Text     string    `json:"text,omitempty"` // of grants: the whole of it
	By       string    `json:"by"`             // name of the authority
	At       time.Time `json:"at"`             // when, by its clock
	Expires  time.Time `json:"expires"`        // nobody waits for more signatures then
	Approved []string  `json:"approved"`       // names of the authorities that have signed it
	Needs    int       `json:"needs"`          // how many have to
	Mine     bool      `json:"mine"`           // this node has signed it
}

// Happening is something that authorities or issuers have done to the overlay.
type Happening = admission.Happening

// Authorities returns who rules the overlay, and how many of them have to agree, as far as
// this node knows.
func (n *Node) Authorities() (all []Authority, threshold int) {
	said, threshold := n.ov.Roster().Authorities()
	for _, a := range said {
		all = append(all, Authority{Name: a.Name, Key: a.Key.String(), Peer: a.Peer, Recovery: a.Recovery, Self: a.Self})
	}
	return all, threshold
}

// Promote makes the member that has name an authority: with the others it says who is one,
// who is revoked and what the grants are, and invites and confirms members by its own word.
// So the overlay outlives its founder. The member's own key signs, from now on; Rotate is
// refused to it.
//
// Where more than one authority has to agree (SetThreshold) this is a proposal, and so are
// Demote, SetThreshold, SetUnattended, AddRecovery, Revoke, Withdraw and SetGrants: the
// error is ErrPending, members carry it to the other authorities, and it is in force when
// enough of them have called Approve. One authority alone can still invite, confirm and
// make delegates; what it gave the others can revoke.
//
// Only authorities can; others get ErrRefusedByPolicy.
func (n *Node) Promote(ctx context.Context, name string) error {
	if err := n.alive(); err != nil {
		return err
	}
	label, err := n.label(name)
	if err != nil {
		return err
	}
	ctx, cancel := n.bind(ctx)
	defer cancel()
	id, _, err := n.resolve(ctx, name)
	if err != nil {
		return n.ended(fmt.Errorf("idloc: promote: %w", err))
	}
	return n.ended(policy("promote "+name, n.ov.Roster().Promote(ctx, id, label)))
}

// DemoteOption says what becomes of what an authority has signed.
type DemoteOption func(*demotion)

type demotion struct{ void bool }

// DemoteVoid ends at once all that the authority has signed by its own word: memberships,
// invitations, delegates. It is for a key that was stolen. Its own node, and members
// whose certificate is void, are none any more and need another token.
func DemoteVoid() DemoteOption { return func(d *demotion) { d.void = true } }

// Demote removes an authority, of which the name is given, or the first 8 digits or more
// of its key. What it has signed before counts for 30 days more, as far as it is dated
// before this, in which others renew it; DemoteVoid ends it at once. Without that its node
// stays a member, and can invite as a delegate; Revoke ends that. No more can be removed than
// leaves as many as have to agree. Only authorities can; ErrPending as with Promote.
func (n *Node) Demote(_ context.Context, name string, opts ...DemoteOption) error {
	if err := n.alive(); err != nil {
		return err
	}
	var d demotion
	for _, o := range opts {
		o(&d)
	}
	return n.ended(policy("demote "+name, n.ov.Roster().Demote(name, d.void)))
}

// SetThreshold says how many authorities have to agree from now on, at most as many as
// there are: a recovery line counts as one. Only authorities can; ErrPending as with
// Promote.
func (n *Node) SetThreshold(_ context.Context, threshold int) error {
	if err := n.alive(); err != nil {
		return err
	}
	return n.ended(policy("set threshold", n.ov.Roster().SetThreshold(threshold)))
}

// SetUnattended says for how long after the end of their certificates members go on among
// themselves that hear of no authority: a day to 400 days, a year if nobody
// says. Only authorities can; ErrPending as with Promote.
func (n *Node) SetUnattended(_ context.Context, d time.Duration) error {
	if err := n.alive(); err != nil {
		return err
	}
	return n.ended(policy("set unattended", n.ov.Roster().SetUnattended(d)))
}

// AddRecovery makes a recovery line: words to print and to keep away from all machines.
// Its key is worth one authority, and nobody has it but who has the line, which is returned
// once and kept nowhere. With ErrPending the line is returned as well: it is worth
// something when others have approved it. Only authorities can.
func (n *Node) AddRecovery(context.Context) (line string, err error) {
	if err := n.alive(); err != nil {
		return "", err
	}
	line, err = n.ov.Roster().AddRecovery()
	return line, n.ended(policy("add recovery", err))
}

// Recover makes this node, which may be any member, an authority by a recovery line: at
// once where one has to agree, else with ErrPending, and when enough others have approved
// it. Until Close the line also signs what this node approves. Afterwards whoever was lost
// can be demoted, and another line be made.
func (n *Node) Recover(_ context.Context, line string) error {
	if err := n.alive(); err != nil {
		return err
	}
	return n.ended(policy("recover", n.ov.Roster().Recover(line)))
}

// Proposals returns what waits for authorities, oldest first. Each member knows them.
func (n *Node) Proposals() []Proposal {
	var out []Proposal
	for _, p := range n.ov.Roster().Proposals() {
		out = append(out, Proposal(p))
	}
	return out
}

// Approve signs a proposal, of which the ID is given, or its beginning. It is in force when
// Approve returns nil; with ErrPending others have to approve it as well. Only authorities
// can; others get ErrRefusedByPolicy.
func (n *Node) Approve(_ context.Context, id string) error {
	if err := n.alive(); err != nil {
		return err
	}
	return n.ended(policy("approve", n.ov.Roster().Approve(id)))
}

// History returns what this node has seen authorities and issuers do, oldest first: who
// was promoted, demoted, revoked and granted what, when, and who has signed that. Whom an
// issuer has invited and confirmed it knows alone. A member that came later knows what the
// list says that it got. With Config.Dir the newest 1,024 survive a restart.
func (n *Node) History() []Happening { return n.ov.Roster().History() }

// proposed is called when a proposal, or a signature under one, has come.
func (n *Node) proposed() {
	ov := n.late.Load()
	if ov == nil {
		return
	}
	now := map[string]int{}
	all := ov.Roster().Proposals()
	for _, p := range all {
		now[p.ID] = len(p.Approved)
	}
	n.proposals.mu.Lock()
	was := n.proposals.told
	n.proposals.told = now
	n.proposals.mu.Unlock()
	for _, p := range all {
		if had, ok := was[p.ID]; !ok || had < len(p.Approved) {
			n.emit(Event{Kind: event.Proposed, Name: p.By, Detail: fmt.Sprintf("%s: %s (%d of %d)", p.ID, p.What, len(p.Approved), p.Needs)})
		}
	}
}

// toldProposals are the proposals that events have told of, and with how many signatures.
type toldProposals struct {
	mu   sync.Mutex
	told map[string]int
}

// checkAttended warns while no authority was heard of for half of the time in which members
// go on without one.
func (n *Node) checkAttended() {
	ov := n.late.Load()
	if ov == nil {
		return // it starts
	}
	since, until := ov.Roster().Unattended()
	now := time.Now()
	if since.IsZero() || now.Sub(since) < until.Sub(since)/2 {
		n.warnings.clear("unattended")
		return
	}
	n.warnings.set(n.log, "unattended", fmt.Sprintf("no authority of the overlay was heard of since %s: members go on among themselves until %s, and then this node is none any more",
		since.UTC().Format(time.RFC3339), until.UTC().Format(time.RFC3339)))
}

// notYet says whether an error is only that others have to agree.
func notYet(err error) bool { return errors.Is(err, ErrPending) }
