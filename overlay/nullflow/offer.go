package nullflow

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/idloc/idloc/internal/null"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/wire"
)

const (
	maxMTU     = 65507 // the largest UDP payload that a socket takes
	answersMax = 256   // offers whose answers are kept
)

// stricter returns the stricter of two policies.
func stricter(a, b uint8) uint8 { return min(a, b) }

// allowed says whether a flow may be, given both policies.
func allowed(policy uint8, udp bool) bool {
	return policy == wire.PolicyPlain || policy == wire.PolicyTLS && !udp
}

func newFlowID() (id [16]byte) {
	rand.Read(id[:]) // never fails, crypto/rand
	return id
}

// about is the part of an offer or answer about f that is the same each time.
func (f *flow) about(kind wire.FlowKind) wire.Flow {
	w := wire.Flow{Kind: kind, Protocol: wire.FlowTCP, V6: f.V6, Policy: f.fs.cfg.Handler.Policy, ID: f.key.id,
		OpenerPort: f.Local, ListenerPort: f.Remote}
	if f.UDP {
		w.Protocol = wire.FlowUDP
	}
	if !f.Opener {
		w.OpenerPort, w.ListenerPort = f.Remote, f.Local
	}
	return w
}

// local is what this side says in an offer or an answer about a flow. A nil c
// shows no candidate.
func (fs *Flows) local(c Checks, w wire.Flow) pipe.Local {
	l := pipe.Local{Chain: fs.cfg.Chain(), MTU: maxMTU, Encapsulation: wire.Null, Flow: w}
	if c != nil {
		l.Ufrag, l.Pwd = c.Credentials()
		l.Candidates = c.Candidates()
	}
	return l
}

// ask makes an offer about a flow and brings the answer, which accepts it.
func (fs *Flows) ask(ctx context.Context, p peerid.ID, c Checks, w wire.Flow) (pipe.Remote, error) {
	r, err := fs.cfg.Offers.Ask(ctx, p, fs.local(c, w))
	switch {
	case err != nil:
		return pipe.Remote{}, err
	case r.Encapsulation != wire.Null || r.Flow.ID != w.ID:
		err = errors.New("the answer is about something else")
	default:
		err = refusal(r.Flow.Kind)
	}
	if err != nil {
		return pipe.Remote{}, &Error{StageOffer, err}
	}
	return r, nil
}

// refusal is what an answer says against an offer, nil for one that accepts it.
func refusal(kind wire.FlowKind) error {
	switch kind {
	case wire.FlowOpen, wire.FlowResume:
		return nil
	case wire.FlowForbidden:
		return fmt.Errorf("%w by the peer", ErrForbidden)
	case wire.FlowRefused:
		return ErrRefused
	case wire.FlowUnknown:
		return null.ErrReset
	}
	return errors.New("the peer has no real address for the flow")
}

// Verdict is what becomes of an offer.
type Verdict uint8

// Verdicts.
const (
	Answered Verdict = iota // by an answer, which may still say that no such flow is wanted
	Refused
	Glare // our own offer for the flow stands, which is under way
	Busy  // a newer attempt has been answered before, or too much is under way
)

// Answer is what an offer gets: bytes sealed by this peer, which may be empty if
// the verdict is not Answered.
type Answer struct {
	Verdict Verdict
	Sealed  []byte
}

// answers are those given last, by session of the offer, because an offer may
// come by several ways.
type answers struct {
	mu   sync.Mutex // guards last
	last *simplelru.LRU[[16]byte, *pendingAnswer]
}

type pendingAnswer struct {
	done chan struct{} // closed when a is set
	a    Answer
}

// of returns the answer for a session, and whether the caller has to make it.
func (as *answers) of(session [16]byte) (p *pendingAnswer, first bool) {
	as.mu.Lock()
	defer as.mu.Unlock()
	if as.last == nil {
		as.last, _ = simplelru.NewLRU[[16]byte, *pendingAnswer](answersMax, nil) // fails for sizes below 1
	}
	if p, ok := as.last.Get(session); ok {
		return p, false
	}
	p = &pendingAnswer{done: make(chan struct{})}
	as.last.Add(session, p)
	return p, true
}

