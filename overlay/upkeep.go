package overlay

import (
	"context"
	crand "crypto/rand"
	"math/rand/v2"
	"time"

	"github.com/idloc/idloc/overlay/directory"
	"github.com/idloc/idloc/overlay/mesh"
)

const (
	// compareWidth is with how many members the revocation lists are compared at
	// each pulse. A change is flooded; this finds what the flood has missed, and
	// spreads as rumours do: a thousand peers know within three rounds.
	compareWidth = 4
	// nearServers is how many of the servers nearest its own ID a peer keeps
	// connections to: where others look for it (DESIGN §8).
	nearServers = 3
	nearEvery   = 2 * time.Minute // how often nearer ones are looked for
	// farEvery is how often a walk towards nowhere in particular shows who
	// else is there: a peer that asks nothing would know its neighbours only.
	farEvery = 10 * time.Minute
	// farBelow is up to how many connected members there is one with each
	// pulse that has brought others: in an overlay no larger than that everybody
	// is connected, and a lookup is one round trip.
	farBelow = mesh.ConnsLow / 2
)

// upkeep is what this peer does every mesh.UpkeepEvery. One goroutine calls it.
type upkeep struct {
	o      *Overlay
	nearAt time.Time // when the nearest servers were last looked for
	farAt  time.Time // when others were
	farSaw int       // how many members were connected then
}

func (u *upkeep) pulse() {
	o := u.o
	o.enforce()
	all := o.mesh.Members()
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, n := range all[:min(len(all), compareWidth)] {
		o.mesh.Go(func() { o.roster.CompareLists(o.ctx, n.ID) })
	}
	o.roster.Renew(o.ctx)
	if u.nearDue() {
		u.stayNear()
	}
	if n := len(all); time.Since(u.farAt) > farEvery || n < farBelow && n != u.farSaw {
		u.farAt, u.farSaw = time.Now(), n
		u.lookAround()
	}
	o.directory.Save()
}

// nearDue says whether it is time to look for the nearest servers: one is not
// connected any more, or nearer ones may have come.
func (u *upkeep) nearDue() bool {
	near := u.o.mesh.Nearest()
	for _, p := range near {
		if _, ok := u.o.mesh.Member(p); !ok {
			return true
		}
	}
	return len(near) < min(nearServers, len(u.o.directory.Servers())) || time.Since(u.nearAt) > nearEvery
}

// stayNear connects to the servers nearest this peer's ID, where others look
// for somebody who can pass an offer on.
func (u *upkeep) stayNear() {
	ctx, cancel := context.WithTimeout(u.o.ctx, directory.LookupTimeout)
	defer cancel()
	nearest := u.o.directory.Nearest(ctx, string(u.o.host.ID()))
	// The walk has connected to them.
	u.o.mesh.KeepNearest(nearest[:min(len(nearest), nearServers)])
	u.nearAt = time.Now()
	if len(nearest) > 0 {
		u.o.directory.ContactsChanged()
	}
}

// lookAround walks towards a key drawn at random: whom it meets fills the
// routing table's other parts.
func (u *upkeep) lookAround() {
	var key [32]byte
	crand.Read(key[:])
	ctx, cancel := context.WithTimeout(u.o.ctx, directory.LookupTimeout)
	defer cancel()
	u.o.directory.Nearest(ctx, string(key[:]))
}
