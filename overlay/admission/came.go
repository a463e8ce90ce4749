package admission

import (
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

// Bounds of what is remembered of invitations. An issuer fills its own part only.
const (
	issuersMax     = 256   // below whom somebody came
	invitationsMax = 16384 // of each
	visitorsMax    = 1024  // of one invitation
	visitorsTotal  = 65536 // of each issuer
)

// came is who came by which invitation, as far as this peer knows: what chains do not
// say. A token is used when as many members as it is for have come by it; who has
// been confirmed comes before who was not, and else the one that was heard of first.
type came struct {
	below map[membership.Key]*below // by who signed the last certificate but one: zero is the founder
}

// below is what is known of the invitations of one issuer.
type below struct {
	invitations *simplelru.LRU[membership.Key, *visitors]
	total       int // peers
}

// visitors are those that came by one invitation.
type visitors struct {
	end   time.Time // until when the invitation admits; zero: not known, only confirmed ones have come
	until time.Time // what is here matters until then
	uses  int       // for how many it is; 0: any number, or not known
	peers []visitor // in the order in which they were heard of
	asked time.Time // when others were asked who came by it
}

type visitor struct {
	peer      peerid.ID
	confirmed bool
}

func newCame() came { return came{below: map[membership.Key]*below{}} }

// of returns what is known of one invitation below an issuer, from now on.
func (c came) of(issuer, invitation membership.Key) *visitors {
	b := c.below[issuer]
	if b == nil {
		if len(c.below) >= issuersMax {
			return &visitors{} // that many delegates the founder does not make
		}
		b = &below{}
		b.invitations, _ = simplelru.NewLRU(invitationsMax, func(_ membership.Key, v *visitors) { b.total -= len(v.peers) })
		c.below[issuer] = b
	}
	v, ok := b.invitations.Get(invitation)
	if !ok {
		v = &visitors{}
		b.invitations.Add(invitation, v)
	}
	return v
}

// add notes one that came, and says whether that is news.
func (c came) add(issuer membership.Key, v *visitors, p peerid.ID, confirmed bool) bool {
	if i := v.index(p); i >= 0 {
		news := confirmed && !v.peers[i].confirmed
		v.peers[i].confirmed = v.peers[i].confirmed || confirmed
		return news
	}
	b := c.below[issuer]
	if b == nil || len(v.peers) >= visitorsMax || b.total >= visitorsTotal {
		return false
	}
	v.peers = append(v.peers, visitor{p, confirmed})
	b.total++
	return true
}

func (v *visitors) index(p peerid.ID) int {
	return slices.IndexFunc(v.peers, func(w visitor) bool { return w.peer == p })
}

// confirmed returns peers that were confirmed out of an invitation, whoever confirmed
// them: at most so many, as looking for one that is there twice costs the square.
func (c came) confirmed(invitation membership.Key, most int) (out []peerid.ID) {
	for _, b := range c.below {
		if v, ok := b.invitations.Peek(invitation); ok {
			for _, w := range v.peers {
				if len(out) >= most {
					return out
				}
				if w.confirmed && !slices.Contains(out, w.peer) {
					out = append(out, w.peer)
				}
			}
		}
	}
	return out
}

// uses returns for how many members an invitation is; 0: any number, or not known.
func (c came) uses(invitation membership.Key) (n int) {
	for _, b := range c.below {
		if v, ok := b.invitations.Peek(invitation); ok {
			n = max(n, v.uses)
		}
	}
	return n
}

// wasConfirmed says whether a peer was confirmed out of an invitation.
func (c came) wasConfirmed(invitation membership.Key, p peerid.ID) bool {
	for _, b := range c.below {
		if v, ok := b.invitations.Peek(invitation); ok {
			if i := v.index(p); i >= 0 && v.peers[i].confirmed {
				return true
			}
		}
	}
	return false
}

// before returns how many have come by m's invitation before m: those confirmed,
// and if first says so those that were only heard of first.
func (c came) before(m *membership.Member, first bool) int {
	if c.wasConfirmed(m.Invitation, m.Peer) {
		return 0 // it is one of them
	}
	others := c.confirmed(m.Invitation, membership.MaxUses)
	if b := c.below[m.Delegate]; b != nil && first {
		v, ok := b.invitations.Peek(m.Invitation)
		for i := 0; ok && i < len(v.peers) && v.peers[i].peer != m.Peer; i++ {
			if !v.peers[i].confirmed {
				others = append(others, v.peers[i].peer)
			}
		}
	}
	return len(others)
}

func (c came) prune(now time.Time) {
	for issuer, b := range c.below {
		for _, key := range b.invitations.Keys() {
			if v, _ := b.invitations.Peek(key); now.After(v.until) {
				b.invitations.Remove(key)
			}
		}
		if b.invitations.Len() == 0 {
			delete(c.below, issuer)
		}
	}
}

// enter notes a member whose chain was verified, and says why it is none all the same:
// because others have used its invitation, or because it comes when that is over.
// first says that those which were only heard of first count, too.
func (r *registry) enter(m *membership.Member, first bool, now time.Time) error {
	if m.Invitation.IsZero() {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !m.Confirmed {
		if err := r.admits(m, first, now); err != nil {
			return err
		}
	}
	r.note(m, now)
	return nil
}

// witness notes a provisional member of which a confirmed one says that it came in time.
func (r *registry) witness(m *membership.Member, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note(m, now)
}

// note is enter without a question; mu is held. A confirmed certificate does not say when
// the invitation ends: that it was used is remembered for as long as one can last, and
// not for as long as who has used it is there.
func (r *registry) note(m *membership.Member, now time.Time) {
	v := r.came.of(m.Delegate, m.Invitation)
	if !m.Confirmed {
		v.end, v.uses = m.Entry, m.Uses
		v.until = later(v.until, m.Entry.Add(membership.Grace+membership.Tolerance))
	} else if v.end.IsZero() {
		v.until = later(v.until, now.Add(membership.LongestLife))
	}
	if r.came.add(m.Delegate, v, m.Peer, m.Confirmed) {
		r.later = append(r.later, r.append(cameRecord(m.Delegate, m.Invitation, v, m.Peer, m.Confirmed)))
		_, replaces := r.successions[m.Peer]
		if uses := r.came.uses(m.Invitation); m.Confirmed && !replaces && uses > 0 && len(r.came.confirmed(m.Invitation, uses+1)) > uses {
			r.log.Warn("more members were confirmed out of an invitation than it is for, as two issuers may that are asked at one moment: one of them may have to be revoked",
				"invitation", InvitationID(m.Invitation), "for", uses, "last", m.Peer)
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// admits says why a provisional member is none; mu is held.
func (r *registry) admits(m *membership.Member, first bool, now time.Time) error {
	switch {
	case m.Uses == 0:
	case r.came.before(m, false) >= m.Uses:
		return fmt.Errorf("provisional member: %w", membership.ErrUsed)
	case first && r.came.before(m, true) >= m.Uses:
		return fmt.Errorf("provisional member: %w", membership.ErrContested)
	}
	if b := r.came.below[m.Delegate]; b != nil {
		if v, ok := b.invitations.Peek(m.Invitation); ok && v.index(m.Peer) >= 0 {
			return nil // it came in time
		}
	}
	return membership.CheckEntry(m.Entry, now)
}

// holds says why a member that has entered is none now.
func (r *registry) holds(m *membership.Member, first bool, now time.Time) error {
	if m.Confirmed || m.Invitation.IsZero() {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.admits(m, first, now)
}

// used says whether as many others were confirmed out of m's invitation as it is for.
func (r *registry) used(m *membership.Member) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !m.Confirmed && m.Uses > 0 && r.came.before(m, false) >= m.Uses
}

// usedBy returns who was confirmed out of an invitation, up to as many as one can be for
// that is for a number of them.
func (r *registry) usedBy(invitation membership.Key) []peerid.ID {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.came.confirmed(invitation, membership.MaxUses)
}

// due says whether others are to be asked who came by m's invitation: once in a while.
func (r *registry) due(m *membership.Member, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.came.of(m.Delegate, m.Invitation)
	if since := now.Sub(v.asked); !v.asked.IsZero() && since >= 0 && since < askUsesEvery {
		return false
	}
	v.asked = now
	return true
}

// ends returns when nothing that an invitation has made lasts any more but confirmed
// members, as far as that is known; else the longest that can be. It has to have been
// seen by this peer: anybody may say when an invitation ends.
func (r *registry) ends(invitation membership.Key, now time.Time) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m, ok := r.made[invitation]; ok {
		return m.end.Add(membership.Grace + membership.Tolerance)
	}
	return now.Add(membership.LongestLife)
}
