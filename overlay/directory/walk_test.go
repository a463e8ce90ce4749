package directory

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	kb "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/pause"
)

// strata are servers without a network: they answer, in groups, when all of a
// group have been asked; one of them has the record.
type strata struct {
	groups []int // sizes
	has    peer.ID
	value  []byte

	mu    sync.Mutex // guards what follows
	asked []peer.ID
	open  map[int]chan struct{} // closed when all of a group were asked
	busy  int
	most  int // that were asked at the same time
}

func (s *strata) ask(ctx context.Context, p peer.ID, key string) reply {
	s.mu.Lock()
	s.asked = append(s.asked, p)
	s.busy++
	s.most = max(s.most, s.busy)
	group, last := 0, s.groups[0]
	for len(s.asked) > last && group < len(s.groups)-1 {
		group++
		last += s.groups[group]
	}
	open := s.open[group]
	if open == nil {
		open = make(chan struct{})
		s.open[group] = open
	}
	if len(s.asked) == last {
		close(open)
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.busy--
		s.mu.Unlock()
	}()
	select {
	case <-open:
	case <-ctx.Done():
		return reply{err: fmt.Errorf("left alone in group %d: %w", group, ctx.Err())}
	}
	if p == s.has {
		return reply{value: s.value}
	}
	return reply{}
}

func (s *strata) young(peer.ID) bool { return false }

func (s *strata) connected(peer.ID) bool { return true }

func (s *strata) revoked(peer.ID) bool { return false }

func (s *strata) account(peer.ID) (account.Account, bool) { return account.Account{}, true }

func (s *strata) learn(peer.ID, *peer.AddrInfo) {}

// A read asks four servers at a time, eight once as many as should have the
// record had none, and no more than 32; a record that only a far one has is
// found. A put asks the eight nearest.
func TestWalkDepth(t *testing.T) {
	t.Parallel()
	const key = "a key"
	peers := ranked(key, 49)
	me, servers := peers[48], peers[:48]
	for _, tt := range []struct {
		what   string
		has    int // the rank of the one that has it
		groups []int
		read   bool
		found  bool
	}{
		{"a name that nobody has", 40, []int{4, 4, 8, 8, 8}, true, false},
		{"a name that one far server has", 30, []int{4, 4, 8, 8, 8}, true, true},
		{"where to put", 40, []int{4, 4}, false, false},
	} {
		s := &strata{groups: tt.groups, has: servers[tt.has], value: []byte("the record"), open: map[int]chan struct{}{}}
		w := newWalker(s, me, all{}, key, replicas, nil)
		if tt.read {
			w = newWalker(s, me, all{}, key, depth, func(found) bool { return false })
		}
		w.offer(servers...)
		res := w.run(t.Context())
		want := slices.Sorted(slices.Values(servers[:w.depth]))
		slices.Sort(s.asked)
		if !slices.Equal(s.asked, want) {
			t.Errorf("%s: asked %d, not the %d nearest", tt.what, len(s.asked), len(want))
		}
		if most := slices.Max(tt.groups); s.most != most {
			t.Errorf("%s: %d at a time, want %d", tt.what, s.most, most)
		}
		if got := len(res.found) > 0; got != tt.found || got && res.found[0].from != s.has {
			t.Errorf("%s: found %v", tt.what, res.found)
		}
		if !tt.found && (!res.complete() || res.answered != w.depth) {
			t.Errorf("%s: %d answered, complete %v", tt.what, res.answered, res.complete())
		}
	}
}

// pretended are servers without a network, which know nobody else.
type pretended struct {
	late  map[peer.ID]time.Duration // how long they think; negative: for ever
	value map[peer.ID][]byte        // the record of those that have it
	new   map[peer.ID]bool
	out   map[peer.ID]bool // revoked
	// dialled are those that are not connected.
	dialled map[peer.ID]bool
	// accounts are those of whom not only themselves are charged.
	accounts map[peer.ID]account.Account
	// names are the servers that one names.
	names map[peer.ID][]peer.ID
	// revoke are those that are revoked while they are asked.
	revoke map[peer.ID]bool

	mu    sync.Mutex // guards asked, and what revoke adds to out
	asked map[peer.ID]bool
}