// Answer answers an offer about a flow, whose sender is a member. One that comes
// again gets the same answer.
func (fs *Flows) Answer(in *pipe.Incoming) Answer {
	fs.mu.Lock()
	closed := fs.closed
	fs.mu.Unlock()
	if closed {
		return Answer{Verdict: Refused}
	}
	p, first := fs.answers.of(in.Session)
	if first {
		p.a = fs.answer(in)
		close(p.done)
		return p.a
	}
	select {
	case <-p.done:
		return p.a
	case <-fs.ctx.Done():
		return Answer{Verdict: Refused}
	}
}

func (fs *Flows) answer(in *pipe.Incoming) Answer {
	switch in.Remote.Flow.Kind {
	case wire.FlowOpen:
		return fs.answerOpen(in)
	case wire.FlowResume:
		return fs.answerResume(in)
	}
	return reject(in, Refused)
}

// accept answers an offer, with the candidates of c or without. One that cannot be
// answered ends here: it must not stay half open.
func (fs *Flows) accept(in *pipe.Incoming, c Checks, w wire.Flow) Answer {
	sealed, session, err := in.Accept(fs.local(c, w))
	if err != nil {
		fs.log.Debug("offer of a flow not answered", "peer", in.Peer, "err", err)
		if errors.Is(err, pipe.ErrBusy) {
			return reject(in, Busy)
		}
		return reject(in, Refused)
	}
	session.Cancel() // a flow has no use for a pipe's keys
	return Answer{Answered, sealed}
}

// refuse tells the peer, in an answer, why not; it shows no candidate.
func (fs *Flows) refuse(in *pipe.Incoming, kind wire.FlowKind) Answer {
	w := in.Remote.Flow
	return fs.accept(in, nil, wire.Flow{Kind: kind, Protocol: w.Protocol, V6: w.V6, Policy: fs.cfg.Handler.Policy, ID: w.ID,
		Epoch: w.Epoch, OpenerPort: w.OpenerPort, ListenerPort: w.ListenerPort})
}

// reject gives no answer to an offer.
func reject(in *pipe.Incoming, v Verdict) Answer {
	switch v {
	case Refused:
		return Answer{v, in.Refuse(wire.Refused)}
	case Glare:
		return Answer{v, in.Refuse(wire.Glare)}
	}
	in.Reject()
	return Answer{Verdict: v}
}

// answerOpen answers the offer of a flow that is new.
func (fs *Flows) answerOpen(in *pipe.Incoming) Answer {
	w := in.Remote.Flow
	f := &flow{fs: fs, key: flowKey{in.Peer, w.ID}, policy: stricter(fs.cfg.Handler.Policy, w.Policy), chain: in.Remote.Chain,
		Flow: Flow{Peer: in.Peer, UDP: w.Protocol == wire.FlowUDP, V6: w.V6, Local: w.ListenerPort, Remote: w.OpenerPort}}
	if !allowed(f.policy, f.UDP) || fs.cfg.RelaysOnly {
		return fs.refuse(in, wire.FlowForbidden)
	}
	if !fs.reserve(f) {
		return fs.refuse(in, wire.FlowRefused)
	}
	open := fs.answerOpenTCP
	if f.UDP {
		open = fs.answerOpenUDP
	}
	a, begun := open(in, f)
	if !begun {
		fs.release(f)
	}
	return a
}

// answerResume answers the offer of other real addresses for a flow.
func (fs *Flows) answerResume(in *pipe.Incoming) Answer {
	w := in.Remote.Flow
	f := fs.find(flowKey{in.Peer, w.ID})
	if f == nil || f.UDP != (w.Protocol == wire.FlowUDP) {
		return fs.refuse(in, wire.FlowUnknown)
	}
	if p := stricter(fs.cfg.Handler.Policy, w.Policy); !allowed(p, f.UDP) || p < f.policy {
		return fs.refuse(in, wire.FlowForbidden)
	}
	a, ctx, v := f.admit(w.Epoch)
	if a == nil {
		return reject(in, v)
	}
	if f.UDP {
		return f.answerResumeUDP(ctx, a, in)
	}
	return f.answerResumeTCP(ctx, a, in)
}
