package mesh

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/field"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/p2p"
)

// The dial-back protocol: a peer that would serve asks a member to have others
// try to reach it. Those have had nothing from the peer, so that no NAT lets
// them in for an old packet's sake (DESIGN §14.6; private addresses count).
//
//	question: hops 1 | if 0: peer ID 32 | addresses 1 | { length 1 | multiaddr }
//	answer:   0 nobody tries, 1 somebody came through, 2 somebody tried in vain
//
// With hops 1 the asker means itself, and the member passes the question to
// others with hops 0. That the connection then comes in is the result; the
// answer tells one that does not come in from one that nobody makes.
const (
	dialBackNobody = 0
	dialBackDone   = 1
	dialBackInVain = 2

	dialBackTries = 2
	dialBackAddrs = 6
)

var dialBackProtocol = Protocol{Name: "dialback", MaxRequest: 2 + peerid.Size + dialBackAddrs*(1+255), MaxAnswer: 1, Timeout: dialBackTimeout}

// DialBack is what came of the newest dial-back that this peer has asked for.
type DialBack struct {
	At     time.Time
	Result string // one of those below; "" if none was asked for
}

// The results of a dial-back.
const (
	DialBackReached  = "reached"
	DialBackInVain   = "in vain"
	DialBackNobody   = "nobody to try" // no member that is not connected to this one
	DialBackNoAnswer = "no answer"     // of the member that was to arrange it
)

var dialBackResults = map[byte]string{dialBackNobody: DialBackNobody, dialBackDone: DialBackReached, dialBackInVain: DialBackInVain}

// Decided says whether another dial-back would tell anything new.
func (d DialBack) Decided() bool { return d.Result == DialBackReached || d.Result == DialBackInVain }

// dialBacks is what this peer has asked for. It is safe for concurrent use.
type dialBacks struct {
	mu     sync.Mutex // guards the rest
	newest DialBack
	asked  time.Time
}

// due says whether it is time to ask again, and notes that it is done.
func (d *dialBacks) due() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.asked.IsZero() && time.Since(d.asked) < dialBackEvery {
		return false
	}
	d.asked = time.Now()
	return true
}

func (d *dialBacks) set(b DialBack) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.newest = b
}

// DialledBack returns what the newest dial-back has told.
func (m *Mesh) DialledBack() DialBack {
	m.backs.mu.Lock()
	defer m.backs.mu.Unlock()
	return m.backs.newest
}

// AskDialBack has a member, a server if one is connected, arrange a dial-back, now
// and then. It returns at once.
func (m *Mesh) AskDialBack() {
	var servers, others []peer.ID
	for _, n := range m.Members() {
		if n.Server {
			servers = append(servers, n.Peer)
		} else {
			others = append(others, n.Peer)
		}
	}
	if len(servers) == 0 {
		servers = others // better than nobody
	}
	if len(servers) == 0 || !m.backs.due() {
		return
	}
	p := servers[rand.IntN(len(servers))]
	m.Go(func() {
		ctx, cancel := context.WithTimeout(m.ctx, dialBackTimeout)
		defer cancel()
		result := DialBackNoAnswer
		if a, err := m.askDialBack(ctx, p, []byte{1}); err == nil && dialBackResults[a] != "" {
			result = dialBackResults[a]
		}
		m.backs.set(DialBack{time.Now(), result})
		m.Wake()
	})
}

// askDialBack puts a question and returns the answer.
func (m *Mesh) askDialBack(ctx context.Context, p peer.ID, q []byte) (byte, error) {
	a, err := m.Ask(ctx, p, dialBackProtocol, q)
	if err != nil {
		return 0, err
	}
	if len(a) != 1 {
		return 0, io.ErrUnexpectedEOF
	}
	return a[0], nil
}

func (m *Mesh) answerDialBack(_ context.Context, from *membership.Member, question []byte) ([]byte, error) {
	if !m.cfg.Allow(from.Peer) {
		return nil, errTooOften
	}
	f := field.NewReader(bytes.NewReader(question))
	if hops := f.Uint8(); hops == 1 {
		return []byte{m.arrangeDialBack(from.Peer)}, nil
	}
	return []byte{m.dialBack(f, p2p.ID(from.Peer))}, nil
}

// arrangeDialBack has a few members try to reach the asker, and says what came
// of it.
func (m *Mesh) arrangeDialBack(id peerid.ID) byte {
	ctx, cancel := context.WithTimeout(m.ctx, dialBackTimeout-dialBackLess)
	defer cancel()
	addrs := m.Addrs(p2p.ID(id), dialBackAddrs, true)
	q := append(append([]byte{0}, id[:]...), byte(len(addrs)))
	for _, a := range addrs {
		b := a.Bytes()
		if len(b) > 255 {
			return dialBackNobody
		}
		q = field.Append8(q, b)
	}
	var asked []peer.ID
	for _, n := range shuffled(m.Members()) {
		if n.ID != id && len(asked) < dialBackTries {
			asked = append(asked, n.Peer)
		}
	}
	answers := make(chan byte, len(asked))
	for _, p := range asked {
		m.Go(func() {
			a, err := m.askDialBack(ctx, p, q)
			if err != nil {
				a = dialBackNobody
			}
			answers <- a
		})
	}
	out := byte(dialBackNobody)
	for range asked {
		select {
		case a := <-answers:
			if a == dialBackDone {
				return a
			}
			if a == dialBackInVain {
				out = a
			}
		case <-ctx.Done():
			return out
		}
	}
	return out
}

// dialBack tries to reach a peer that we are not connected to.
func (m *Mesh) dialBack(f *field.Reader, by peer.ID) byte {
	var id peerid.ID
	f.Copy(id[:])
	n := int(f.Uint8())
	if f.Err() != nil || n > dialBackAddrs {
		return dialBackNobody
	}
	ai := peer.AddrInfo{ID: p2p.ID(id)}
	for range n {
		if a, err := ma.NewMultiaddrBytes(f.Short8()); err == nil {
			ai.Addrs = append(ai.Addrs, a)
		}
	}
	ai.Addrs = m.Told(by, ai.Addrs) // whoever asks may name any address
	if f.Err() != nil || len(ai.Addrs) == 0 || m.host.Network().Connectedness(ai.ID) == network.Connected {
		return dialBackNobody
	}
	ctx, cancel := context.WithTimeout(m.ctx, dialBackTimeout-2*dialBackLess)
	defer cancel()
	if _, err := m.Connect(ctx, ai); err != nil {
		return dialBackInVain
	}
	return dialBackDone
}