func (s *pretended) ask(ctx context.Context, p peer.ID, _ string) reply {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	s.mu.Lock()
	if s.asked == nil {
		s.asked = map[peer.ID]bool{}
	}
	s.asked[p] = true
	revoked := s.revoke[p]
	s.mu.Unlock()
	if revoked {
		pause.For(ctx, time.Second)
		s.mu.Lock()
		s.out[p] = true
		s.mu.Unlock()
	}
	if d := s.late[p]; d != 0 {
		if d < 0 {
			d = time.Hour
		}
		if !pause.For(ctx, d) {
			return reply{err: ctx.Err()}
		}
	}
	var closer []*peer.AddrInfo
	for _, q := range s.names[p] {
		closer = append(closer, &peer.AddrInfo{ID: q, Addrs: []ma.Multiaddr{ma.StringCast("/ip4/192.0.2.1/udp/1/quic-v1")}})
	}
	return reply{value: s.value[p], closer: closer}
}

func (s *pretended) young(p peer.ID) bool { return s.new[p] }

func (s *pretended) connected(p peer.ID) bool { return !s.dialled[p] }

func (s *pretended) revoked(p peer.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out[p]
}

func (s *pretended) account(p peer.ID) (account.Account, bool) {
	a, known := s.accounts[p]
	return a, known || s.accounts == nil
}

func (s *pretended) learn(peer.ID, *peer.AddrInfo) {}

// all takes every record for valid.
type all struct{}

func (all) Validate(string, []byte) error        { return nil }
func (all) Select(string, [][]byte) (int, error) { return 0, errors.New("not to be asked") }

// ranked makes peers up and sorts them by their distance from a key.
func ranked(key string, n int) []peer.ID {
	target := kb.ConvertKey(key)
	out := make([]peer.ID, n)
	for i := range out {
		h := sha256.Sum256(fmt.Append(nil, "server ", i))
		out[i] = peer.ID(h[:])
	}
	slices.SortFunc(out, func(a, b peer.ID) int {
		return bytes.Compare(distance(kb.ConvertPeerID(a), target), distance(kb.ConvertPeerID(b), target))
	})
	return out
}

// TestWalkComplete: "no such record" is believed if twice as many of the nearest
// have answered as have not, whatever those farther away say.
func TestWalkComplete(t *testing.T) {
	const key, far = "a key", 24
	for _, tt := range []struct {
		what    string
		servers int   // others, by their distance from the key
		silent  []int // which of them
		young   []int // which of them
		self    int   // this peer's own place among all; -1: it is no server
		want    bool
	}{
		{"nobody", 0, nil, nil, -1, false},
		{"this peer alone", 0, nil, nil, 0, true},
		{"one", 1, nil, nil, -1, true},
		{"one of two", 2, []int{0}, nil, -1, false},
		{"two of three", 3, []int{1}, nil, -1, true},
		{"two of three, this peer among them", 2, []int{1}, nil, 0, true},
		{"this peer of two", 1, []int{0}, nil, 1, false},
		{"all near", far, nil, nil, -1, true},
		{"six of the nearest eight", far, []int{0, 7}, nil, -1, true},
		{"five of the nearest eight", far, []int{0, 1, 7}, nil, -1, false},
		{"six of the nearest eight, this peer among them", far, []int{0, 6}, nil, 3, true},
		{"five of the nearest eight, this peer farther away", far, []int{0, 1, 7}, nil, 12, false},
		{"five of the nearest eight, this peer among them", far, []int{0, 1, 6}, nil, 3, false},
		{"none but the far", far, []int{0, 1, 2, 3, 4, 5, 6, 7}, nil, -1, false},
		{"all but some of the far", far, []int{8, 9, 10, 20}, nil, -1, true},
		{"the only one is young", 1, nil, []int{0}, -1, false},
		{"all are young", far, nil, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23}, -1, false},
		{"one beside a young one", 2, nil, []int{0}, -1, true},
		{"a silent one beside a young one", 2, []int{1}, []int{0}, -1, false},
		{"six of the nearest eight that are not young", far, []int{0, 9}, []int{1, 2, 3}, -1, true},
		{"five of the nearest eight that are not young", far, []int{0, 9, 10}, []int{1, 2, 3}, -1, false},
	} {
		t.Run(tt.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peers := ranked(key, tt.servers+1)
				me := peers[max(tt.self, 0)]
				others := slices.Delete(slices.Clone(peers), max(tt.self, 0), max(tt.self, 0)+1)
				s := &pretended{late: map[peer.ID]time.Duration{}, new: map[peer.ID]bool{}}
				for _, i := range tt.silent {
					s.late[others[i]] = -1
				}
				for _, i := range tt.young {
					s.new[others[i]] = true
				}
				w := newWalker(s, me, all{}, key, depth, func(found) bool { return true })
				if tt.self >= 0 {
					w.answerSelf(nil, false)
				}
				w.offer(others...)
				if r := w.run(t.Context()); r.complete() != tt.want {
					t.Errorf("complete %v: %d heard, %d silent", r.complete(), r.heard, r.silent)
				}
			})
		})
	}
}

