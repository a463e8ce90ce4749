package offers

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/p2p"
)

// way is a member that may get an offer to its target: the target itself
// (direct), or one that may be connected to it; with a guess nothing says that it is.
type way struct {
	peer   peerid.ID
	direct bool
	guess  bool
}

// known says whether a way is a member that should be connected to the target.
func (w way) known() bool { return !w.direct && !w.guess }

// search is the looking for ways of one round.
type search struct {
	r      *Router
	ctx    context.Context
	target peerid.ID
	out    chan<- way
	tried  map[peerid.ID]bool // and this peer itself
	head   <-chan time.Time   // directHead is over; nil: the target was not connected
}

// findWays sends the ways to a target, the likeliest first, to out, and closes it:
//
//  1. the connection to the target itself;
//  2. connected members that its records have named, or else the servers nearest
//     its ID; after the first of them the target's own address, which costs a
//     handshake and needs no member to be alive;
//  3. the other members that its records have named;
//  4. those that its contact record in the database names, newer than the hints;
//  5. members of another invitation, where all so far came by one;
//  6. the servers nearest its ID, where it keeps its connections;
//  7. other connected members, any: those before may be as few as three, and lie.
//
// Where the target is connected, those that are not wait for directHead.
func (r *Router) findWays(ctx context.Context, target peerid.ID, out chan<- way) {
	defer close(out)
	s := &search{r: r, ctx: ctx, target: target, out: out, tried: map[peerid.ID]bool{r.cfg.Self: true}}
	if _, ok := r.cfg.Mesh.Member(target); ok {
		s.head = time.After(r.cfg.Stretch(directHead))
	}
	hints := r.cfg.Directory.Hints(target)
	_ = s.connected() &&
		s.near(hints) &&
		s.through(hints) &&
		s.through(r.cfg.Directory.Contacts(ctx, target)) &&
		s.through(r.others(s.tried)) &&
		s.through(r.cfg.Directory.Nearest(ctx, target)) &&
		s.guess(r.rest(s.tried))
}

// send offers one way, unless it was tried, and says whether to go on.
func (s *search) send(w way) bool {
	if s.tried[w.peer] || len(s.tried) > waysMax {
		return len(s.tried) <= waysMax
	}
	s.tried[w.peer] = true
	if _, ok := s.r.cfg.Mesh.Member(w.peer); !ok && s.head != nil {
		select {
		case <-s.head:
			s.head = nil
		case <-s.ctx.Done():
			return false
		}
	}
	select {
	case s.out <- w:
		return true
	case <-s.ctx.Done():
		return false
	}
}

func (s *search) through(members []peerid.ID) bool {
	for _, m := range members {
		if !s.send(way{peer: m}) {
			return false
		}
	}
	return true
}

func (s *search) guess(members []peerid.ID) bool {
	for _, m := range members {
		if !s.send(way{peer: m, guess: true}) {
			return false
		}
	}
	return true
}

func (s *search) connected() bool {
	_, ok := s.r.cfg.Mesh.Member(s.target)
	return !ok || s.send(way{peer: s.target, direct: true})
}

func (s *search) itself() bool {
	return !s.r.cfg.Mesh.Reachable(s.target) || s.send(way{peer: s.target, direct: true})
}

func (s *search) near(hints []peerid.ID) bool {
	for i, m := range s.r.near(s.target, hints) {
		if !s.send(way{peer: m}) || i == 0 && !s.itself() {
			return false
		}
	}
	return s.itself()
}

// near are connected members that may have a connection to a peer: those that
// its records have named, since to connect elsewhere costs more than to ask those
// we have; or, without any, the servers nearest its ID, which others connect to.
func (r *Router) near(target peerid.ID, hints []peerid.ID) (out []peerid.ID) {
	for _, h := range hints {
		if _, ok := r.cfg.Mesh.Member(h); ok {
			out = append(out, h)
		}
	}
	if len(hints) > 0 {
		return out
	}
	servers := r.cfg.Directory.Servers()
	slices.SortFunc(servers, func(a, b peerid.ID) int { return p2p.Compare(a, b, target) })
	return servers[:min(2, len(servers))]
}

// others are connected members that another delegate has let in, or the founder, if one
// has let in all that were tried; or that came by another invitation than those, if they
// came by one: whoever holds a token can be any number of members, and a delegate has any
// number of tokens.
func (r *Router) others(tried map[peerid.ID]bool) (out []peerid.ID) {
	var of account.Account
	var found, sameInvitation, sameDelegate bool
	for p := range tried {
		m, ok := r.cfg.Mesh.Member(p)
		if !ok {
			continue
		}
		a := m.Account()
		if !found {
			of, found, sameInvitation, sameDelegate = a, true, true, a.Delegate != ""
			continue
		}
		sameInvitation = sameInvitation && a.Invitation == of.Invitation
		sameDelegate = sameDelegate && a.Delegate == of.Delegate
	}
	take := func(other func(account.Account) bool) {
		for _, m := range r.cfg.Mesh.Members() {
			if other(m.Account()) && !tried[m.Peer] && len(out) < othersMax && !slices.Contains(out, m.Peer) {
				out = append(out, m.Peer)
			}
		}
	}
	if sameDelegate {
		take(func(a account.Account) bool { return a.Delegate != of.Delegate })
	}
	if sameInvitation {
		take(func(a account.Account) bool { return a.Invitation != of.Invitation })
	}
	return out
}

// rest are connected members that were not tried, those that came by different
// invitations first, and of those the ones of different delegates, as many as there are
// ways left.
func (r *Router) rest(tried map[peerid.ID]bool) (out []peerid.ID) {
	left := slices.DeleteFunc(r.cfg.Mesh.Members(), func(m *membership.Member) bool { return tried[m.Peer] })
	rand.Shuffle(len(left), func(i, j int) { left[i], left[j] = left[j], left[i] })
	account.ByTurns(left, (*membership.Member).Account)
	for _, m := range left[:min(len(left), waysMax)] {
		out = append(out, m.Peer)
	}
	return out
}
