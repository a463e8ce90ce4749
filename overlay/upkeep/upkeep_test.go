package upkeep

import (
	"context"
	"crypto/sha256"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/idloc/idloc/internal/leaktest"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/directory"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/mesh"
	"github.com/idloc/idloc/overlay/p2p"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// rooms are those that an Upkeep works with.
type rooms struct {
	*Upkeep
	wg sync.WaitGroup

	mu       sync.Mutex // guards the rest
	members  []mesh.Neighbor
	near     []peer.ID // kept
	servers  int
	nearest  []peer.ID // that walks end at
	slow     time.Duration
	order    []string
	compared map[peerid.ID]int
	walks    []string // the keys
	contacts int
}

const self peer.ID = "self"

func newRooms() *rooms {
	r := &rooms{compared: map[peerid.ID]int{}}
	r.Upkeep = New(Config{Self: self, Mesh: r, Roster: r, Directory: roomsDirectory{r}, Enforce: func() { r.did("enforce") }})
	return r
}

func (r *rooms) did(what string) { r.mu.Lock(); defer r.mu.Unlock(); r.order = append(r.order, what) }

func (r *rooms) Members() []mesh.Neighbor {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.members)
}

func (r *rooms) Member(p peer.ID) (*membership.Member, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return nil, slices.ContainsFunc(r.members, func(n mesh.Neighbor) bool { return n.Peer == p })
}

func (r *rooms) KeepNearest(ps []peer.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.near = slices.Clone(ps)
}
func (r *rooms) Nearest() []peer.ID { r.mu.Lock(); defer r.mu.Unlock(); return r.near }
func (r *rooms) Go(f func())        { r.wg.Go(f) }

func (r *rooms) CompareLists(_ context.Context, with peerid.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.compared[with]++
}

func (r *rooms) TellAge()              { r.did("age") }
func (r *rooms) Renew(context.Context) { r.did("renew") }

type roomsDirectory struct{ *rooms }

func (d roomsDirectory) Servers() []peer.ID { return make([]peer.ID, d.servers) }
func (d roomsDirectory) ContactsChanged()   { d.mu.Lock(); defer d.mu.Unlock(); d.contacts++ }
func (d roomsDirectory) Save()              { d.did("save") }

func (d roomsDirectory) Nearest(ctx context.Context, key string) []peer.ID {
	d.mu.Lock()
	d.walks = append(d.walks, key)
	slow, out := d.slow, d.nearest
	d.mu.Unlock()
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(slow):
		return out
	}
}

func neighbor(i int) mesh.Neighbor {
	id := peerid.ID{byte(i), byte(i >> 8), 1}
	return mesh.Neighbor{Peer: p2p.ID(id), ID: id}
}

// connect has n members connected.
func (r *rooms) connect(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.members = nil
	for i := range n {
		r.members = append(r.members, neighbor(i))
	}
}

// pulse is one, and returns the keys of its walks.
func (r *rooms) pulse(t *testing.T) []string {
	t.Helper()
	r.Pulse(t.Context())
	r.wg.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.walks
	r.walks = nil
	return out
}

// own counts the walks to this peer's own ID.
func own(walks []string) (n int) {
	for _, k := range walks {
		if k == string(self) {
			n++
		}
	}
	return n
}

// A pulse first drops who is no member, then asks, and saves last. Each member is
// asked for its list sooner or later, and few at a time.
func TestPulse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRooms()
		r.pulse(t)
		if want := []string{"enforce", "age", "renew", "save"}; !slices.Equal(r.order, want) {
			t.Errorf("%v", r.order)
		}
		if len(r.compared) != 0 {
			t.Errorf("lists compared with %v", r.compared)
		}
		r.connect(3)
		r.pulse(t)
		if len(r.compared) != 3 {
			t.Errorf("of 3 members %d were asked", len(r.compared))
		}
		clear(r.compared)
		r.connect(40)
		r.pulse(t)
		if len(r.compared) != compareWidth {
			t.Errorf("of 40 members %d were asked at a time", len(r.compared))
		}
		for range 400 { // one that is never drawn: 0.9 to the power of 400
			r.pulse(t)
		}
		if len(r.compared) != 40 {
			t.Errorf("of 40 members %d were ever asked", len(r.compared))
		}
	})
}

