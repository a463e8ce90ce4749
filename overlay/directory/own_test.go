package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// shelf is a store whose servers are in the order of their distance from every key.
type shelf struct {
	mu     sync.Mutex // guards what follows
	all    []peer.ID  // connected, the nearest first
	takes  map[peer.ID]string
	deaf   map[peer.ID]bool
	gives  map[peer.ID]int
	places int
	slow   time.Duration
	during func() // a placing
}

var errDeaf = errors.New("not taken")

func newShelf(n int) *shelf {
	s := &shelf{takes: map[peer.ID]string{}, deaf: map[peer.ID]bool{}, gives: map[peer.ID]int{}}
	s.grow(n)
	return s
}

func (s *shelf) grow(n int) {
	for range n {
		s.all = append(s.all, peer.ID(fmt.Sprintf("server %02d", len(s.all))))
	}
}

func (s *shelf) keep(context.Context, string, []byte) error { return nil }

func (s *shelf) place(_ context.Context, _ string, value []byte) ([]peer.ID, error) {
	time.Sleep(s.slow)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.places++
	if s.during != nil {
		s.during()
	}
	var took []peer.ID
	for _, p := range s.all[:min(len(s.all), replicas)] {
		if !s.deaf[p] {
			s.takes[p] = string(value)
			took = append(took, p)
		}
	}
	if len(took) == 0 {
		return nil, errNoServer
	}
	return took, nil
}

func (s *shelf) give(_ context.Context, p peer.ID, _ string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gives[p]++
	if s.deaf[p] {
		return errDeaf
	}
	s.takes[p] = string(value)
	return nil
}

func (s *shelf) keeps(p peer.ID, _ string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.all[:min(len(s.all), replicas)], p)
}

func (s *shelf) known() int         { return len(s.all) }
func (s *shelf) servers() []peer.ID { return slices.Clone(s.all) }
func (s *shelf) isServer() bool     { return false }

// has counts the servers that have a value.
func (s *shelf) has(value string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.takes {
		if v == value {
			n++
		}
	}
	return n
}

// A record is walked to its place once; a new version goes to those that had the last,
// without a walk, until one is due.
func TestOwnRecordFollows(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, r := newShelf(20), newOwnRecord("key", time.Hour)
		put := func(value string, walk bool, places, gives int) {
			t.Helper()
			clear(s.gives)
			s.places = 0
			r.set([]byte(value))
			n, err := r.put(t.Context(), s, walk)
			if err != nil || n != replicas || s.has(value) != replicas || s.places != places || len(s.gives) != gives {
				t.Errorf("%s: %d have it, %d say so: %d walks, %d given, %v", value, s.has(value), n, s.places, len(s.gives), err)
			}
		}
		put("first", false, 1, 0)
		put("second", false, 0, replicas)
		put("third", true, 1, 0)
		time.Sleep(time.Hour)
		put("fourth", false, 1, 0)
		if r.scarce(s) || len(r.lacking(s)) != 0 {
			t.Error("something is left to do")
		}
	})
}

// A server that comes is given the newest version if it is near, and whoever has lost
// what it had is given it again.
func TestOwnRecordLacking(t *testing.T) {
	t.Parallel()
	s, r := newShelf(4), newOwnRecord("key", time.Hour)
	if r.scarce(s) || len(r.lacking(s)) != 0 {
		t.Error("a record that was not made yet is lacked")
	}
	if n, err := r.put(t.Context(), s, true); n != 0 || err != nil || s.places != 0 {
		t.Errorf("nothing was put: %d, %v", n, err)
	}
	r.set([]byte("first"))
	if !r.scarce(s) || len(r.lacking(s)) != 4 {
		t.Errorf("lacked by %v", r.lacking(s))
	}
	if _, err := r.put(t.Context(), s, false); err != nil {
		t.Fatal(err)
	}
	s.grow(10)
	if lack := r.lacking(s); !slices.Equal(lack, s.all[4:replicas]) {
		t.Errorf("the new ones that are near: %v", lack)
	}
	r.giveLacking(t.Context(), s)
	if s.has("first") != replicas || len(r.lacking(s)) != 0 || s.gives[s.all[replicas]] != 0 {
		t.Errorf("%d have it", s.has("first"))
	}
	lost := s.all[2]
	r.forget(lost)
	delete(s.takes, lost)
	if !slices.Equal(r.lacking(s), []peer.ID{lost}) || r.heldBy(lost) || !r.heldBy(s.all[0]) {
		t.Errorf("lacked by %v", r.lacking(s))
	}
	if n, err := r.put(t.Context(), s, false); n != replicas || err != nil || s.takes[lost] != "first" {
		t.Errorf("%d have it: %v", n, err)
	}
}

