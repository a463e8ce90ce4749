package overlay

import (
	"context"
	"errors"
	"fmt"

	"github.com/idloc/idloc/internal/logpace"
	"github.com/idloc/idloc/overlay/admission"
	"github.com/idloc/idloc/overlay/entry"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/nat"
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
	if err := o.start(false); err != nil {
		return nil, err
	}
	return o.running(o.entrance().Found(ctx))
}

// Join enters an overlay with a token, or resumes it from cfg.State as Open does,
// in which case the token may have expired. When it returns, this peer's name is
// decided and published: a server of the database has it. Only if ctx's deadline or half
// a minute passes while it is put that goes on afterwards. Join tries the members that the token names
// again and again until ctx ends, and waits for the clock if that says that the token was
// not made yet. What no time mends ends it at once: a token that has expired or was
// revoked, a name that is another's. The error says who was tried where, and what the
// last reason of each was; it is ctx.Err() if that is what ended it.
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
	if err := o.start(false); err != nil {
		return nil, err
	}
	return o.running(o.entrance().Join(ctx, t))
}

// Open resumes the overlay that cfg.State holds; ErrNoState if there is none. It
// returns as soon as a member is reached. If none is until ctx's deadline, or for
// ten seconds without one, or for three at a founder, who needs nobody, it returns
// all the same: the peer is up, goes on trying,
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
	if _, err := admission.PeerID(cfg.Key); err != nil {
		return nil, nil, err
	}
	cfg.Logger = logpace.New(cfg.Logger)
	var err error
	if cfg.servers, err = nat.ParseICEServers(cfg.ICEServers); err != nil {
		return nil, nil, err
	}
	s, err := admission.Load(cfg.State)
	if err != nil {
		return nil, nil, err
	}
	return &Overlay{cfg: cfg, life: newLife()}, s, nil
}

// resume continues a saved membership. That nobody answers is no error: the
// peer goes on trying, and others may find it.
func (o *Overlay) resume(ctx context.Context, s *admission.Saved, t *membership.Token) (*Overlay, error) {
	var err error
	if o.roster, err = admission.Resume(o.rosterConfig(), s, t); err != nil {
		return nil, err
	}
	if err := o.start(true); err != nil {
		return nil, err
	}
	return o.running(o.entrance().Rejoin(ctx, t))
}

func (o *Overlay) entrance() entry.Entrance {
	return entry.Entrance{
		Mesh: o.mesh, Roster: o.roster, Known: o.mesh.Known().AddrInfos, Enter: o.directory.Enter, Publish: o.directory.Publish, Placed: o.directory.Placed, Life: o.life.ctx,
		Waits: func(why string) { o.cfg.Logger.Info("waiting", "why", why) },
	}
}

// running returns o, or closes it if the last step of its start failed.
func (o *Overlay) running(err error) (*Overlay, error) {
	if err != nil {
		_ = o.Close()
		return nil, err
	}
	return o, nil
}
