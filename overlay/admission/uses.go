package admission

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/field"
	"github.com/idloc/idloc/overlay/membership"
)

// The uses protocol: who was confirmed out of an invitation? An issuer answers with a
// certificate for each, which it makes for the purpose, without a name and without
// rights; another member asks an issuer (hops 1).
//
//	question: hops 1 | invitation 32
//	answer:   chains 1 | { length 2 | chain } ...
const (
	askUsesEvery = time.Minute
	silentFor    = time.Minute
	proofLife    = time.Hour
	proofsMax    = 4096 // remembered by an issuer
)

// inquire asks those who confirm whether a provisional member's invitation was used,
// if it is for a number of members. If it was, the member is none from then on.
func (r *Roster) inquire(m *membership.Member) {
	if m.Confirmed || m.Uses == 0 || r.issuing() != nil || !r.registry.due(m, r.now()) {
		return
	}
	r.cfg.Network.Go(func(ctx context.Context) {
		for _, p := range r.whoConfirms(m.Peer) {
			if r.askUses(ctx, p, m.Invitation, 1) == nil {
				break
			}
		}
		if r.holds(m) != nil {
			r.cfg.Ended()
		}
	})
}

// inquireOthers asks the other issuers, before one of them confirms.
func (r *Roster) inquireOthers(ctx context.Context, m *membership.Member) {
	if m.Confirmed || m.Uses == 0 {
		return
	}
	r.eachIssuer(ctx, m.Peer, func(ctx context.Context, p peerid.ID) error {
		return r.askUses(ctx, p, m.Invitation, 0)
	})
}

// eachIssuer does something with each connected issuer but one, at once with all, and
// returns when that is done, or after tellTimeout: one that is dead must not keep a
// joiner waiting. Nor is one waited for that was silent within the last silentFor.
func (r *Roster) eachIssuer(ctx context.Context, but peerid.ID, do func(context.Context, peerid.ID) error) {
	ask := func(ctx context.Context, p peerid.ID) {
		ctx, cancel := context.WithTimeout(ctx, tellTimeout)
		defer cancel()
		err := do(ctx, p)
		r.noteSilence(p, errors.Is(err, context.DeadlineExceeded))
		if err != nil {
			r.cfg.Log.Debug("another issuer does not answer what it is asked or told about invitations", "peer", p, "err", err)
		}
	}
	var wait sync.WaitGroup
	for _, n := range r.cfg.Network.Neighbours() {
		switch {
		case !n.Issuer || n.Peer == but:
		case r.silent(n.Peer):
			r.cfg.Network.Go(func(ctx context.Context) { ask(ctx, n.Peer) })
		default:
			wait.Go(func() { ask(ctx, n.Peer) })
		}
	}
	wait.Wait()
}

func (r *Roster) silent(p peerid.ID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, ok := r.silence[p]
	return ok && r.now().Sub(at).Abs() < silentFor
}

// noteSilence notes whether an issuer has not answered in time.
func (r *Roster) noteSilence(p peerid.ID, silent bool) {
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for q, at := range r.silence {
		if now.Sub(at).Abs() >= silentFor {
			delete(r.silence, q)
		}
	}
	if silent {
		r.silence[p] = now
	} else {
		delete(r.silence, p)
	}
}

// whoConfirms returns neighbours that confirm or may reach one that does, but one.
func (r *Roster) whoConfirms(but peerid.ID) []peerid.ID {
	var first, rest []peerid.ID
	for _, n := range r.cfg.Network.Neighbours() {
		switch {
		case n.Peer == but:
		case n.Issuer:
			first = append(first, n.Peer)
		default:
			rest = append(rest, n.Peer)
		}
	}
	return append(first, rest[:min(len(rest), confirmersMax)]...)
}

// askUses notes who has used an invitation, as far as a neighbour can prove that.
func (r *Roster) askUses(ctx context.Context, p peerid.ID, invitation membership.Key, hops byte) error {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	b, err := r.cfg.Network.Ask(ctx, p, UsesProtocol, append([]byte{hops}, invitation[:]...))
	if err != nil {
		return err
	}
	chains, err := readUses(b)
	if err != nil {
		return err
	}
	for _, c := range chains {
		m, err := membership.VerifyChain(c, r.overlay, r.now(), r.Revocations())
		if err == nil && m.Confirmed && m.Invitation == invitation {
			err = r.registry.enter(m, false, r.now())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func readUses(b []byte) (chains [][]byte, err error) {
	f := field.NewReader(bytes.NewReader(b))
	n := int(f.Uint8())
	if n > membership.MaxUses {
		f.Fail(errors.New("more chains than an invitation has uses"))
	}
	for i := 0; i < n && f.Err() == nil; i++ {
		chains = append(chains, f.Short16(membership.MaxChain))
	}
	return chains, f.Err()
}

// AnswerUses answers the UsesProtocol.
func (r *Roster) AnswerUses(ctx context.Context, from *membership.Member, request []byte) ([]byte, error) {
	f := field.NewReader(bytes.NewReader(request))
	hops := f.Uint8()
	invitation := membership.Key(f.Bytes(32))
	if f.Err() != nil {
		return nil, f.Err()
	}
	issuer := r.issuing()
	if issuer == nil && hops == 0 {
		return nil, errNobodyConfirms
	}
	if issuer == nil {
		err := error(errNobodyConfirms)
		for _, n := range r.cfg.Network.Neighbours() {
			if n.Issuer && n.Peer != from.Peer {
				var b []byte
				if b, err = r.cfg.Network.Ask(ctx, n.Peer, UsesProtocol, append([]byte{0}, invitation[:]...)); err == nil {
					return b, nil
				}
			}
		}
		return nil, err
	}
	used := r.registry.usedBy(invitation)
	used = used[:min(len(used), membership.MaxUses)]
	answer := []byte{byte(len(used))}
	for _, p := range used {
		chain, err := r.registry.proof(issuer, invitation, p, r.now())
		if err != nil {
			return nil, err
		}
		answer = field.Append16(answer, chain)
	}
	return answer, nil
}

// proof is an issuer's certificate that a peer came by an invitation. It is kept for
// a while, so that many questions cost no more signatures than few.
func (r *registry) proof(issuer *membership.Issuer, invitation membership.Key, p peerid.ID, now time.Time) ([]byte, error) {
	k := proofKey{invitation, p}
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, ok := r.proofs.Get(k); ok && now.Before(old.made.Add(proofLife/2)) && !now.Before(old.made) {
		return old.chain, nil
	}
	chain, err := issuer.Issue(p, membership.MemberOptions{Invitation: invitation, Until: now.Add(proofLife)}, now)
	if err == nil {
		r.proofs.Add(k, proof{chain, now})
	}
	return chain, err
}

type proofKey struct {
	invitation membership.Key
	peer       peerid.ID
}

type proof struct {
	chain []byte
	made  time.Time
}
