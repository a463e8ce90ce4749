package overlay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/idloc/idloc/internal/logpace"
	"github.com/idloc/idloc/overlay/admission"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/nat"
	"github.com/idloc/idloc/overlay/p2p"
)

const (
	// resumePatience is how long Open waits for a member without a deadline: a few
	// rounds. founderPatience is how long the founder does, who needs nobody, in any
	// case.
	resumePatience  = 10 * time.Second
	founderPatience = 3 * time.Second
)

// Create founds an overlay for a domain, or resumes the one that cfg.State
// holds. The founder needs nobody to be there: it waits for members that it knows
// from before as Open does, but for three seconds at most.
func Create(ctx context.Context, domain string, cfg Config) (*Overlay, error) {
	o, saved, err := prepare(cfg)
	if err != nil {
		return nil, err
	}
	clean, err := membership.CleanDomain(domain)
	if err != nil {
		return nil, err
	}
	if saved != nil {
		if !saved.Founder() || saved.Domain != clean {
			return nil, fmt.Errorf("the state is of %q, which is not an overlay %q founded here", saved.Domain, clean)
		}
		return o.resume(ctx, saved, nil)
	}
	if err := membership.CheckNewDomain(clean); err != nil {
		return nil, err
	}
	if o.roster, err = admission.Found(o.rosterConfig(), domain, cfg.Name); err != nil {
		return nil, err
	}
	if err := o.start(); err != nil {
		return nil, err
	}
	return o.running(o.found(ctx))
}

// Join enters an overlay with a token, or resumes it from cfg.State as Open does,
// in which case the token may have expired. When it returns, this peer's name is
// decided and published. It tries the members that the token names again and again
// until ctx ends, and waits for the clock if that says that the token was not made
// yet. What no time mends ends it at once: a token that has expired or was revoked,
// a name that is another's. The error says who was tried where, and what the last
// reason of each was; it is ctx.Err() if that is what ended it.
func Join(ctx context.Context, token string, cfg Config) (*Overlay, error) {
	t, err := membership.ParseToken(token)
	if err != nil {
		return nil, err
	}
	o, saved, err := prepare(cfg)
	if err != nil {
		return nil, err
	}
	if saved != nil {
		if saved.Overlay() != t.Overlay() {
			return nil, fmt.Errorf("the state is of another overlay, %q", saved.Domain)
		}
		return o.resume(ctx, saved, t)
	}
	if o.roster, err = admission.Enter(o.rosterConfig(), t, cfg.Name); err != nil {
		return nil, err
	}
	if err := o.start(); err != nil {
		return nil, err
	}
	return o.running(o.join(ctx, t))
}

// Open resumes the overlay that cfg.State holds; ErrNoState if there is none. It
// returns as soon as a member is reached. If none is until ctx's deadline, or for
// ten seconds without one, it returns all the same: the peer is up, goes on trying,
// and Alone says why nobody was reached, as do an event and a line in the log. Only
// a ctx that is cancelled is an error.
func Open(ctx context.Context, cfg Config) (*Overlay, error) {
	o, saved, err := prepare(cfg)
	if err != nil {
		return nil, err
	}
	if saved == nil {
		return nil, ErrNoState
	}
	return o.resume(ctx, saved, nil)
}

// prepare checks cfg and loads what is saved.
func prepare(cfg Config) (*Overlay, *admission.Saved, error) {
	if cfg.Socket == nil || cfg.Pipes == nil {
		return nil, nil, errors.New("Config.Socket and Config.Pipes are required")
	}
	pub, err := admission.PeerID(cfg.Key)
	if err != nil {
		return nil, nil, err
	}
	cfg.Logger = logpace.New(cfg.Logger)
	o := &Overlay{cfg: cfg, log: cfg.Logger, self: pub, metrics: prometheus.NewRegistry(), moved: make(chan func(), 1), done: make(chan struct{})}
	if o.ice, err = nat.ParseICEServers(cfg.ICEServers); err != nil {
		return nil, nil, err
	}
	o.ctx, o.cancel = context.WithCancel(context.Background())
	s, err := admission.Load(cfg.State)
	if err != nil {
		return nil, nil, err
	}
	return o, s, nil
}

// found is the rest of Create: the founder's name is put, if only into its
// own part of the database.
func (o *Overlay) found(ctx context.Context) error {
	if err := o.roster.Save(); err != nil {
		return err
	}
	o.directory.Publish(ctx)
	return nil
}

// join is the rest of Join: reach one member, have the name decided, put it.
func (o *Overlay) join(ctx context.Context, t *membership.Token) error {
	known := func() []peer.AddrInfo { return o.mesh.Given(p2p.ParseInfos(t.Addrs())) }
	ready := func() error { return o.roster.CheckToken(t) }
	if err := cmp.Or(o.mesh.Seek(ctx, known, ready), ready()); err != nil {
		return err
	}
	if err := o.roster.SettleName(ctx, t); err != nil {
		return err
	}
	if err := o.roster.Save(); err != nil {
		return err
	}
	// A crash from now on finds the way back.
	o.mesh.Remember()
	o.mesh.Save()
	o.directory.Publish(ctx)
	return nil
}

// resume continues a saved membership. That nobody answers is no error: the
// peer goes on trying, and others may find it.
func (o *Overlay) resume(ctx context.Context, s *admission.Saved, t *membership.Token) (*Overlay, error) {
	var err error
	if o.roster, err = admission.Resume(o.rosterConfig(), s, t); err != nil {
		return nil, err
	}
	o.resumed = true
	if err := o.start(); err != nil {
		return nil, err
	}
	return o.running(o.rejoin(ctx, t))
}

// rejoin looks for a member as long as the caller is willing to wait.
func (o *Overlay) rejoin(ctx context.Context, t *membership.Token) error {
	known := o.peers.AddrInfos
	if t != nil {
		known = func() []peer.AddrInfo { return append(o.peers.AddrInfos(), o.mesh.Given(p2p.ParseInfos(t.Addrs()))...) }
	}
	if len(known()) > 0 {
		wait, cancel := ctx, context.CancelFunc(func() {})
		if o.roster.Founder() {
			wait, cancel = context.WithTimeout(ctx, founderPatience)
		} else if _, ok := ctx.Deadline(); !ok {
			wait, cancel = context.WithTimeout(ctx, resumePatience)
		}
		err := o.mesh.Seek(wait, known, func() error { return nil })
		cancel()
		if errors.Is(ctx.Err(), context.Canceled) {
			return ctx.Err()
		}
		if err != nil {
			o.mesh.SayAlone(true)
			o.mesh.Wake() // the upkeep goes on trying
		}
	}
	if ctx.Err() != nil {
		ctx = o.ctx // the deadline has passed: what follows is for the peer's life
	}
	o.roster.Renew(ctx)
	o.roster.Keep()
	o.directory.Publish(ctx)
	return nil
}

// running returns o, or closes it if the last step of its start failed.
func (o *Overlay) running(err error) (*Overlay, error) {
	if err != nil {
		_ = o.Close()
		return nil, err
	}
	return o, nil
}
