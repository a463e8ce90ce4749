package upkeep

import (
	"context"
	crand "crypto/rand"
	"math/rand/v2"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/directory"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/mesh"
)

const (
	// compareWidth is with how many members the revocation lists are compared at
	// each pulse. A change is flooded; this finds what the flood has missed, and
	// spreads as rumours do: a thousand peers know within three rounds.
	compareWidth = 4
	nearEvery    = 2 * time.Minute // how often servers nearer its own ID are looked for
	// farEvery is how often a walk towards nowhere in particular shows who
	// else is there: a peer that asks nothing would know its neighbours only.
	farEvery = 10 * time.Minute
	// farBelow is up to how many connected members there is one with each
	// pulse that has brought others: in an overlay no larger than that everybody
	// is connected, and a lookup is one round trip.
	farBelow = mesh.ConnsLow / 2
)

// Mesh is the connections to members.
type Mesh interface {
	Members() []mesh.Neighbor
	Member(p peer.ID) (*membership.Member, bool)
	// KeepNearest has the connections to the servers nearest this peer's ID spared;
	// Nearest returns the last ones.
	KeepNearest(ps []peer.ID)
	Nearest() []peer.ID
	// Go runs f unless the mesh was stopped, whose end waits for it.
	Go(f func())
}

// Roster knows who is a member.
type Roster interface {
	// CompareLists learns a member's revocation list and policy if they are newer.
	CompareLists(ctx context.Context, with peerid.ID)
	// TellAge tells how old what is known of who was revoked is.
	TellAge()
	// Renew renews this peer's own membership if it is due.
	Renew(ctx context.Context)
}

// Directory is this peer's part in the database.
type Directory interface {
	// Servers returns the connected members that keep the database.
	Servers() []peer.ID
	// Nearest walks to the servers nearest a key, and so connects to them.
	Nearest(ctx context.Context, key string) []peer.ID
	// ContactsChanged is told that other members than before may pass an offer on.
	ContactsChanged()
	Save()
}

// Config is what an Upkeep works with. All of it is required.
type Config struct {
	Self      peer.ID
	Mesh      Mesh
	Roster    Roster
	Directory Directory
	// Enforce drops what belongs to those who are no members any more.
	Enforce func()
}

// Upkeep is what one peer keeps up. One goroutine may use it.
type Upkeep struct {
	cfg    Config
	nearAt time.Time // when the nearest servers were last looked for
	farAt  time.Time // when others were
	farOf  int       // how many members were connected then
}

// New makes an Upkeep that begins with looking for the nearest servers.
func New(cfg Config) *Upkeep { return &Upkeep{cfg: cfg, farAt: time.Now()} }

// Pulse does what is due. Walks and a renewal may take as long as ctx lasts.
func (u *Upkeep) Pulse(ctx context.Context) {
	u.cfg.Enforce()
	all := u.cfg.Mesh.Members()
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, n := range all[:min(len(all), compareWidth)] {
		u.cfg.Mesh.Go(func() { u.cfg.Roster.CompareLists(ctx, n.ID) })
	}
	u.cfg.Roster.TellAge()
	u.cfg.Roster.Renew(ctx)
	if u.nearDue() {
		u.stayNear(ctx)
	}
	if n := len(all); time.Since(u.farAt) > farEvery || n < farBelow && n != u.farOf {
		u.farAt, u.farOf = time.Now(), n
		u.lookAround(ctx)
	}
	u.cfg.Directory.Save()
}

// nearDue says whether it is time to look for the nearest servers: one is not
// connected any more, or nearer ones may have come.
func (u *Upkeep) nearDue() bool {
	near := u.cfg.Mesh.Nearest()
	for _, p := range near {
		if _, ok := u.cfg.Mesh.Member(p); !ok {
			return true
		}
	}
	return len(near) < min(directory.NearServers, len(u.cfg.Directory.Servers())) || time.Since(u.nearAt) > nearEvery
}

// stayNear connects to the servers nearest this peer's ID, where others look
// for somebody who can pass an offer on.
func (u *Upkeep) stayNear(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, directory.LookupTimeout)
	defer cancel()
	nearest := u.cfg.Directory.Nearest(ctx, string(u.cfg.Self))
	// The walk has connected to them.
	u.cfg.Mesh.KeepNearest(nearest[:min(len(nearest), directory.NearServers)])
	u.nearAt = time.Now()
	if len(nearest) > 0 {
		u.cfg.Directory.ContactsChanged()
	}
}

// lookAround walks towards a key drawn at random: whom it meets fills the
// routing table's other parts.
func (u *Upkeep) lookAround(ctx context.Context) {
	var key [32]byte
	crand.Read(key[:])
	ctx, cancel := context.WithTimeout(ctx, directory.LookupTimeout)
	defer cancel()
	u.cfg.Directory.Nearest(ctx, string(key[:]))
}
