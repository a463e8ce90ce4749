package roaming

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/idloc/idloc/internal/pause"
	"github.com/idloc/idloc/internal/pipe"
)

const (
	// settleLook is the pause between two looks whether a member is connected.
	settleLook = 20 * time.Millisecond
	// measurements is how often mapped addresses are asked for until one is known: the
	// first question may have gone to somebody who is out of reach now.
	measurements = 2
)

// Pipes are this peer's pipes.
type Pipes interface {
	Pipes() []*pipe.Pipe
	// AddLocal has pipes challenged from a new socket, RemoveLocal takes one away.
	AddLocal(pipe.Sender)
	RemoveLocal(pipe.Sender)
	// Doubt has each pipe ask whether its path still works.
	Doubt()
}

// Mesh is the connections to members.
type Mesh interface {
	// HangUp closes the connections from local addresses that are gone, and
	// ForgetReached forgets what was found out with those. They are as netip.AddrPort
	// writes them.
	HangUp(gone map[string]bool)
	ForgetReached(gone map[string]bool)
	// Listen takes up new sockets and gives up those that are gone.
	Listen(added, gone []netip.AddrPort)
	// SuspectAll asks every member whether its connection lives.
	SuspectAll()
	// Back says whether a member is connected, having tried to reach one.
	Back(ctx context.Context) bool
	// Wake runs the upkeep soon.
	Wake()
}

// Mapped are the addresses of the sockets as others see them.
type Mapped interface {
	// Remeasure has them asked for anew; the channel is closed when that is done.
	Remeasure() <-chan struct{}
	Known() bool
}

// Establisher makes pipes.
type Establisher interface {
	// NetworkChanging has offers wait until settled is called.
	NetworkChanging() (settled func())
	// Renew looks for new paths for pipes, and returns when it has been begun for all.
	Renew(ctx context.Context, pipes []*pipe.Pipe)
}

// Config is what a Follower works with. All of it is required.
type Config struct {
	// Sockets returns the port's sockets, which are comparable.
	Sockets     func() []pipe.Sender
	Pipes       Pipes
	Mesh        Mesh
	Mapped      Mapped
	Establisher Establisher
	// Moved tells others of the change whose sockets are their own, and Changed those
	// who tell others where this peer is.
	Moved, Changed func()
}

// Follower does what follows from changes of the network. It is safe for concurrent
// use.
type Follower struct {
	cfg     Config
	changes chan func()          // one that nobody has looked at; called when the network has settled
	have    map[pipe.Sender]bool // of Run
}

// New makes a Follower of a peer that works with the sockets in use.
func New(cfg Config, inUse []pipe.Sender) *Follower {
	f := &Follower{cfg: cfg, changes: make(chan func(), 1), have: map[pipe.Sender]bool{}}
	for _, s := range inUse {
		f.have[s] = true
	}
	return f
}

// NetworkChanged tells that the port's sockets are others than before. It returns at
// once.
func (f *Follower) NetworkChanged() {
	settled := f.cfg.Establisher.NetworkChanging()
	select {
	case f.changes <- settled:
	default:
		settled() // one that nobody has looked at yet is enough
	}
}

// Run does what NetworkChanged asks for, until ctx ends and what it has begun is over.
func (f *Follower) Run(ctx context.Context) {
	var settling sync.WaitGroup
	defer settling.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case settled := <-f.changes:
			pipes := f.follow()
			settling.Go(func() { f.settle(ctx, pipes, settled) })
			f.cfg.Changed()
			f.cfg.Mesh.Wake()
		}
	}
}

// follow moves everything to the sockets that there are now, and returns the pipes
// that were up before.
func (f *Follower) follow() (pipes []*pipe.Pipe) {
	for _, p := range f.cfg.Pipes.Pipes() {
		if p.Err() == nil {
			pipes = append(pipes, p)
		}
	}
	now := map[pipe.Sender]bool{}
	var added, gone []netip.AddrPort
	for _, s := range f.cfg.Sockets() {
		now[s] = true
		if !f.have[s] {
			added = append(added, s.LocalAddr())
			f.cfg.Pipes.AddLocal(s)
		}
	}
	dead := map[string]bool{}
	for s := range f.have {
		if !now[s] {
			gone = append(gone, s.LocalAddr())
			dead[s.LocalAddr().String()] = true
			f.cfg.Pipes.RemoveLocal(s)
		}
	}
	f.have = now
	f.cfg.Pipes.Doubt()
	f.cfg.Mesh.HangUp(dead)
	f.cfg.Mesh.ForgetReached(dead)
	f.cfg.Mesh.Listen(added, gone)
	f.cfg.Moved()
	f.cfg.Mesh.SuspectAll()
	return pipes
}

// settle finds members and mapped addresses after a change, and then new paths for
// the pipes that were up before it. settled is called when offers need wait no longer.
func (f *Follower) settle(ctx context.Context, pipes []*pipe.Pipe, settled func()) {
	defer settled()
	measured := f.cfg.Mapped.Remeasure() // by those remembered, if nobody is connected
	for !f.cfg.Mesh.Back(ctx) {
		if !pause.For(ctx, settleLook) {
			return
		}
	}
	for range measurements {
		select {
		case <-measured:
		case <-ctx.Done():
			return
		}
		if f.cfg.Mapped.Known() {
			break
		}
		measured = f.cfg.Mapped.Remeasure()
	}
	settled()
	f.cfg.Establisher.Renew(ctx, pipes)
}
