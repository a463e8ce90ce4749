package entry

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/p2p"
)

const (
	// resumePatience is how long Rejoin waits for a member without a deadline: a few
	// rounds. founderPatience is how long the founder does, who needs nobody, in any
	// case.
	resumePatience  = 10 * time.Second
	founderPatience = 3 * time.Second
)

// said is when a step that takes long says what it waits for. That a member is waited
// for the mesh says.
const said = time.Second

// Mesh is the connections to members.
type Mesh interface {
	// Given notes addresses that the user has named, and returns them.
	Given(peers []peer.AddrInfo) []peer.AddrInfo
	// Seek looks for a member among those known until one is reached, ready says that
	// it is in vain, or ctx ends.
	Seek(ctx context.Context, known func() []peer.AddrInfo, ready func() error) error
	// Remember notes who is connected, for the next start, and Save writes it.
	Remember()
	Save()
	// SayAlone says that nobody is reached, at once or when that has lasted.
	SayAlone(atOnce bool)
	// Wake runs the upkeep soon.
	Wake()
}

// Roster knows who is a member.
type Roster interface {
	Founder() bool
	CheckToken(t *membership.Token) error
	SettleName(ctx context.Context, t *membership.Token) error
	Save() error
	Renew(ctx context.Context)
	Keep()
}

// Entrance is one peer that enters an overlay. All of it is required.
type Entrance struct {
	Mesh   Mesh
	Roster Roster
	// Known are the members that are remembered.
	Known func() []peer.AddrInfo
	// Enter says that this peer has come in: from then on it may keep records for others.
	Enter func()
	// Publish puts this peer's name, once. Placed waits until whoever asks for it finds
	// it, and says whether ctx has not ended before.
	Publish func(ctx context.Context)
	Placed  func(ctx context.Context) bool
	// Life is that of the peer.
	Life context.Context
	// Waits hears what is waited for, once that has lasted.
	Waits func(why string)
}

// step does what may take long, and has it said if it does.
func (e Entrance) step(why string, do func()) {
	waiting := time.AfterFunc(said, func() { e.Waits(why) })
	defer waiting.Stop()
	do()
}

// Found is the rest of founding: the founder's name is put, if only into its
// own part of the database.
func (e Entrance) Found(ctx context.Context) error {
	if err := e.Roster.Save(); err != nil {
		return err
	}
	e.Enter()
	e.Publish(ctx)
	return nil
}

// Join reaches one member of those that a token names, has the name decided and puts
// it. On a busy machine no server may take the name the first time: who dials it then is
// told that there is none. So it is put until one has it, for half a minute at the most:
// where the only servers are such that take nothing, Join must not hang for that. That
// this or the deadline passes meanwhile is no error: the peer is in, the token may be used
// up, and the name is still put. One is that ctx was cancelled.
func (e Entrance) Join(ctx context.Context, t *membership.Token) error {
	known := func() []peer.AddrInfo { return e.named(t) }
	ready := func() error { return e.Roster.CheckToken(t) }
	if err := cmp.Or(e.Mesh.Seek(ctx, known, ready), ready()); errors.Is(err, membership.ErrUsed) {
		return membership.ErrUsed // whoever says so is right: it would be a waste to name all that were asked
	} else if err != nil {
		return err
	}
	var err error
	e.step("the founder or a delegate is asked whether the name is free", func() { err = e.Roster.SettleName(ctx, t) })
	if err != nil {
		return err
	}
	if err := e.Roster.Save(); err != nil {
		return err
	}
	e.Enter()
	// A crash from now on finds the way back.
	e.Mesh.Remember()
	e.Mesh.Save()
	placed := false
	e.step(putting, func() {
		e.Publish(ctx)
		within, stop := context.WithTimeout(ctx, placeFor)
		defer stop()
		placed = e.Placed(within)
	})
	if !placed && errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	return nil
}

// placeFor is how long a peer that is in waits for a server that takes its name.
const placeFor = 30 * time.Second

// putting is a step.
const putting = "the name is put into the members' database"

// named are the members that a token names.
func (e Entrance) named(t *membership.Token) []peer.AddrInfo {
	return e.Mesh.Given(p2p.ParseInfos(t.Addrs()))
}

// Rejoin looks for a member as long as the caller is willing to wait, with a token
// also among those that it names; nil is none. That nobody answers is no error: the
// peer goes on trying, and others may find it. One is only that ctx was cancelled.
func (e Entrance) Rejoin(ctx context.Context, t *membership.Token) error {
	e.Enter() // with the first member that is reached, as before
	known := e.Known
	if t != nil {
		known = func() []peer.AddrInfo { return append(e.Known(), e.named(t)...) }
	}
	if len(known()) > 0 {
		wait, cancel := ctx, context.CancelFunc(func() {})
		if e.Roster.Founder() {
			wait, cancel = context.WithTimeout(ctx, founderPatience)
		} else if _, ok := ctx.Deadline(); !ok {
			wait, cancel = context.WithTimeout(ctx, resumePatience)
		}
		err := e.Mesh.Seek(wait, known, func() error { return nil })
		cancel()
		if errors.Is(ctx.Err(), context.Canceled) {
			return ctx.Err()
		}
		if err != nil {
			e.Mesh.SayAlone(true)
			e.Mesh.Wake() // the upkeep goes on trying
		}
	}
	if ctx.Err() != nil {
		ctx = e.Life // the deadline has passed: what follows is for the peer's life
	}
	e.step("the founder or a delegate is asked to renew the membership", func() { e.Roster.Renew(ctx) })
	e.Roster.Keep()
	e.step(putting, func() { e.Publish(ctx) })
	return nil
}
