package offers

import (
	"context"
	"crypto/ed25519"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/leaktest"
	"github.com/idloc/idloc/internal/pause"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/overlay/membership"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// world is members with connections between them, without sockets: a request
// takes latency each way, by the clock of a synctest bubble.
type world struct {
	t       *testing.T
	latency time.Duration
	begun   time.Time

	mu    sync.Mutex // guards what follows
	peers map[peerid.ID]*peer
	links map[link]*conn
	rung  map[peerid.ID]chan struct{} // Arrival
	dials map[link]bool               // who can connect to whom
	holes map[link]bool               // whose dials to whom say nothing until they are connected
}

type link struct{ a, b peerid.ID }

// conn is a connection: it ends, or is replaced by a newer one.
type conn struct {
	latest context.Context
	end    context.CancelFunc
}

// peer is a member of a world: it is its own Mesh and Directory.
type peer struct {
	*Router
	w     *world
	id    peerid.ID
	pipes *pipe.Endpoint

	dead             map[peerid.ID]bool        // Config.PipeDead
	hints, contacts  map[peerid.ID][]peerid.ID // Directory
	servers, nearest []peerid.ID               // Directory

	mu       sync.Mutex // guards what follows
	member   *membership.Member
	lie      *Response                        // what it says to offers for others; nil: it forwards
	late     time.Duration                    // how long it thinks about its lie
	silent   bool                             // it answers nobody
	offered  func(in *pipe.Incoming) Response // nil: it accepts
	onAsk    func(n int)                      // called before its n-th request leaves
	asked    []string                         // whom it asked, in order
	at       []time.Duration                  // when, since the world began
	suspects []peerid.ID                      // in order
	received map[peerid.ID]uint64             // Received
	events   []event.Event
}

type noHandler struct{}

func (noHandler) Data(*pipe.Pipe, []byte, int)   {}
func (noHandler) Large(*pipe.Pipe, bool, []byte) {}
func (noHandler) Up(*pipe.Pipe)                  {}
func (noHandler) Down(*pipe.Pipe, error)         {}
func (noHandler) Gone(peerid.ID, error)          {}

func newWorld(t *testing.T, latency time.Duration) *world {
	return &world{t: t, latency: latency, begun: time.Now(), peers: map[peerid.ID]*peer{}, links: map[link]*conn{}, rung: map[peerid.ID]chan struct{}{}, dials: map[link]bool{}, holes: map[link]bool{}}
}

// add makes a member that forwards, by the invitation given.
func (w *world) add(name string, invitation byte) *peer {
	w.t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	id, err := peerid.FromPublicKey(pub)
	if err != nil {
		w.t.Fatal(err)
	}
	p := &peer{w: w, id: id, member: &membership.Member{Peer: id, Label: name, Invitation: membership.Key{invitation}},
		hints: map[peerid.ID][]peerid.ID{}, contacts: map[peerid.ID][]peerid.ID{}, dead: map[peerid.ID]bool{}}
	if p.pipes, err = pipe.NewEndpoint(pipe.Config{Key: key, Handler: noHandler{}}); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = p.pipes.Close() })
	p.Router, err = New(Config{Self: id, Mesh: p, Directory: p, Forward: true, Offered: p.answerOffer,
		PipeDead: func(id peerid.ID) bool { return p.dead[id] }, Events: p.note})
	if err != nil {
		w.t.Fatal(err)
	}
	w.peers[id] = p
	return p
}

// connect connects two members, by a newer connection if they are.
func (w *world) connect(a, b *peer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if old := w.links[link{a.id, b.id}]; old != nil {
		old.end()
	}
	c := &conn{}
	c.latest, c.end = context.WithCancel(context.Background())
	w.links[link{a.id, b.id}], w.links[link{b.id, a.id}] = c, c
	for _, p := range []*peer{a, b} {
		if ch := w.rung[p.id]; ch != nil {
			close(ch)
			delete(w.rung, p.id)
		}
	}
}

func (w *world) cut(a, b *peer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.links[link{a.id, b.id}].end()
	delete(w.links, link{a.id, b.id})
	delete(w.links, link{b.id, a.id})
}

func (w *world) conn(a, b peerid.ID) *conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.links[link{a, b}]
}

func (p *peer) note(e event.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events = append(p.events, e)
}

func (p *peer) answerOffer(_ context.Context, q Request, _ peerid.ID) Response {
	in, err := p.pipes.ReadOffer(q.Offer)
	if err != nil {
		return Response{Status: Refused}
	}
	p.mu.Lock()
	offered := p.offered
	p.mu.Unlock()
	if offered != nil {
		return offered(in)
	}
	answer, _, err := in.Accept(pipe.Local{})
	if err != nil {
		return Response{Status: Refused}
	}
	return Response{Status: Answered, Answer: answer}
}