// A server that does not take a version is tried a few times, and again with the next;
// it does not make the record scarce as long as half of the others have it.
func TestOwnRecordDeafServers(t *testing.T) {
	t.Parallel()
	for deaf := range replicas + 1 {
		s, r := newShelf(replicas), newOwnRecord("key", time.Hour)
		r.set([]byte("first"))
		if _, err := r.put(t.Context(), s, true); err != nil {
			t.Fatal(err)
		}
		for _, p := range s.all[:deaf] {
			s.deaf[p] = true
		}
		r.set([]byte("second"))
		for range 2 * givesMax {
			if n, _ := r.put(t.Context(), s, false); n != replicas-deaf {
				t.Errorf("%d deaf: %d are said to have it", deaf, n)
			}
		}
		r.giveLacking(t.Context(), s)
		if n := s.has("second"); n != replicas-deaf || r.taken() != n {
			t.Errorf("%d deaf: %d have it, %d are said to", deaf, n, r.taken())
		}
		if want := 2*(replicas-deaf) < replicas; r.scarce(s) != want {
			t.Errorf("%d deaf: scarce is %v", deaf, r.scarce(s))
		}
		for _, p := range s.all[:deaf] {
			// Where a walk was due each one forgets how often it was in vain.
			if n := s.gives[p]; s.places == 1 && n != givesMax {
				t.Errorf("%d deaf: tried %d times", deaf, n)
			}
		}
		clear(s.deaf)
		r.set([]byte("third"))
		if n, err := r.put(t.Context(), s, false); n != replicas || err != nil {
			t.Errorf("%d that were deaf: %d have the next version, %v", deaf, n, err)
		}
	}
}

// A version that is made while the one before is on its way counts as not taken, and
// no put says that enough have it.
func TestOwnRecordOvertaken(t *testing.T) {
	t.Parallel()
	s, r := newShelf(replicas), newOwnRecord("key", time.Hour)
	r.set([]byte("first"))
	s.during = func() { r.set([]byte("second")) }
	if n, err := r.put(t.Context(), s, true); n != 0 || err != nil {
		t.Errorf("%d are said to have the newest: %v", n, err)
	}
	s.during = nil
	if !r.scarce(s) || len(r.lacking(s)) != replicas || !r.heldBy(s.all[0]) {
		t.Error("the newest is thought to be taken")
	}
	if n, err := r.put(t.Context(), s, false); n != replicas || err != nil || s.places != 1 || s.has("second") != replicas {
		t.Errorf("%d have it after %d walks: %v", n, s.places, err)
	}
}

// A walk that finds nobody is no walk: the next put walks again.
func TestOwnRecordNobody(t *testing.T) {
	t.Parallel()
	s, r := newShelf(0), newOwnRecord("key", time.Hour)
	r.set([]byte("first"))
	for range 2 {
		if n, err := r.put(t.Context(), s, false); n != 0 || !errors.Is(err, errNoServer) {
			t.Errorf("%d, %v", n, err)
		}
	}
	s.grow(1)
	if n, err := r.put(t.Context(), s, false); n != 1 || err != nil || s.places != 3 {
		t.Errorf("%d have it after %d walks: %v", n, s.places, err)
	}
	if r.scarce(s) {
		t.Error("all that there are have it")
	}
}

// Puts, servers that come and versions at once: the last version ends up where it
// belongs.
func TestOwnRecordAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, r := newShelf(replicas), newOwnRecord("key", time.Hour)
		s.slow = time.Millisecond
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 300 * time.Microsecond)
				r.set(fmt.Appendf(nil, "version %02d", i))
				_, _ = r.put(t.Context(), s, i%3 == 0)
				r.giveLacking(t.Context(), s)
				r.forget(s.all[i%replicas])
			})
		}
		wg.Wait()
		if n, err := r.put(t.Context(), s, false); n != replicas || err != nil || s.has("version 19") != replicas {
			t.Errorf("%d are said to have the last, %d do: %v", n, s.has("version 19"), err)
		}
	})
}

// giveAll asks all, whatever some of them say, and tells why nobody has taken it.
func TestGiveAll(t *testing.T) {
	t.Parallel()
	give := func(_ context.Context, p peer.ID) error {
		if p[0] == 'x' {
			return errDeaf
		}
		return nil
	}
	for _, c := range []struct {
		to    []peer.ID
		taken int
		err   error
	}{
		{nil, 0, errNoServer}, {[]peer.ID{"x"}, 0, errDeaf}, {[]peer.ID{"x1", "a", "x2", "b"}, 2, nil},
	} {
		if got, err := giveAll(t.Context(), c.to, give); len(got) != c.taken || !errors.Is(err, c.err) {
			t.Errorf("%v: %v, %v", c.to, got, err)
		}
	}
}
