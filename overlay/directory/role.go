package directory

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/idloc/idloc/internal/account"
)

const (
	// ServerAfter is how long a peer must have been up before it becomes a
	// server: one that lives for seconds costs lookups more than it gives.
	ServerAfter = 30 * time.Second
	// FewServers is below which a peer does not wait for a dial-back. They are to be of as
	// many accounts as well (package account), as far as there are peers of so many.
	FewServers = 3
	// TakeOverPatience is how long at least a peer whose connected members include
	// no server leaves it to the first of them to become one; at most three times. Of
	// many members, the first waits half of it: a connection that has ended is made anew
	// in that time if the server has only started again; and all wait three times as long
	// for a server that is heard. For each member above manyMembers the time by which they
	// differ is one TakeOverPatience longer: the others hear of the first that takes over
	// before many more do. An office of two hundred that has lost its only server for
	// moments had fifty servers before, to whom everybody connected at once.
	TakeOverPatience = 2 * time.Second
	// manyMembers are so many that not all are connected to each other: several are the
	// first of those that they see.
	manyMembers = 16
	// roleSpreadMax bounds how long after ServerAfter a peer becomes a server of
	// a large overlay.
	roleSpreadMax = 10 * time.Minute
	// hearsAfter is how long the others take to hear of a new server: one pulse
	// of their upkeep.
	hearsAfter = 20 * time.Second
)

// role is when this peer becomes a server. It is safe for concurrent use.
type role struct {
	started time.Time
	entered atomic.Bool // Enter was called

	mu    sync.Mutex // guards the rest
	draw  float64
	drawn bool
	lost  time.Time // since when members are connected, but no server; zero: not so
}

// lot is this peer's place among those that came with it, drawn once, below one.
func (r *role) lot() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.drawn {
		r.draw, r.drawn = rand.Float64(), true
	}
	return r.draw
}

// after is how long a peer that knows so many others has to be up. An office
// comes at once: all would become servers at the same time, and be found,
// connected to, and given records by each other. So they are spread, that about
// as many as are needed come up in the time that the others take to hear of them.
func (r *role) after(known int) time.Duration {
	spread := hearsAfter * time.Duration(max(0, known-FewServers)) / FewServers
	return ServerAfter + time.Duration(r.lot()*float64(min(spread, roleSpreadMax)))
}

// serverless notes whether there are members and no server, and returns for how
// long.
func (r *role) serverless(now bool) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !now:
		r.lost = time.Time{}
	case r.lost.IsZero():
		r.lost = time.Now()
	default:
		return time.Since(r.lost)
	}
	return 0
}

// DecideRole makes this peer a server of the database when the overlay needs
// it (the package doc says why so). It says whether to ask again soon.
func (d *Directory) DecideRole() (soon bool) {
	up := time.Since(d.role.started) >= ServerAfter
	if d.db.isServer() {
		if up && !d.cfg.Reached() && !d.cfg.DialedBack() {
			d.cfg.AskDialBack() // for whoever looks why nobody gets here
		}
		return false
	}
	if !d.role.entered.Load() {
		return true
	}
	members := d.cfg.Mesh.Neighbors()
	servers := len(d.cfg.servers())
	lost := len(members) > 0 && servers == 0
	since := d.role.serverless(lost)
	turn := time.Since(d.role.started) >= d.role.after(d.cfg.Remembered())
	switch {
	case lost:
		// Nobody keeps the records any more. One of those that see it is enough;
		// a peer that is alone would keep them for nobody.
		if d.leavesIt(members, since) {
			return true
		}
	case turn && len(members) > 0 && (servers < FewServers || d.isAnother()):
	case turn && d.cfg.Reached():
	default:
		if up {
			d.cfg.AskDialBack()
		}
		return false
	}
	d.Serve()
	return false
}

// isAnother says whether the servers that are connected are of few accounts, and not of this
// peer's: as many of one token, or of one delegate's tokens, as there may be are not enough.
func (d *Directory) isAnother() bool {
	var of []account.Account
	for _, p := range d.cfg.servers() {
		a, _ := d.db.account(p)
		of = append(of, a)
	}
	n := account.Several(of, 1)
	return n < FewServers && account.Several(append(of, d.cfg.Roster.OwnAccount()), 1) > n
}

// leavesIt says whether a peer that sees no server since leaves it to others to become
// one, or to the one there was to come back.
func (d *Directory) leavesIt(members []Neighbor, since time.Duration) bool {
	known := d.cfg.Remembered()
	many := known >= manyMembers
	if many && since < 3*TakeOverPatience && d.cfg.ServerHeard() {
		return true
	}
	first := !slices.ContainsFunc(members, func(n Neighbor) bool { return n.ID.Compare(d.cfg.Self) < 0 })
	apart := min(TakeOverPatience*time.Duration(max(0, known-manyMembers)), roleSpreadMax)
	wait := TakeOverPatience
	switch {
	case first && many:
		wait /= 2
	case first:
		return false
	default:
		apart += 2 * TakeOverPatience
	}
	return since < wait+time.Duration(d.role.lot()*float64(apart))
}

// Enter says that this peer has come in. Before, it becomes no server by itself.
func (d *Directory) Enter() { d.role.entered.Store(true) }

// Serve makes this peer a server of the database and says so to all members. It has
// no records yet (Young); they come to it.
func (d *Directory) Serve() { d.serve(time.Now()) }

// ServeNew makes the founder of a new overlay a server: there are no records that
// it could lack.
func (d *Directory) ServeNew() { d.serve(time.Time{}) }

func (d *Directory) serve(since time.Time) {
	d.db.serve(since)
	d.cfg.Mesh.Greet()
	d.publisher.due(holdersDue) // where there is no other, its own name is with this one
}

// Serving says whether this peer keeps a part of the database, and whether it has
// begun so short a time ago that records may be missing in it.
func (d *Directory) Serving() (server, young bool) { return d.db.isServer(), d.db.isYoung() }