// TestWalkPut: who puts a record does not wait for servers that are still dialled, if
// all that are connected have answered and are no fewer; who reads, or looks for whom
// to ask, waits, and so does who would put it in fewer places than it leaves out.
func TestWalkPut(t *testing.T) {
	const key = "a key"
	for _, tt := range []struct {
		what      string
		servers   int
		silent    []int // which of them, by their distance from the key
		connected []int // of the silent ones
		put       bool
		want      time.Duration
	}{
		{"one of two", 2, []int{0}, nil, true, askPatience},
		{"one of two, which is connected", 2, []int{0}, []int{0}, true, askTimeout},
		{"one of three", 3, []int{0, 1}, nil, true, askTimeout},
		{"two of four", 4, []int{1, 3}, nil, true, askPatience},
		{"two of four, one of them connected", 4, []int{1, 3}, []int{3}, true, askTimeout},
		{"none", 2, []int{0, 1}, nil, true, askTimeout},
		{"one of two to ask", 2, []int{0}, nil, false, askTimeout},
	} {
		t.Run(tt.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peers := ranked(key, tt.servers+1)
				s := &pretended{late: map[peer.ID]time.Duration{}, dialled: map[peer.ID]bool{}}
				for _, i := range tt.silent {
					s.late[peers[i]] = -1
					s.dialled[peers[i]] = !slices.Contains(tt.connected, i)
				}
				w := newWalker(s, peers[tt.servers], all{}, key, replicas, nil)
				w.spread = tt.put
				w.offer(peers[:tt.servers]...)
				start := time.Now()
				r := w.run(t.Context())
				if took := time.Since(start); took != tt.want || len(r.nearest) != tt.servers-len(tt.silent) {
					t.Errorf("%d nearest after %v, want %d after %v", len(r.nearest), took, tt.servers-len(tt.silent), tt.want)
				}
			})
		})
	}
}

// TestWalkRevoked: a server whose membership was taken back is not asked, is not
// one of those that have not answered, and what it says does not count: neither if
// that was before the walk nor if it is while it is asked.
func TestWalkRevoked(t *testing.T) {
	const key = "a key"
	for _, tt := range []struct {
		what    string
		servers int
		before  []int // revoked before the walk
		during  []int // while they are asked
		silent  []int
		heard   int
		want    bool
	}{
		{"the only other", 1, []int{0}, nil, []int{0}, 1, true},
		{"the only other, while it is asked", 1, nil, []int{0}, []int{0}, 1, true},
		{"the only other, which answers", 1, nil, []int{0}, nil, 1, true},
		{"four of the nearest eight", 24, []int{0, 2, 4, 6}, nil, []int{0, 2, 4, 6}, 8, true},
		{"four of the nearest eight, while they are asked", 24, nil, []int{0, 2, 4, 6}, []int{0, 2, 4, 6}, 8, true},
		{"some, and some are silent", 24, []int{0}, []int{1}, []int{0, 1, 2, 3, 4}, 5, false},
	} {
		t.Run(tt.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peers := ranked(key, tt.servers+1)
				me, others := peers[tt.servers], peers[:tt.servers]
				s := &pretended{late: map[peer.ID]time.Duration{}, out: map[peer.ID]bool{}, revoke: map[peer.ID]bool{}, value: map[peer.ID][]byte{}}
				for _, i := range tt.silent {
					s.late[others[i]] = -1
				}
				for _, i := range tt.before {
					s.out[others[i]] = true
					s.value[others[i]] = []byte("a lie")
				}
				for _, i := range tt.during {
					s.revoke[others[i]] = true
					s.value[others[i]] = []byte("a lie")
				}
				w := newWalker(s, me, all{}, key, depth, func(found) bool { return true })
				w.answerSelf(nil, false)
				w.offer(others...)
				start := time.Now()
				r := w.run(t.Context())
				if r.complete() != tt.want || tt.want && r.heard != tt.heard || r.answered > 1+tt.servers-len(tt.before)-len(tt.during) {
					t.Errorf("complete %v: %d heard, %d silent, %d answered", r.complete(), r.heard, r.silent, r.answered)
				}
				if len(r.found) > 0 {
					t.Errorf("found %v", r.found)
				}
				for _, i := range tt.before {
					if s.asked[others[i]] {
						t.Errorf("server %d is asked", i)
					}
				}
				for _, p := range r.nearest {
					if s.out[p] {
						t.Error("it is one of the nearest")
					}
				}
				if len(tt.during) == 0 && tt.want && time.Since(start) > 0 {
					t.Errorf("waited for it: %v", time.Since(start))
				}
			})
		})
	}
}

