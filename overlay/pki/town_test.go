package pki

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/leaktest"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/state"
	"github.com/idloc/idloc/overlay/admission"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/naming"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// town is an overlay in memory: everybody is connected to everybody, but for who is away and
// the pairs that are cut.
type town struct {
	t     *testing.T
	ctx   context.Context
	wg    sync.WaitGroup
	mu    sync.Mutex // guards the rest
	ahead time.Duration
	peers []*peer
	away  map[peerid.ID]bool
	cuts  map[[2]peerid.ID]bool
	lies  map[peerid.ID][]byte // what one answers to the Protocol
	asked int                  // questions of the Protocol
}

func newTown(t *testing.T) *town {
	ctx, cancel := context.WithCancel(context.Background())
	w := &town{t: t, ctx: ctx, away: map[peerid.ID]bool{}, cuts: map[[2]peerid.ID]bool{}, lies: map[peerid.ID][]byte{}}
	t.Cleanup(func() {
		cancel()
		w.wg.Wait()
	})
	return w
}

func (w *town) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.ahead)
}

func (w *town) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ahead += d
}

func (w *town) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

func (w *town) questions() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked
}

// peer is a roster and a keeper.
type peer struct {
	*admission.Roster
	*Keeper
	w   *town
	key ed25519.PrivateKey
	dir *state.Dir
}

func (w *town) newPeer() *peer {
	w.t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	dir, err := state.Open("")
	if err != nil {
		w.t.Fatal(err)
	}
	return &peer{w: w, key: key, dir: dir}
}

func (p *peer) config() admission.Config {
	nothing := func() {}
	return admission.Config{
		Key: p.key, Now: p.w.now, Network: p, Changed: nothing, Ended: nothing, Renewed: nothing,
		Lookup: func(context.Context, string) *naming.Record { return nil },
	}
}

func (p *peer) run(r *admission.Roster, err error) *peer {
	p.w.t.Helper()
	if err != nil {
		p.w.t.Fatal(err)
	}
	p.w.t.Cleanup(r.Close)
	p.Roster = r
	p.restart()
	p.w.set(func() { p.w.peers = append(p.w.peers, p) })
	return p
}

// restart gives a peer a Keeper that knows what was saved.
func (p *peer) restart() {
	p.Keeper = New(Config{Key: p.key, State: p.dir, Now: p.w.now})
	p.Attach(p.Roster, p)
}

func (w *town) found(name string) *peer {
	w.t.Helper()
	p := w.newPeer()
	return p.run(admission.Found(p.config(), "example.com", name))
}

func (w *town) join(by *peer, name string, opts membership.InviteOptions) *peer {
	w.t.Helper()
	opts.Label = name
	token, err := by.Invite(opts)
	if err != nil {
		w.t.Fatal(err)
	}
	p := w.newPeer()
	p.run(admission.Enter(p.config(), token, name))
	if err := p.SettleName(w.t.Context(), token); err != nil {
		w.t.Fatal(err)
	}
	if !p.Own().Member.Confirmed {
		w.t.Fatalf("%s is not confirmed", name)
	}
	return p
}

// delegate is how a delegate is invited.
var delegate = membership.InviteOptions{Roles: membership.RolesOf(false, true)}

func (p *peer) connected() (out []*peer) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	for _, q := range p.w.peers {
		if q != p && !p.w.away[q.Self()] && !p.w.away[p.Self()] && !p.w.cuts[[2]peerid.ID{p.Self(), q.Self()}] && !p.w.cuts[[2]peerid.ID{q.Self(), p.Self()}] {
			out = append(out, q)
		}
	}
	return out
}

func (p *peer) Neighbours() (out []admission.Neighbour) {
	for _, q := range p.connected() {
		p.HearCharter(q.Self(), q.Revocations().Charter())
		_, _ = p.Roster.Verify(q.Own().Chain, q.Self()) // its hello
		out = append(out, admission.Neighbour{Peer: q.Self(), Issuer: q.Own().Issuer})
	}
	return out
}

func (p *peer) Ask(ctx context.Context, id peerid.ID, pr admission.Protocol, request []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for _, q := range p.connected() {
		if q.Self() != id {
			continue
		}
		q.HearCharter(p.Self(), p.Revocations().Charter())
		from, err := q.Roster.Verify(p.Own().Chain, p.Self())
		if err != nil {
			return nil, err
		}
		switch pr.Name {
		case admission.ConfirmProtocol.Name:
			return q.AnswerConfirm(ctx, from, request)
		case admission.ConfirmedProtocol.Name:
			return q.AnswerConfirmed(ctx, from, request)
		case admission.UsesProtocol.Name:
			return q.AnswerUses(ctx, from, request)
		case admission.RevocationProtocol.Name:
			return q.AnswerList(ctx, from, request)
		case Protocol.Name:
			var lie []byte
			p.w.set(func() { p.w.asked++; lie = p.w.lies[id] })
			if lie != nil {
				return lie, nil
			}
			b, err := q.Answer(ctx, from, request)
			if len(request) > pr.MaxRequest || len(b) > pr.MaxAnswer {
				p.w.t.Errorf("a question of %d bytes and an answer of %d", len(request), len(b))
			}
			return b, err
		}
	}
	return nil, errors.New("not connected, or another protocol")
}

func (p *peer) Go(f func(context.Context)) { p.w.wg.Go(func() { f(p.w.ctx) }) }

// certificate is a peer's own, or ends the test.
func (p *peer) certificate() []*x509.Certificate {
	p.w.t.Helper()
	c, err := p.Certificate(p.w.t.Context())
	if err != nil {
		p.w.t.Fatalf("%s: %v", p.Own().Label, err)
	}
	return parsed(p.w.t, c.Certificate)
}

func parsed(t *testing.T, chain [][]byte) (out []*x509.Certificate) {
	t.Helper()
	for _, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
	return out
}

// learn has peers hear of the list that one has.
func (w *town) learn(from *peer, others ...*peer) {
	for _, p := range others {
		p.CompareLists(w.t.Context(), from.Self())
	}
	w.settle()
}

// settle waits until all know the same list.
func (w *town) settle() {
	w.mu.Lock()
	peers := w.peers
	w.mu.Unlock()
	for _, p := range peers {
		for _, q := range p.connected() {
			p.CompareLists(w.t.Context(), q.Self())
		}
	}
}
