package idloc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/idloc/idloc/overlay"
	"github.com/idloc/idloc/overlay/naming"
)

// UserAt is one member at which a user is.
type UserAt struct {
	Peer    Peer      `json:"peer"`
	Info    string    `json:"info"` // as it said in PublishUser
	Since   time.Time `json:"since"`
	Expires time.Time `json:"expires"`
}

// PublishUser says in the overlay's database that a user of a service, "sip:fred", is at
// this node from now on until life is over, an hour at most; call it again before that to
// go on saying so. info is up to 128 bytes that LookupUser gives to whoever asks: a port, a
// weight. A node says at most 12 users, and a user is at the four members that have said
// so last.
//
// Which names a node may say is decided by the authorities, never by who comes first: a member
// that has the tag "user-fred" has the user "fred", in all services, by the line "tag mars
// as user-fred" in SetGrants or else by InviteOptions.Tags; and "fred" alone has the member
// that an authority itself has named so. All others are refused, with ErrRefusedByPolicy
// here and by whoever keeps or reads the record, at once when a tag is taken away. The
// tag may be given to several members: they are one person's, who answers for them.
func (n *Node) PublishUser(ctx context.Context, user, info string, life time.Duration) error {
	if err := n.alive(); err != nil {
		return err
	}
	ctx, cancel := n.bind(ctx)
	defer cancel()
	return n.ended(userError("publish", n.ov.Users().PublishUser(ctx, user, info, life)))
}

// WithdrawUser says that a user is at this node no more. It is no error if it was not.
// Leave does so for all.
func (n *Node) WithdrawUser(ctx context.Context, user string) error {
	if err := n.alive(); err != nil {
		return err
	}
	ctx, cancel := n.bind(ctx)
	defer cancel()
	return n.ended(userError("withdraw", n.ov.Users().WithdrawUser(ctx, user)))
}

// LookupUser returns the members at which a user is, "sip:fred": who has said so last comes
// first. It asks the database each time. The error is a *net.DNSError, IsNotFound if the
// user is nowhere, else IsTemporary.
func (n *Node) LookupUser(ctx context.Context, user string) ([]UserAt, error) {
	if err := n.alive(); err != nil {
		return nil, err
	}
	ctx, cancel := n.bind(ctx)
	defer cancel()
	found, err := n.ov.Users().LookupUser(ctx, user)
	if err != nil {
		notFound := errors.Is(err, overlay.ErrNotFound)
		text := err.Error()
		if notFound {
			text = "no such user"
		}
		return nil, n.ended(&net.DNSError{
			Err: text, UnwrapErr: err, Name: user, Server: "the overlay's database",
			IsNotFound: notFound, IsTemporary: !notFound, IsTimeout: errors.Is(err, context.DeadlineExceeded),
		})
	}
	out := make([]UserAt, len(found))
	for i, f := range found {
		out[i] = UserAt{n.peer(f.Peer), f.Info, f.Since, f.Expires}
	}
	return out, nil
}

func userError(what string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, naming.ErrUser) {
		return fmt.Errorf("idloc: %s user: %w: %w", what, ErrRefusedByPolicy, err)
	}
	return fmt.Errorf("idloc: %s user: %w", what, err)
}
