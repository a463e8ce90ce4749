package entry

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/idloc/idloc/internal/leaktest"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/p2p"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

var errInVain = errors.New("in vain")

// door is what a peer enters by: mesh, roster and database in one. It writes down what
// is asked of it.
type door struct {
	log     []string
	reached time.Duration // when a member is; 0: never
	founder bool
	token   error // why a token does not do
	once    bool  // the token does only the first time
	name    error // why a name is not decided
	disk    error // why nothing is saved
	known   []peer.AddrInfo
	sought  []peer.AddrInfo
	ended   error // of the context that the last step had
	waited  time.Duration
	slow    time.Duration // how long others take to decide a name, renew and publish
	placed  time.Duration // how long it takes until somebody has the name
}

func (d *door) did(what string) { d.log = append(d.log, what) }

func (d *door) Given(p []peer.AddrInfo) []peer.AddrInfo { d.did("given"); return p }

func (d *door) Seek(ctx context.Context, known func() []peer.AddrInfo, ready func() error) error {
	begin := time.Now()
	defer func() { d.waited = time.Since(begin) }()
	d.sought = known()
	if err := ready(); err != nil {
		return err
	}
	reached := d.reached
	if reached == 0 {
		reached = 1000 * time.Hour
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(reached):
		d.did("reached")
		return nil
	}
}

func (d *door) Remember()         { d.did("remember") }
func (d *door) SayAlone(now bool) { d.did("alone") }
func (d *door) Wake()             { d.did("wake") }
func (d *door) Founder() bool     { return d.founder }
func (d *door) Keep()             { d.did("keep") }

func (d *door) CheckToken(*membership.Token) error {
	err := d.token
	if d.once {
		d.token = errInVain
	}
	return err
}

func (d *door) SettleName(context.Context, *membership.Token) error {
	time.Sleep(d.slow)
	d.did("name")
	return d.name
}

func (d *door) Renew(ctx context.Context) {
	time.Sleep(d.slow)
	d.did("renew")
	d.ended = ctx.Err()
}

// disk is a door's Roster: its Save is another one than the Mesh's.
type disk struct{ *door }

func (d disk) Save() error { d.did("save"); return d.door.disk }

// addresses is its Mesh.
type addresses struct{ *door }

func (a addresses) Save() { a.did("save addresses") }

func (d *door) entrance(t *testing.T) Entrance {
	return Entrance{
		Mesh: addresses{d}, Roster: disk{d}, Life: t.Context(),
		Known:   func() []peer.AddrInfo { return d.known },
		Publish: func(ctx context.Context) { time.Sleep(d.slow); d.did("publish"); d.ended = ctx.Err() },
		Placed: func(ctx context.Context) bool {
			select {
			case <-ctx.Done():
				return false
			case <-time.After(d.placed):
				d.did("placed")
				return true
			}
		},
		Waits: func(string) {},
		Enter: func() { d.did("enter") },
	}
}

func (d *door) done() string { return strings.Join(d.log, ", ") }

// token is one that names a member, whose ID it returns.
func token(t *testing.T) (*membership.Token, peer.ID) {
	t.Helper()
	root, err := membership.NewRoot("example.com")
	if err != nil {
		t.Fatal(err)
	}
	id := peerid.ID{3}
	tok, err := root.Issuer().Invite(membership.InviteOptions{
		Label: membership.AnyLabel, Addrs: []string{"/ip4/192.0.2.3/udp/4/quic-v1/p2p/" + id.String()},
	}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return tok, p2p.ID(id)
}

func TestFound(t *testing.T) {
	d := &door{}
	if err := d.entrance(t).Found(t.Context()); err != nil || d.done() != "save, enter, publish" {
		t.Errorf("%v, %v", d.log, err)
	}
	d = &door{disk: errInVain}
	if err := d.entrance(t).Found(t.Context()); !errors.Is(err, errInVain) || d.done() != "save" {
		t.Errorf("a disk that takes nothing: %v, %v", d.log, err)
	}
}

// A name is published after it was decided and saved; each step that fails is the end.
func TestJoin(t *testing.T) {
	tok, named := token(t)
	for name, c := range map[string]struct {
		door door
		done string
		err  error
	}{
		"all is well":          {door{reached: time.Minute}, "given, reached, name, save, enter, remember, save addresses, publish, placed", nil},
		"nobody is reached":    {door{}, "given", context.DeadlineExceeded},
		"the token is over":    {door{reached: 1, token: errInVain}, "given", errInVain},
		"the name is anothers": {door{reached: 1, name: errInVain}, "given, reached, name", errInVain},
		"nothing is saved":     {door{reached: 1, disk: errInVain}, "given, reached, name, save", errInVain},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := c.door
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				if err := d.entrance(t).Join(ctx, tok); !errors.Is(err, c.err) || d.done() != c.done {
					t.Errorf("%v, %v", d.log, err)
				}
				if len(d.sought) != 1 || d.sought[0].ID != named {
					t.Errorf("looked for %v", d.sought)
				}
			})
		})
	}
}

// A token that has become worthless while a member was sought is an error though one
// was found.
func TestJoinTooLate(t *testing.T) {
	tok, _ := token(t)
	synctest.Test(t, func(t *testing.T) {
		d := &door{reached: time.Minute, once: true}
		if err := d.entrance(t).Join(t.Context(), tok); !errors.Is(err, errInVain) || d.done() != "given, reached" {
			t.Errorf("%v, %v", d.log, err)
		}
	})
}

