package admission

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/leaktest"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/state"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/naming"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// town is an overlay in memory: rosters and who is connected to whom, which is
// everybody to everybody but for the pairs that are cut.
type town struct {
	t  *testing.T
	wg sync.WaitGroup

	mu      sync.Mutex // guards the rest
	peers   []*peer
	cuts    map[[2]peerid.ID]bool
	servers map[peerid.ID]bool
	silent  map[peerid.ID]bool              // is connected and answers nothing
	lies    map[peerid.ID]map[string][]byte // what one answers in place of what is so, by protocol; its hello says that it confirms
	asked   map[string]int                  // questions, by protocol
	late    func()                          // what happens, once, before the next answer of ConfirmProtocol arrives
	records map[string]*naming.Record
}

func newTown(t *testing.T) *town {
	w := &town{t: t, cuts: map[[2]peerid.ID]bool{}, servers: map[peerid.ID]bool{}, silent: map[peerid.ID]bool{}, asked: map[string]int{}, records: map[string]*naming.Record{}}
	t.Cleanup(w.wg.Wait)
	return w
}

// peer is one that has a Roster in a town.
type peer struct {
	*Roster
	town  *town
	key   ed25519.PrivateKey
	dir   *state.Dir
	ahead time.Duration // of its clock

	mu      sync.Mutex // guards the rest
	changed int        // calls of Changed and Renewed
	renewed int
	ended   int
	shown   map[peerid.ID][]byte
	logged  bytes.Buffer
}

func (p *peer) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.logged.Write(b)
}

func (p *peer) log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.logged.String()
}

func (p *peer) renewals() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.renewed
}

func newKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newPeer makes one without a Roster.
func (w *town) newPeer(key ed25519.PrivateKey, dir *state.Dir) *peer {
	if key == nil {
		key = newKey(w.t)
	}
	return &peer{town: w, key: key, dir: dir, shown: map[peerid.ID][]byte{}}
}

func (p *peer) config() Config {
	return Config{
		Key: p.key, State: p.dir, Log: slog.New(slog.NewTextHandler(p, nil)), Network: p,
		Now: func() time.Time {
			p.mu.Lock()
			defer p.mu.Unlock()
			return time.Now().Add(p.ahead)
		},
		Lookup: func(_ context.Context, label string) *naming.Record {
			p.town.mu.Lock()
			defer p.town.mu.Unlock()
			return p.town.records[label]
		},
		Changed: func() { p.mu.Lock(); defer p.mu.Unlock(); p.changed++ },
		Ended:   func() { p.mu.Lock(); defer p.mu.Unlock(); p.ended++ },
		Renewed: func() { p.mu.Lock(); defer p.mu.Unlock(); p.renewed++ },
		Shown:   func(id peerid.ID) []byte { p.mu.Lock(); defer p.mu.Unlock(); return p.shown[id] },
	}
}

func (p *peer) setClock(ahead time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ahead = ahead
}

// run takes what Found, Enter or Resume has made into the town.
func (p *peer) run(r *Roster, err error) *peer {
	p.town.t.Helper()
	if err != nil {
		p.town.t.Fatal(err)
	}
	if p.Roster != nil {
		p.town.wg.Wait() // for those who ask the one that it had
	}
	p.Roster = r
	p.town.t.Cleanup(r.Close)
	p.town.mu.Lock()
	p.town.peers = append(p.town.peers, p)
	p.town.mu.Unlock()
	return p
}

// leave takes a peer out of the town.
func (p *peer) leave() {
	p.town.mu.Lock()
	defer p.town.mu.Unlock()
	for i, q := range p.town.peers {
		if q == p {
			p.town.peers = append(p.town.peers[:i:i], p.town.peers[i+1:]...)
		}
	}
}

func (w *town) cut(a, b *peer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cuts[[2]peerid.ID{a.Self(), b.Self()}] = true
	w.cuts[[2]peerid.ID{b.Self(), a.Self()}] = true
}

// part cuts all of one side from all of the other.
func (w *town) part(left, right []*peer) {
	for _, a := range left {
		for _, b := range right {
			w.cut(a, b)
		}
	}
}

func (w *town) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.cuts)
}

// neighbours are those connected to p.
func (p *peer) neighbours() (out []*peer) {
	p.town.mu.Lock()
	defer p.town.mu.Unlock()
	for _, q := range p.town.peers {
		if q != p && !p.town.cuts[[2]peerid.ID{p.Self(), q.Self()}] {
			out = append(out, q)
		}
	}
	return out
}