// acceptAfter is for peer.offered: it thinks for a while, and accepts.
func acceptAfter(d time.Duration) func(*pipe.Incoming) Response {
	return func(in *pipe.Incoming) Response {
		time.Sleep(d) // in the bubble
		if answer, _, err := in.Accept(pipe.Local{}); err == nil {
			return Response{Status: Answered, Answer: answer}
		}
		return Response{Status: Refused}
	}
}

func (p *peer) Members() (out []*membership.Member) {
	for id := range maps.Keys(p.w.peers) {
		if p.w.conn(p.id, id) != nil {
			out = append(out, p.w.peers[id].member)
		}
	}
	slices.SortFunc(out, func(a, b *membership.Member) int { return a.Peer.Compare(b.Peer) })
	return out
}

func (p *peer) Member(id peerid.ID) (*membership.Member, bool) {
	if p.w.conn(p.id, id) == nil {
		return nil, false
	}
	return p.w.peers[id].member, true
}

func (p *peer) Connect(ctx context.Context, id peerid.ID) error {
	for p.w.holes[link{p.id, id}] {
		arrival := p.Arrival()
		if p.w.conn(p.id, id) != nil {
			return nil
		}
		select {
		case <-arrival:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if !pause.For(ctx, 2*p.w.latency) {
		return ctx.Err()
	}
	if !p.Reachable(id) {
		return errors.New("no route")
	}
	p.w.connect(p, p.w.peers[id])
	return nil
}

func (p *peer) Reachable(id peerid.ID) bool {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	return p.w.dials[link{p.id, id}] || p.w.holes[link{p.id, id}]
}

func (p *peer) Arrival() <-chan struct{} {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if p.w.rung[p.id] == nil {
		p.w.rung[p.id] = make(chan struct{})
	}
	return p.w.rung[p.id]
}

func (p *peer) Latest(id peerid.ID) context.Context {
	if c := p.w.conn(p.id, id); c != nil {
		return c.latest
	}
	return context.Background()
}

func (p *peer) Suspect(id peerid.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.suspects = append(p.suspects, id)
}

func (p *peer) Received(id peerid.ID) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.received[id]
}

// Ask has the request answered as the other member would.
func (p *peer) Ask(ctx context.Context, id peerid.ID, q Request) (Response, error) {
	p.mu.Lock()
	p.asked = append(p.asked, p.w.peers[id].member.Label)
	p.at = append(p.at, time.Since(p.w.begun))
	n, on := len(p.asked), p.onAsk
	p.mu.Unlock()
	if on != nil {
		on(n)
	}
	c := p.w.conn(p.id, id)
	if c == nil {
		return Response{}, errors.New("connection reset")
	}
	done := make(chan Response, 1)
	other := p.w.peers[id]
	go func() {
		if !pause.For(ctx, p.w.latency) {
			return
		}
		other.mu.Lock()
		lie, late, silent := other.lie, other.late, other.silent
		other.mu.Unlock()
		if silent {
			return
		}
		var a Response
		if lie != nil && q.Target != id {
			if a = *lie; !pause.For(ctx, late) {
				return
			}
		} else {
			a = other.Answer(ctx, q, p.id)
		}
		if pause.For(ctx, p.w.latency) {
			done <- a
		}
	}()
	select {
	case a := <-done:
		return a, nil
	case <-c.latest.Done():
		return Response{}, errors.New("connection reset")
	case <-ctx.Done():
		return Response{}, ctx.Err()
	}
}

func (p *peer) Hints(id peerid.ID) []peerid.ID                       { return p.hints[id] }
func (p *peer) Contacts(_ context.Context, id peerid.ID) []peerid.ID { return p.contacts[id] }
func (p *peer) Servers() []peerid.ID                                 { return slices.Clone(p.servers) }
func (p *peer) Nearest(_ context.Context, _ peerid.ID) (o []peerid.ID) {
	return slices.Clone(p.nearest)
}

// offer makes an offer to another member.
func (p *peer) offer(to *peer) *pipe.Offer {
	p.w.t.Helper()
	o, err := p.pipes.NewOffer(to.id, pipe.Local{})
	if err != nil {
		p.w.t.Fatal(err)
	}
	p.w.t.Cleanup(o.Cancel)
	return o
}

// deliver makes an offer and delivers it.
func (p *peer) deliver(to *peer) (*pipe.Session, peerid.ID, error) {
	p.w.t.Helper()
	return p.Deliver(p.w.t.Context(), to.id, p.offer(to))
}
