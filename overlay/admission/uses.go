package admission

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/field"
	"github.com/idloc/idloc/overlay/membership"
)

// The uses protocol: who was confirmed out of an invitation? An issuer answers with a
// statement for each (membership.Issuer.Attest), which makes nobody a member; another
// member asks an issuer (hops 1). That nobody is named proves nothing.
//
//	question: hops 1 | invitation 32
//	answer:   statements 1 | { length 2 | statement } ...
const (
	askUsesEvery = time.Minute
	silentFor    = time.Minute
	proofLife    = 30 * time.Minute
	proofsMax    = 4096 // remembered by an issuer
	// askUsesMax is of how many provisional members' invitations it is asked at one sweep.
	askUsesMax = 8
)

// inquire asks those who confirm whether a provisional member's invitation was used,
// if it is for a number of members. If it was, the member is none from then on. It says
// whether it asks.
func (r *Roster) inquire(m *membership.Member) bool {
	if m.Confirmed || m.Uses == 0 || !r.registry.due(m, r.now()) {
		return false
	}
	r.cfg.Network.Go(func(ctx context.Context) {
		r.findUses(ctx, m)
		if r.holds(m) != nil {
			r.cfg.Ended()
		}
	})
	return true
}

// inquireAgain asks for those that are in and provisional still: an issuer that was not
// reached when they came may be now.
func (r *Roster) inquireAgain() {
	all := r.Members()
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	left := askUsesMax
	for _, m := range all {
		if left > 0 && r.inquire(m) {
			left--
		}
	}
}

// findUses asks all connected issuers, of which each may know what the others do not.
// If none has answered others are asked that may reach one, until one proves that
// somebody came: one that says nothing of the kind may lie.
func (r *Roster) findUses(ctx context.Context, m *membership.Member) {
	answered := false
	for _, p := range r.issuers(m.Peer) {
		_, err := r.askUses(ctx, p, m.Invitation, 0)
		answered = answered || err == nil
	}
	if answered || r.issuing() != nil {
		return
	}
	asked := 0
	for _, n := range r.cfg.Network.Neighbours() {
		if n.Peer == m.Peer || asked >= confirmersMax {
			continue
		}
		asked++
		if n, err := r.askUses(ctx, n.Peer, m.Invitation, 1); err == nil && n > 0 {
			return
		}
	}
}

// inquireOthers asks the other issuers, before one of them confirms.
func (r *Roster) inquireOthers(ctx context.Context, m *membership.Member) {
	if m.Confirmed || m.Uses == 0 {
		return
	}
	r.eachIssuer(ctx, m.Peer, func(ctx context.Context, p peerid.ID) error {
		_, err := r.askUses(ctx, p, m.Invitation, 0)
		return err
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
	for _, p := range r.issuers(but) {
		if r.silent(p) {
			r.cfg.Network.Go(func(ctx context.Context) { ask(ctx, p) })
		} else {
			wait.Go(func() { ask(ctx, p) })
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

// askUses notes who has used an invitation, as far as a neighbour can prove that, and
// returns of how many it can.
func (r *Roster) askUses(ctx context.Context, p peerid.ID, invitation membership.Key, hops byte) (proven int, err error) {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	b, err := r.cfg.Network.Ask(ctx, p, UsesProtocol, append([]byte{hops}, invitation[:]...))
	if err != nil {
		return 0, err
	}
	statements, err := readUses(b)
	if err != nil {
		return 0, err
	}
	for _, c := range statements {
		m, err := membership.VerifyUse(c, r.overlay, r.now(), r.Revocations())
		if err != nil {
			return proven, err
		}
		if m.Invitation != invitation {
			continue
		}
		if err := r.registry.enter(m, false, r.now()); err != nil {
			return proven, err
		}
		proven++
	}
	return proven, nil
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
		for _, p := range r.issuers(from.Peer) {
			var b []byte
			if b, err = r.cfg.Network.Ask(ctx, p, UsesProtocol, append([]byte{0}, invitation[:]...)); err == nil {
				return b, nil
			}
		}
		return nil, err
	}
	used := r.registry.usedBy(invitation)
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

// proof is an issuer's statement that a peer came by an invitation. It is kept for
// a while, so that many questions cost no more signatures than few.
func (r *registry) proof(issuer *membership.Issuer, invitation membership.Key, p peerid.ID, now time.Time) ([]byte, error) {
	k := proofKey{invitation, p}
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, ok := r.proofs.Get(k); ok && now.Before(old.made.Add(proofLife)) && !now.Before(old.made) {
		return old.chain, nil
	}
	chain, err := issuer.Attest(p, invitation, now)
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