// Who enters is in when its name is with somebody. It is as well when the time is over
// before, its caller's or the half minute; only who calls it off is not.
func TestJoinWaitsForTheName(t *testing.T) {
	tok, _ := token(t)
	for name, c := range map[string]struct {
		placed   time.Duration // how long that takes
		deadline time.Duration // its caller's; zero: none
		cancel   bool          // after ten seconds
		waited   time.Duration
		err      error
	}{
		"soon":                {placed: 5 * time.Second, waited: 5 * time.Second},
		"not in time":         {placed: time.Hour, deadline: 10 * time.Second, waited: 10 * time.Second},
		"never":               {placed: time.Hour, waited: placeFor},
		"not, and called off": {placed: time.Hour, cancel: true, waited: 10 * time.Second, err: context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &door{reached: 1, placed: c.placed}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if c.deadline > 0 {
					ctx, cancel = context.WithTimeout(ctx, c.deadline)
					defer cancel()
				}
				if c.cancel {
					time.AfterFunc(10*time.Second, cancel)
				}
				start := time.Now()
				err := d.entrance(t).Join(ctx, tok)
				if took := time.Since(start).Truncate(time.Second); !errors.Is(err, c.err) || took != c.waited {
					t.Errorf("%v after %v, %v", d.log, took, err)
				}
			})
		})
	}
}

// Who comes back waits as long as its caller, or some seconds, and goes on without
// anybody.
func TestRejoin(t *testing.T) {
	const alone, rest = "alone, wake, ", "renew, keep, publish"
	for name, c := range map[string]struct {
		door     door
		deadline time.Duration // 0: none
		waited   time.Duration
		done     string
	}{
		"a member is reached":       {door{reached: time.Second}, time.Hour, time.Second, "reached, " + rest},
		"nobody until the deadline": {door{}, time.Hour, time.Hour, alone + rest},
		"nobody, and no deadline":   {door{}, 0, resumePatience, alone + rest},
		"a founder alone":           {door{founder: true}, 0, founderPatience, alone + rest},
		"a founder, much time":      {door{founder: true}, time.Hour, founderPatience, alone + rest},
		"a founder, little time":    {door{founder: true}, time.Second, time.Second, alone + rest},
		"a founder with a member":   {door{founder: true, reached: 2 * time.Second}, 0, 2 * time.Second, "reached, " + rest},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := c.door
				d.known = []peer.AddrInfo{{ID: "mars"}}
				ctx, cancel := context.WithCancel(t.Context())
				if c.deadline > 0 {
					ctx, cancel = context.WithTimeout(t.Context(), c.deadline)
				}
				defer cancel()
				if err := d.entrance(t).Rejoin(ctx, nil); err != nil || d.done() != "enter, "+c.done || d.waited != c.waited {
					t.Errorf("%v after %v, %v", d.log, d.waited, err)
				}
				if d.ended != nil {
					t.Errorf("the last step has a context that has ended: %v", d.ended)
				}
			})
		})
	}
}

// Only a caller who calls it off ends a resumption: nothing is published then.
func TestRejoinCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &door{known: []peer.AddrInfo{{ID: "mars"}}}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if err := d.entrance(t).Rejoin(ctx, nil); !errors.Is(err, context.Canceled) || d.done() != "enter" || d.waited != time.Second {
			t.Errorf("%v after %v, %v", d.log, d.waited, err)
		}
	})
}

// Who knows nobody looks for nobody, and those that a token names are known beside
// those of before.
func TestRejoinByToken(t *testing.T) {
	tok, named := token(t)
	synctest.Test(t, func(t *testing.T) {
		d := &door{}
		if err := d.entrance(t).Rejoin(t.Context(), nil); err != nil || d.done() != "enter, renew, keep, publish" || d.waited != 0 {
			t.Errorf("%v, %v", d.log, err)
		}
		d = &door{known: []peer.AddrInfo{{ID: "mars"}}, reached: 1}
		if err := d.entrance(t).Rejoin(t.Context(), tok); err != nil {
			t.Error(err)
		}
		var ids []peer.ID
		for _, ai := range d.sought {
			ids = append(ids, ai.ID)
		}
		if !slices.Equal(ids, []peer.ID{"mars", named}) {
			t.Errorf("looked for %v", ids)
		}
	})
}

// A step that lasts says what it waits for, and one that does not says nothing.
func TestWaits(t *testing.T) {
	const ask, renew, put = "the founder or a delegate is asked whether the name is free", "the founder or a delegate is asked to renew the membership",
		"the name is put into the members' database"
	for slow, want := range map[time.Duration]struct{ join, rejoin []string }{
		said / 2: {},
		2 * said: {[]string{ask, put}, []string{renew, put}},
	} {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex // guards waits
			var waits []string
			e := (&door{reached: 1, slow: slow, known: []peer.AddrInfo{{ID: "x"}}}).entrance(t)
			e.Waits = func(why string) {
				mu.Lock()
				defer mu.Unlock()
				waits = append(waits, why)
			}
			wants := func(what string, err error, want []string) {
				t.Helper()
				mu.Lock()
				defer mu.Unlock()
				if err != nil || !slices.Equal(waits, want) {
					t.Errorf("%s, %v: %v, %q", what, slow, err, waits)
				}
				waits = nil
			}
			tok, _ := token(t)
			wants("Join", e.Join(t.Context(), tok), want.join)
			wants("Rejoin", e.Rejoin(t.Context(), nil), want.rejoin)
		})
	}
}
