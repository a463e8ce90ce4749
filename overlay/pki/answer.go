package pki

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

// Answer answers the Protocol: an issuer signs, anybody else asks one (hops 1), and all say
// which roots they know. request is borrowed.
func (k *Keeper) Answer(ctx context.Context, from *membership.Member, request []byte) ([]byte, error) {
	q, err := readQuestion(request)
	if err != nil {
		return nil, err
	}
	var a answer
	switch {
	case q.what == wantRoots:
		a.status = statusOK
	case q.what != wantMember && q.what != wantDelegate:
		return nil, fmt.Errorf("pki: %d is wanted", q.what)
	default:
		a, err = k.certify(ctx, q)
		if errors.Is(err, errNotIssuer) {
			a = k.passOn(ctx, q, from.Peer)
		} else if err != nil {
			k.log.Info("a certificate is refused", "asked by", from.Peer, "err", err)
			a = answer{status: statusRefused, text: strings.TrimPrefix(err.Error(), "pki: ")}
		}
	}
	if _, err := k.ownRoot(); err != nil {
		return nil, err
	}
	a.roots = k.standing()
	return a.append(nil), nil
}

var errNotIssuer = errors.New("pki: no authority or delegate here")

// certify signs what a question asks for, if this peer may.
func (k *Keeper) certify(ctx context.Context, q question) (answer, error) {
	o, now, rev := k.roster.Overlay(), k.now(), k.roster.Revocations()
	i, err := k.issuer(ctx, q.what)
	if err != nil {
		return answer{}, err
	}
	m, err := membership.VerifyChain(q.chain, o, now, rev)
	if err != nil {
		return answer{}, fmt.Errorf("pki: %w", err)
	}
	holder, known := k.roster.Holder(m.Label)
	switch {
	case !ed25519.Verify(m.Peer.PublicKey(), q.text(o), q.signature):
		return answer{}, errors.New("pki: the question is not signed by the member that it is for")
	case !m.Confirmed || membership.CheckLabel(m.Label) != nil:
		return answer{}, errProvisional
	case known && holder != m.Peer:
		return answer{}, fmt.Errorf("pki: the name %q is another's", m.Label)
	case q.what == wantDelegate && !m.Roles.Has(membership.RoleDelegate):
		return answer{}, errors.New("pki: only delegates sign for others")
	}
	key, err := readKey(q.key)
	if err != nil {
		return answer{}, err
	}
	signed := i.member
	if q.what == wantDelegate {
		signed = i.delegate
	}
	c, err := signed(o, m, key, now)
	if err != nil {
		return answer{}, err
	}
	return answer{status: statusOK, certs: append([]*x509.Certificate{c}, i.more...)}, nil
}

// passOn brings a question to an issuer, and its answer back.
func (k *Keeper) passOn(ctx context.Context, q question, from peerid.ID) answer {
	if q.hops == 0 {
		return answer{status: statusNobody}
	}
	q.hops--
	for _, p := range k.issuers(q.what) {
		if p == from {
			continue
		}
		if a, err := k.exchange(ctx, p, q); err == nil && a.status != statusNobody {
			k.takeRoots(a.roots) // Answer tells those that are
			return a
		}
	}
	return answer{status: statusNobody}
}

// issuer is this peer as one: by its root, or by the certificate of a delegate, for which an
// authority is asked when it is first needed.
func (k *Keeper) issuer(ctx context.Context, w what) (issuer, error) {
	if r, err := k.ownRoot(); r != nil || err != nil {
		if err != nil {
			return issuer{}, err
		}
		key, err := k.key(forSigning)
		return issuer{cert: r.cert, key: key}, err
	}
	if own := k.roster.Own(); !own.Issuer || w == wantDelegate {
		return issuer{}, errNotIssuer
	}
	c, err := k.delegation(ctx)
	if err != nil {
		return issuer{}, fmt.Errorf("%w: %w", errNotIssuer, err) // another one may
	}
	key, err := k.key(forSigning)
	return issuer{cert: c, key: key, more: []*x509.Certificate{c}}, err
}

// ownRoot is this peer's, if it is an authority; nil: it is none. It is made when it is first
// needed.
func (k *Keeper) ownRoot() (*root, error) {
	if !k.roster.Authority() {
		return nil, nil
	}
	k.rooting.Lock()
	defer k.rooting.Unlock()
	o, self := k.roster.Overlay(), k.roster.Key()
	k.mu.Lock()
	r, ok := k.roots[self]
	k.mu.Unlock()
	if ok && r.cert.NotAfter.Sub(k.now()) > RootLife/10 {
		return &r, nil
	}
	key, err := k.key(forSigning)
	if err != nil {
		return nil, err
	}
	c, err := newRoot(key, o, self.Peer(), k.now())
	if err != nil {
		return nil, err
	}
	r = root{DER: c.Raw, cert: c}
	if r.Authority, r.Signature, err = k.roster.SignRoot(c.Raw); err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	k.mu.Lock()
	k.roots[self] = r
	k.mu.Unlock()
	k.save()
	return &r, nil
}