// TestGroundServers is the attack: of 60 servers 20 are keys of two tokens, ground until
// they are the nearest to a name's key; they take records, and say that there are none.
// Every name is found. Keys that can be ground are told from others by their invitation,
// which cannot.
func TestGroundServers(t *testing.T) {
	t.Parallel()
	ground(t, func(i int) account.Account { return account.Account{Invitation: fmt.Sprint("token ", i%2)} })
}

// TestGroundServersOfOneDelegate: the same with tokens that one delegate has written, one
// for each key.
func TestGroundServersOfOneDelegate(t *testing.T) {
	t.Parallel()
	ground(t, func(i int) account.Account {
		return account.Account{Invitation: fmt.Sprint("token ", i), Delegate: "a delegate"}
	})
}

func ground(t *testing.T, hostileOf func(i int) account.Account) {
	names := 1000
	if testing.Short() {
		names = 100
	}
	lost := 0
	for n := range names {
		key := fmt.Sprint("name ", n)
		pool := ranked(key, 600) // of which an attacker takes those that suit it
		me, servers := pool[599], slices.Clone(pool[:20])
		s := &pretended{accounts: map[peer.ID]account.Account{}, value: map[peer.ID][]byte{}}
		hostile := map[peer.ID]bool{}
		for i, p := range servers {
			hostile[p], s.accounts[p] = true, hostileOf(i)
		}
		for i := range 40 {
			p := pool[20+14*i]
			servers, s.accounts[p] = append(servers, p), account.Account{Invitation: fmt.Sprint("honest ", i)}
		}
		put := newWalker(s, me, all{}, key, replicas, nil)
		put.spread = true
		put.offer(servers...)
		for _, p := range put.run(t.Context()).nearest {
			if !hostile[p] {
				s.value[p] = []byte("the record")
			}
		}
		if len(s.value) < replicas-2*perAccount {
			t.Fatalf("%s: %d honest servers have the record", key, len(s.value))
		}
		read := newWalker(s, me, all{}, key, depth, func(found) bool { return false })
		read.offer(servers...)
		if len(read.run(t.Context()).found) == 0 {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%d of %d names are hidden", lost, names)
	}
}

// TestThousandServersOfOneToken is the attack: a thousand keys of one token, or of one
// delegate's tokens, say that they are servers; they take records, and say that there are none.
// Beside them are 20 servers, each of a token of its own. All are known to who puts a record and
// to who reads it, who each miss some of the 20. Every name is found.
func TestThousandServersOfOneToken(t *testing.T) {
	t.Parallel()
	names := 200
	if testing.Short() {
		names = 20
	}
	for what, hostileOf := range map[string]func(i int) account.Account{
		"token": func(int) account.Account { return account.Account{Invitation: "a token"} },
		"delegate": func(i int) account.Account {
			return account.Account{Invitation: fmt.Sprint("token ", i), Delegate: "a delegate"}
		},
	} {
		lost, most := 0, 0
		for n := range names {
			key := fmt.Sprint("name ", n)
			pool := ranked(key, 1021)
			r := rand.New(rand.NewPCG(uint64(n), 18))
			r.Shuffle(len(pool), func(i, j int) { pool[i], pool[j] = pool[j], pool[i] })
			me, honest, hostile := pool[0], pool[1:21], pool[21:]
			s := &pretended{accounts: map[peer.ID]account.Account{}, value: map[peer.ID][]byte{}}
			bad := map[peer.ID]bool{}
			for i, p := range hostile {
				bad[p], s.accounts[p] = true, hostileOf(i)
			}
			for i, p := range honest {
				s.accounts[p] = account.Account{Invitation: fmt.Sprint("honest ", i)}
			}
			put := newWalker(s, me, all{}, key, replicas, nil)
			put.spread = true
			put.begin(slices.Concat(hostile, honest[:16]))
			for _, p := range put.run(t.Context()).nearest {
				if !bad[p] {
					s.value[p] = []byte("the record")
				}
			}
			s.asked = nil
			read := newWalker(s, me, all{}, key, depth, func(found) bool { return false })
			read.begin(slices.Concat(hostile, honest[4:]))
			if len(read.run(t.Context()).found) == 0 {
				lost++
			}
			most = max(most, len(s.asked))
		}
		if lost > 0 {
			t.Errorf("one %s: %d of %d names are hidden", what, lost, names)
		}
		if most > depth+replicas {
			t.Errorf("one %s: %d servers are asked", what, most)
		}
	}
}

// TestServersThatDoNotExist is the attack: three of eleven servers name twenty others each, all
// nearer to a name's key than any server, which do not exist. A read waits for none of them.
func TestServersThatDoNotExist(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const key = "a name"
		pool := ranked(key, 100)
		me, made, servers := pool[99], pool[:60], pool[80:91]
		s := &pretended{accounts: map[peer.ID]account.Account{}, late: map[peer.ID]time.Duration{}, dialled: map[peer.ID]bool{},
			value: map[peer.ID][]byte{}, names: map[peer.ID][]peer.ID{}}
		for _, p := range made {
			s.late[p], s.dialled[p] = -1, true
		}
		for i, p := range servers {
			s.accounts[p] = account.Account{Invitation: fmt.Sprint(max(2, i))} // the nearest three are of one token
			s.late[p] = 50 * time.Millisecond
			if i < 3 {
				s.names[p] = made[20*i : 20*i+20]
			}
		}
		s.value[servers[10]] = []byte("the record")
		w := newWalker(s, me, all{}, key, depth, func(found) bool { return false })
		w.begin(servers)
		start := time.Now()
		if r := w.run(t.Context()); len(r.found) != 1 || time.Since(start) > time.Second {
			t.Errorf("found %d after %v", len(r.found), time.Since(start))
		}
	})
}