// The servers nearest this peer are looked for every two minutes, and at once when one
// of them is gone or more are known than are kept.
func TestNearest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRooms()
		r.connect(farBelow) // none is looked for elsewhere
		for i := range 5 {
			r.nearest = append(r.nearest, neighbor(i).Peer)
		}
		r.servers = 5
		if walks := r.pulse(t); own(walks) != 1 || !slices.Equal(r.near, r.nearest[:directory.NearServers]) || r.contacts != 1 {
			t.Errorf("%q; kept %v, told %d times", walks, r.near, r.contacts)
		}
		for range 5 {
			time.Sleep(mesh.UpkeepEvery)
			if walks := r.pulse(t); len(walks) != 0 {
				t.Errorf("walks too soon: %q", walks)
			}
		}
		time.Sleep(2 * mesh.UpkeepEvery)
		if walks := r.pulse(t); own(walks) != 1 {
			t.Errorf("after two minutes: %q", walks)
		}
		r.members = r.members[1:] // the nearest is not connected
		if walks := r.pulse(t); own(walks) != 1 {
			t.Errorf("one is gone: %q", walks)
		}
		r.near = r.nearest[1:3]
		if walks := r.pulse(t); own(walks) != 1 {
			t.Errorf("two are kept: %q", walks)
		}
		r.near, r.servers = r.nearest[1:3], 2
		if walks := r.pulse(t); own(walks) != 0 {
			t.Errorf("all that there are, are kept: %q", walks)
		}
	})
}

// A walk that finds nobody tells nobody that this peer has other contacts.
func TestNobodyIsNear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRooms()
		r.pulse(t)
		if r.contacts != 0 || len(r.near) != 0 {
			t.Errorf("told %d times; kept %v", r.contacts, r.near)
		}
	})
}

// A young peer walks towards random keys as long as that brings members, and later
// every ten minutes; one that knows many only does the latter.
func TestLookAround(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRooms()
		keys := map[string]bool{}
		far := func() int {
			walks := r.pulse(t)
			for _, k := range walks {
				if k != string(self) {
					if keys[k] || len(k) != sha256.Size {
						t.Errorf("a key again, or of %d bytes", len(k))
					}
					keys[k] = true
				}
			}
			return len(walks) - own(walks)
		}
		for i, c := range []struct{ members, walks int }{
			{0, 0}, {1, 1}, {1, 0}, {5, 1}, {5, 0}, {farBelow - 1, 1}, {farBelow, 0}, {100, 0}, {200, 0}, {4, 1},
		} {
			r.connect(c.members)
			if got := far(); got != c.walks {
				t.Errorf("step %d, %d members: %d walks", i, c.members, got)
			}
		}
		r.connect(100)
		time.Sleep(farEvery + time.Second)
		if far() != 1 || far() != 0 {
			t.Error("not one walk in ten minutes")
		}
	})
}

// A walk that does not end is given up, and no pulse outlasts the peer.
func TestWalksEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRooms()
		r.slow = time.Hour
		r.connect(1)
		start := time.Now()
		if walks := r.pulse(t); len(walks) != 2 || time.Since(start) != 2*directory.LookupTimeout {
			t.Errorf("%q after %v", walks, time.Since(start))
		}
		if r.contacts != 0 {
			t.Error("a walk that was given up brought contacts")
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		start = time.Now()
		r.connect(2)
		if r.Pulse(ctx); time.Since(start) != time.Second {
			t.Errorf("the end took %v", time.Since(start))
		}
		r.wg.Wait()
	})
}
