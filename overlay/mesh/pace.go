package mesh

import (
	"context"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"golang.org/x/time/rate"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

// What members may have this peer do for them by streams and connections is counted in
// bytes: those that they send, and so many for what it costs to begin something. A
// member has memberRate and memberBurst; all of one invitation, who may be one person,
// accountTimes that, and all of one delegate's more (package account). What is above waits, and by that the member does: QUIC lets it open
// no more streams. It suffices for two revocation lists of the greatest size, and for a
// crowd of one token that comes back at once, with some three thousand questions; one
// member has some fifty a second for as long as it likes.
const (
	memberRate   = 128 << 10 // bytes a second
	memberBurst  = 2 << 20
	accountTimes = 4

	streamCost = 2 << 10  // a stream: a signature or two are verified for it
	readCost   = 64       // a piece of a message
	connCost   = 32 << 10 // a connection: a handshake
	pacedMax   = 1024     // members and accounts that are looked through at once
)

// pace is what members have used of that. It is safe for concurrent use.
type pace struct {
	mu  sync.Mutex // guards the rest
	of  map[paced]*rate.Limiter
	max int // when the map is looked through
}

// paced is a member, or one part of an account.
type paced struct {
	member peerid.ID
	part   account.Account
}

func newPace() *pace { return &pace{of: map[paced]*rate.Limiter{}, max: pacedMax} }

// limiters returns those of a member. One that has nothing to remember is forgotten.
func (p *pace) limiters(m *membership.Member) (out []*rate.Limiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.of) >= p.max {
		now := time.Now()
		for k, l := range p.of {
			if l.TokensAt(now) >= float64(l.Burst()) {
				delete(p.of, k)
			}
		}
		p.max = max(pacedMax, 2*len(p.of))
	}
	get := func(k paced, times int) {
		l := p.of[k]
		if l == nil {
			l = rate.NewLimiter(memberRate*rate.Limit(times), memberBurst*times)
			p.of[k] = l
		}
		out = append(out, l)
	}
	get(paced{member: m.Peer}, 1)
	for part, times := range m.Account().All() {
		get(paced{part: part}, times*accountTimes)
	}
	return out
}

// wait has a member pay, and returns when it can.
func wait(ctx context.Context, limiters []*rate.Limiter, cost int) error {
	for _, l := range limiters {
		if err := l.WaitN(ctx, min(cost, l.Burst())); err != nil {
			return err
		}
	}
	return nil
}

// connects says whether one more connection of a member is free for the address that it
// comes from.
func (p *pace) connects(m *membership.Member) bool {
	ok := true
	for _, l := range p.limiters(m) {
		ok = l.AllowN(time.Now(), connCost) && ok
	}
	return ok
}

// pacedStream is one whose far end pays for what it sends.
type pacedStream struct {
	network.Stream
	ctx      context.Context
	limiters []*rate.Limiter
}

func (s *pacedStream) Read(b []byte) (int, error) {
	n, err := s.Stream.Read(b)
	if e := wait(s.ctx, s.limiters, n+readCost); e != nil && err == nil {
		err = e
	}
	return n, err
}

// admitStream has the peer of a stream pay for it, as far as it is a member, and
// returns the stream that is to be served.
func (g *gate) admitStream(s network.Stream) (network.Stream, error) {
	m, ok := g.member(s.Conn().RemotePeer())
	if !ok {
		return s, nil // its hello, which limits bound
	}
	limiters := g.pace.limiters(m)
	ctx, cancel := context.WithTimeout(g.ctx, negotiateTimeout)
	defer cancel()
	if err := wait(ctx, limiters, streamCost); err != nil {
		return nil, err
	}
	return &pacedStream{s, g.ctx, limiters}, nil
}
