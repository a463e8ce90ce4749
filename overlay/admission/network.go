package admission

import (
	"context"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

// Protocol is one of those that the Roster speaks with other members: one request,
// one answer. It is what the mesh has for that.
type Protocol struct {
	Name       string
	MaxRequest int           // bytes
	MaxAnswer  int           // bytes
	Timeout    time.Duration // of who answers
}

// The Roster's protocols, and what answers them.
var (
	ConfirmProtocol = Protocol{ // AnswerConfirm
		Name: "confirm", MaxRequest: 2 + (1 + 255) + (2 + membership.MaxChain),
		MaxAnswer: 1 + (1 + 255) + 2*(2+membership.MaxChain), Timeout: confirmTimeout,
	}
	ConfirmedProtocol = Protocol{ // AnswerConfirmed
		Name: "confirmed", MaxRequest: 2 + membership.MaxChain, MaxAnswer: 1, Timeout: confirmTimeout,
	}
	UsesProtocol = Protocol{ // AnswerUses
		Name: "uses", MaxRequest: 1 + 32, MaxAnswer: 1 + membership.MaxUses*(2+membership.MaxChain), Timeout: confirmTimeout,
	}
	RotateProtocol = Protocol{ // AnswerRotate
		Name: "rotate", MaxRequest: membership.RotationSize, MaxAnswer: ConfirmProtocol.MaxAnswer, Timeout: confirmTimeout,
	}
	WithdrawProtocol = Protocol{ // AnswerWithdraw
		Name: "withdraw", MaxRequest: membership.WithdrawalSize, MaxAnswer: 1, Timeout: confirmTimeout,
	}
	RevocationProtocol = Protocol{ // AnswerList
		Name: "revocation", MaxRequest: maxNumbered, MaxAnswer: maxNumbered,
		Timeout: compareTimeout,
	}
)

// Answers are the protocols, and what answers them.
func (r *Roster) Answers() map[Protocol]func(context.Context, *membership.Member, []byte) ([]byte, error) {
	return map[Protocol]func(context.Context, *membership.Member, []byte) ([]byte, error){
		ConfirmProtocol: r.AnswerConfirm, ConfirmedProtocol: r.AnswerConfirmed, UsesProtocol: r.AnswerUses,
		WithdrawProtocol: r.AnswerWithdraw, RotateProtocol: r.AnswerRotate, RevocationProtocol: r.AnswerList,
	}
}

// Neighbour is a member that is connected to this peer.
type Neighbour struct {
	Peer   peerid.ID
	Issuer bool // it can confirm, as its hello says
	Server bool // it keeps a part of the database
}

// Network reaches the members that are connected. It is safe for concurrent use.
type Network interface {
	// Neighbours returns them in no order.
	Neighbours() []Neighbour
	// Ask puts a request, which is borrowed, to a neighbour and returns its
	// answer, which is the caller's. It does not connect to anybody.
	Ask(ctx context.Context, p peerid.ID, pr Protocol, request []byte) (answer []byte, err error)
	// Go runs f in a goroutine that the peer's end waits for; not at all if it
	// has ended. ctx is the peer's life.
	Go(f func(ctx context.Context))
}