// TestToldByOneToken is the attack: servers of one token name so many others that no other
// candidate has room. The nearest of those that they name are candidates, as many as their
// share is; what others name comes in.
func TestToldByOneToken(t *testing.T) {
	t.Parallel()
	const key = "a key"
	pool := ranked(key, 1000)
	s := &pretended{accounts: map[peer.ID]account.Account{}}
	w := newWalker(s, pool[999], all{}, key, depth, func(found) bool { return true })
	r := rand.New(rand.NewPCG(1, 18))
	far := slices.Clone(pool[:900])
	r.Shuffle(len(far), func(i, j int) { far[i], far[j] = far[j], far[i] })
	liars := account.Account{Invitation: "a token", Delegate: "a delegate"}
	for _, p := range far {
		w.add(&candidate{peer: p, told: true, by: liars})
	}
	if len(w.list) != toldShare || w.list[toldShare-1].peer != pool[toldShare-1] {
		t.Errorf("%d candidates, not the nearest", len(w.list))
	}
	for _, c := range w.list {
		c.state = asking
	}
	liars.Invitation = "another token"
	for _, p := range far {
		w.add(&candidate{peer: p, told: true, by: liars})
	}
	if len(w.list) != 2*toldShare {
		t.Errorf("%d candidates of one delegate's", len(w.list))
	}
	for _, p := range pool[900:950] {
		w.add(&candidate{peer: p, told: true, by: account.Account{Invitation: "honest"}})
	}
	if len(w.list) != 2*toldShare+50 || len(w.seen) != len(w.list) {
		t.Errorf("%d candidates, %d seen", len(w.list), len(w.seen))
	}
}

// Where all are of one invitation, or of none, there is nothing to choose: the nearest
// have the record, and nobody else. Where one has two of the nearest they count.
func TestReplicasOfOneToken(t *testing.T) {
	t.Parallel()
	const key = "a key"
	peers := ranked(key, 61)
	me, servers := peers[60], peers[:60]
	for what, c := range map[string]struct {
		account func(i int) string
		asked   int
		most    int
	}{
		"one":      {func(int) string { return "one" }, spreadMax + replicas - perAccount, replicas},
		"none":     {func(int) string { return "" }, replicas, replicas},
		"each":     {func(i int) string { return fmt.Sprint(i) }, replicas, replicas},
		"in twos":  {func(i int) string { return fmt.Sprint(i / 2) }, replicas, replicas},
		"in fours": {func(i int) string { return fmt.Sprint(i / 4) }, 14, 12}, // 8 nearest are of 2, of which 4 count, and 4 more of 2 others
	} {
		s := &pretended{accounts: map[peer.ID]account.Account{}}
		for i, p := range servers {
			s.accounts[p] = account.Account{Invitation: c.account(i)}
		}
		w := newWalker(s, me, all{}, key, replicas, nil)
		w.spread = true
		w.offer(servers...)
		res := w.run(t.Context())
		if !slices.Equal(res.nearest[:replicas], servers[:replicas]) || len(res.nearest) != c.most {
			t.Errorf("%s: %d replicas", what, len(res.nearest))
		}
		if len(s.asked) < c.asked-width || len(s.asked) > c.asked+width {
			t.Errorf("%s: %d asked, want %d", what, len(s.asked), c.asked)
		}
	}
}