// serve has members keep a part of the database, hush has one answer nothing.
func (w *town) serve(all ...*peer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range all {
		w.servers[p.Self()] = true
	}
}

func (w *town) hush(p *peer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.silent[p.Self()] = true
}

// lie has members answer so, instead of what they are asked for, from now on.
func (w *town) lie(lies map[peerid.ID]map[string][]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lies = lies
}

func (p *peer) Neighbours() (out []Neighbour) {
	for _, q := range p.neighbours() {
		p.town.mu.Lock()
		server, lies := p.town.servers[q.Self()], p.town.lies[q.Self()] != nil
		p.town.mu.Unlock()
		own := q.Own()
		if m, ok := p.Member(q.Self()); own.Member.Confirmed && (!ok || !m.Confirmed) {
			p.HearCharter(q.Self(), q.Revocations().Charter())
			_, _ = p.Verify(own.Chain, q.Self()) // its hello
		}
		out = append(out, Neighbour{q.Self(), own.Issuer || lies, server})
	}
	return out
}

var errNotConnected = errors.New("not connected")

func (p *peer) Ask(ctx context.Context, id peerid.ID, pr Protocol, request []byte) ([]byte, error) {
	w := p.town
	w.mu.Lock()
	w.asked[pr.Name]++
	silent := w.silent[id]
	lie, lies := w.lies[id][pr.Name]
	w.mu.Unlock()
	if silent {
		<-ctx.Done()
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for _, q := range p.neighbours() {
		if q.Self() != id {
			continue
		}
		if lies {
			return lie, nil
		}
		if len(request) > pr.MaxRequest {
			w.t.Errorf("%s: a request of %d bytes", pr.Name, len(request))
		}
		q.HearCharter(p.Self(), p.Revocations().Charter())
		from, err := q.Verify(p.Own().Chain, p.Self()) // its hello
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, pr.Timeout)
		defer cancel()
		answer := map[string]func(context.Context, *membership.Member, []byte) ([]byte, error){
			ConfirmProtocol.Name: q.AnswerConfirm, ConfirmedProtocol.Name: q.AnswerConfirmed, RevocationProtocol.Name: q.AnswerList,
			UsesProtocol.Name: q.AnswerUses, WithdrawProtocol.Name: q.AnswerWithdraw, RotateProtocol.Name: q.AnswerRotate,
		}[pr.Name]
		b, err := answer(ctx, from, request)
		if pr.Name == ConfirmProtocol.Name {
			w.mu.Lock()
			late := w.late
			w.late = nil
			w.mu.Unlock()
			if late != nil {
				late()
			}
		}
		if len(b) > pr.MaxAnswer {
			w.t.Errorf("%s: an answer of %d bytes", pr.Name, len(b))
		}
		return b, err
	}
	return nil, errNotConnected
}

func (p *peer) Go(f func(context.Context)) { p.town.wg.Go(func() { f(p.town.t.Context()) }) }

// found begins an overlay.
func (w *town) found(name string) *peer {
	w.t.Helper()
	p := w.newPeer(nil, nil)
	return p.run(Found(p.config(), "example.com", name))
}

// foundSaved begins an overlay whose founder can be resumed.
func (w *town) foundSaved(name string) *peer {
	w.t.Helper()
	p := w.newPeer(nil, openDir(w.t))
	return p.run(Found(p.config(), "example.com", name))
}

func (p *peer) token(opts membership.InviteOptions) *membership.Token {
	p.town.t.Helper()
	t, err := p.Invite(opts)
	if err != nil {
		p.town.t.Fatal(err)
	}
	return t
}

// join brings a new peer in, whose name is decided.
func (w *town) join(t *membership.Token, name string) *peer {
	w.t.Helper()
	return w.joinAs(w.newPeer(nil, nil), t, name)
}

func (w *town) joinAs(p *peer, t *membership.Token, name string) *peer {
	w.t.Helper()
	p.run(Enter(p.config(), t, name))
	if err := p.SettleName(w.t.Context(), t); err != nil {
		w.t.Fatal(err)
	}
	return p
}

// meet has each of those given verify the chains of all others.
func meet(t *testing.T, peers ...*peer) {
	t.Helper()
	for _, a := range peers {
		for _, b := range peers {
			if a == b {
				continue
			}
			if _, err := a.Verify(b.Own().Chain, b.Self()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func openDir(t *testing.T) *state.Dir {
	t.Helper()
	d, err := state.Open("")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// warnings returns the lines of a log at Warn and above.
func warnings(log string) (lines []string) {
	for line := range strings.Lines(log) {
		if strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") {
			lines = append(lines, line)
		}
	}
	return lines
}
