package pki

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/idloc/idloc/internal/logpace"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/state"
	"github.com/idloc/idloc/internal/wallclock"
	"github.com/idloc/idloc/overlay/admission"
	"github.com/idloc/idloc/overlay/membership"
)

const (
	// others is how many members are asked that do not sign themselves.
	others = 3
	// upkeepEvery is how often a certificate that is in use is looked at, and how long after a
	// failure nobody is asked again while there is one that is good.
	upkeepEvery = 10 * time.Minute
	// stateFile keeps what was signed. Nothing in it is secret.
	stateFile = "certificates"
)

// ErrNoCertificate: this peer has no certificate now, and nobody to get one from.
var ErrNoCertificate = errors.New("pki: no certificate")

var errProvisional = fmt.Errorf("%w: the name is not confirmed", ErrNoCertificate)

// Roster is what a Keeper needs to know of members. It is safe for concurrent use.
type Roster interface {
	Overlay() membership.Overlay
	Self() peerid.ID
	Own() admission.Own
	Authority() bool
	Key() membership.Key // by which it is one
	SignRoot(der []byte) (membership.Key, []byte, error)
	Rules(*membership.Member) bool
	Member(peerid.ID) (*membership.Member, bool)
	Holder(label string) (peerid.ID, bool)
	Revoked(peerid.ID) bool
	Revocations() *membership.RevocationList
}

var _ Roster = (*admission.Roster)(nil)

// Config configures a Keeper.
type Config struct {
	Key   ed25519.PrivateKey // the peer's identity; required
	State *state.Dir         // nil keeps nothing
	Log   *slog.Logger       // nil is silent
	Now   func() time.Time   // nil is wallclock.Now
}

// Keeper is what a peer has of certificates and roots, and answers others. It is safe for
// concurrent use, once it was attached.
type Keeper struct {
	cfg    Config
	log    *slog.Logger
	roster Roster
	net    admission.Network

	turn    chan struct{} // full while somebody is asked for this peer's certificate
	begin   sync.Once     // upkeep
	rooting sync.Mutex    // held while an own root is made

	mu    sync.Mutex // guards the rest
	roots map[membership.Key]root
	chain []*x509.Certificate // own, and of the delegate that has signed it
	above *x509.Certificate   // by which this peer signs as a delegate
	tries int                 // to get chain
	err   error               // of the last one
}

// New returns a Keeper that knows nothing before it is attached.
func New(cfg Config) *Keeper {
	if cfg.Now == nil {
		cfg.Now = wallclock.Now
	}
	return &Keeper{cfg: cfg, log: logpace.New(cfg.Log), turn: make(chan struct{}, 1), roots: map[membership.Key]root{}}
}

// Attach gives it what it needs of the peer. It is called once, before anything else.
func (k *Keeper) Attach(r Roster, n admission.Network) {
	k.roster, k.net = r, n
	k.load()
}

func (k *Keeper) now() time.Time { return k.cfg.Now() }

// Now is the time by which certificates are judged.
func (k *Keeper) Now() time.Time { return k.now() }

func (k *Keeper) key(use string) (*ecdsa.PrivateKey, error) {
	return derive(k.cfg.Key, k.roster.Overlay().ID, use)
}

// Certificate is this peer's own, with its chain but for the root. It is asked for at the first
// call, which takes until there is an answer, and from then on renewed by itself. The error
// is an ErrNoCertificate if there is none.
func (k *Keeper) Certificate(ctx context.Context) (*tls.Certificate, error) {
	k.begin.Do(func() { k.net.Go(k.upkeep) })
	chain, _ := k.own()
	if chain == nil {
		if err := k.obtain(ctx); err != nil {
			return nil, err
		}
		if chain, _ = k.own(); chain == nil {
			return nil, errProvisional // the name has changed meanwhile
		}
	}
	key, err := k.key(forTLS)
	if err != nil {
		return nil, err
	}
	c := &tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, part := range chain {
		c.Certificate = append(c.Certificate, part.Raw)
	}
	return c, nil
}

// own is this peer's chain, nil if it is none for its name now; and whether it is time for
// another one.
func (k *Keeper) own() (chain []*x509.Certificate, due bool) {
	me := k.roster.Own()
	k.mu.Lock()
	defer k.mu.Unlock()
	if !good(k.chain, k.roster.Overlay().FullName(me.Label), k.now()) {
		return nil, true
	}
	return k.chain, half(k.chain[0], k.now())
}

func good(chain []*x509.Certificate, name string, now time.Time) bool {
	if len(chain) == 0 || !slices.Equal(chain[0].DNSNames, []string{name}) {
		return false
	}
	return !slices.ContainsFunc(chain, func(c *x509.Certificate) bool { return !now.Before(c.NotAfter) })
}

// half says whether a certificate has less than half of its life left.
func half(c *x509.Certificate, now time.Time) bool {
	return c.NotAfter.Sub(now) < c.NotAfter.Sub(c.NotBefore)/2
}

// upkeep renews this peer's certificate as long as it runs.
func (k *Keeper) upkeep(ctx context.Context) {
	tick := time.NewTicker(upkeepEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if _, due := k.own(); due && k.roster.Own().Member.Confirmed {
			if err := k.obtain(ctx); err != nil && ctx.Err() == nil {
				k.log.Info("the TLS certificate is not renewed yet", "err", err)
			}
		}
		k.mu.Lock()
		delegate := k.above != nil && half(k.above, k.now())
		k.mu.Unlock()
		if delegate {
			_, _ = k.delegation(ctx) // used until it ends, if nobody answers
		}
	}
}

// obtain gets another certificate: this peer signs it itself, or asks. One at a time: who
// waits for another's turn takes what that has got.
func (k *Keeper) obtain(ctx context.Context) error {
	k.mu.Lock()
	tries := k.tries
	k.mu.Unlock()
	select {
	case k.turn <- struct{}{}:
		defer func() { <-k.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	k.mu.Lock()
	waited, err := k.tries != tries, k.err
	k.mu.Unlock()
	if waited && err != nil && ctx.Err() == nil && !errors.Is(err, context.Canceled) {
		return err
	}
	if _, due := k.own(); !due {
		return nil
	}
	err = k.obtainNow(ctx)
	k.mu.Lock()
	k.tries, k.err = k.tries+1, err
	k.mu.Unlock()
	return err
}

func (k *Keeper) obtainNow(ctx context.Context) error {
	if !k.roster.Own().Member.Confirmed {
		return errProvisional
	}
	q, err := k.ask(wantMember, forTLS)
	if err != nil {
		return err
	}
	a, err := k.certify(ctx, q)
	if errors.Is(err, errNotIssuer) {
		a, err = k.askAll(ctx, q)
	}
	if err != nil {
		return err
	}
	k.takeRoots(a.roots)
	if err := k.usable(a.certs, forTLS); err != nil {
		return err
	}
	if _, err := k.Verify(a.certs, Want{Peer: k.roster.Self(), Name: k.roster.Overlay().FullName(k.roster.Own().Label)}); err != nil {
		return fmt.Errorf("%w: what was signed is not good: %w", ErrNoCertificate, err)
	}
	k.mu.Lock()
	k.chain = a.certs
	k.mu.Unlock()
	k.save()
	return nil
}

// usable wants a certificate of the key that this peer has for a use.
func (k *Keeper) usable(certs []*x509.Certificate, use string) error {
	key, err := k.key(use)
	if err != nil {
		return err
	}
	if len(certs) == 0 || !key.PublicKey.Equal(certs[0].PublicKey) {
		return fmt.Errorf("%w: what was signed is another's key", ErrNoCertificate)
	}
	return nil
}

// below wants a certificate that the root of an authority has signed.
func (k *Keeper) below(c *x509.Certificate) error {
	for _, r := range k.standing() {
		if c.CheckSignatureFrom(r.cert) == nil && c.IsCA {
			return nil
		}
	}
	return fmt.Errorf("%w: no authority has signed what was signed", ErrNoCertificate)
}

// ask is this peer's own question.
func (k *Keeper) ask(w what, use string) (question, error) {
	key, err := k.key(use)
	if err != nil {
		return question{}, err
	}
	q := question{hops: 1, what: w, chain: k.roster.Own().Chain}
	if q.key, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
		return question{}, fmt.Errorf("pki: %w", err)
	}
	q.signature = ed25519.Sign(k.cfg.Key, q.text(k.roster.Overlay()))
	return q, nil
}

// delegation is the certificate by which this peer, a delegate, signs.
func (k *Keeper) delegation(ctx context.Context) (*x509.Certificate, error) {
	k.mu.Lock()
	c := k.above
	k.mu.Unlock()
	now := k.now()
	if c != nil && !half(c, now) {
		return c, nil
	}
	q, err := k.ask(wantDelegate, forSigning)
	if err != nil {
		return nil, err
	}
	a, err := k.askAll(ctx, q)
	if err == nil {
		k.takeRoots(a.roots)
		err = errors.Join(k.usable(a.certs, forSigning), k.below(a.certs[0]))
	}
	if err != nil {
		if c != nil && now.Before(c.NotAfter) {
			return c, nil
		}
		return nil, err
	}
	k.mu.Lock()
	k.above = a.certs[0]
	k.mu.Unlock()
	k.save()
	return a.certs[0], nil
}

// askAll asks issuers, or who may reach one, one after the other, until one signs.
func (k *Keeper) askAll(ctx context.Context, q question) (answer, error) {
	var refusal error
	for _, p := range append(k.issuers(q.what), k.rest()...) {
		a, err := k.exchange(ctx, p, q)
		switch {
		case err != nil:
		case a.status == statusOK && len(a.certs) > 0:
			return a, nil
		case a.status == statusRefused && refusal == nil:
			refusal = fmt.Errorf("%w: %s", ErrNoCertificate, a.text)
		}
		if ctx.Err() != nil {
			return answer{}, ctx.Err()
		}
	}
	if refusal != nil {
		return answer{}, refusal
	}
	return answer{}, fmt.Errorf("%w: no authority or delegate is reached", ErrNoCertificate)
}

func (k *Keeper) exchange(ctx context.Context, p peerid.ID, q question) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	b, err := k.net.Ask(ctx, p, Protocol, q.append(nil))
	if err != nil {
		return answer{}, err
	}
	return readAnswer(b)
}

// issuers are the neighbours that sign: authorities first, and nobody else for delegates.
func (k *Keeper) issuers(w what) []peerid.ID {
	var authorities, delegates []peerid.ID
	for _, n := range k.net.Neighbours() {
		switch m, ok := k.roster.Member(n.Peer); {
		case !ok:
		case k.roster.Rules(m):
			authorities = append(authorities, n.Peer)
		case w != wantDelegate && n.Issuer && m.Confirmed && m.Roles.Has(membership.RoleDelegate):
			delegates = append(delegates, n.Peer)
		}
	}
	return append(authorities, delegates...)
}

// rest are some neighbours that do not sign, those first that have many neighbours.
func (k *Keeper) rest() []peerid.ID {
	var servers, last []peerid.ID
	for _, n := range k.net.Neighbours() {
		switch {
		case n.Issuer:
		case n.Server:
			servers = append(servers, n.Peer)
		default:
			last = append(last, n.Peer)
		}
	}
	all := append(servers, last...)
	return all[:min(len(all), others)]
}

// Roots returns the authorities' own certificates, asking neighbours if none is known, or all
// is to be heard again (fresh).
func (k *Keeper) Roots(ctx context.Context, fresh bool) ([]*x509.Certificate, error) {
	if own, err := k.ownRoot(); err != nil {
		return nil, err
	} else if known := k.standing(); own == nil && len(known) == 0 || fresh {
		q, err := k.ask(wantRoots, forTLS)
		if err != nil {
			return nil, err
		}
		// An issuer always knows one; of the others somebody may.
		for _, p := range append(k.issuers(wantMember), k.rest()...) {
			if a, err := k.exchange(ctx, p, q); err == nil {
				k.takeRoots(a.roots)
				if !fresh && len(k.standing()) > 0 {
					break
				}
			}
		}
	}
	out := k.Known()
	if len(out) == 0 {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w of an authority: none is reached, nor anybody who knows one", ErrNoCertificate)
	}
	return out, nil
}

// Known are the authorities' own certificates that this peer knows. It asks nobody.
func (k *Keeper) Known() (out []*x509.Certificate) {
	for _, r := range k.standing() {
		out = append(out, r.cert)
	}
	return out
}

// PEM writes certificates as files have them (RFC 7468 §5).
func PEM(certs []*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// saved is what is on the disk.
type saved struct {
	Roots []root   `json:"roots,omitempty"`
	Chain [][]byte `json:"chain,omitempty"`
	Above []byte   `json:"above,omitempty"`
}

func (k *Keeper) save() {
	if k.cfg.State == nil {
		return
	}
	var s saved
	k.mu.Lock()
	for _, r := range k.roots {
		s.Roots = append(s.Roots, r)
	}
	for _, c := range k.chain {
		s.Chain = append(s.Chain, c.Raw)
	}
	if k.above != nil {
		s.Above = k.above.Raw
	}
	k.mu.Unlock()
	slices.SortFunc(s.Roots, func(a, b root) int { return bytes.Compare(a.Authority[:], b.Authority[:]) })
	k.cfg.State.Keep(k.log, stateFile, s)
}

// load takes what was saved, as far as it is this peer's still. What is not is asked for again.
func (k *Keeper) load() {
	if k.cfg.State == nil {
		return
	}
	var s saved
	if _, damaged := k.cfg.State.LoadCache(stateFile, &s); damaged != nil {
		k.log.Warn("saved state is damaged and begun anew", "name", stateFile, "err", damaged)
		return
	}
	o, now := k.roster.Overlay(), k.now()
	for _, r := range s.Roots {
		if r.check(o, now) == nil && len(k.roots) < MaxRoots {
			k.roots[r.Authority] = r
		}
	}
	var chain []*x509.Certificate
	for _, der := range s.Chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		chain = append(chain, c)
	}
	if k.usable(chain, forTLS) == nil {
		k.chain = chain
	}
	if c, err := x509.ParseCertificate(s.Above); err == nil && k.usable([]*x509.Certificate{c}, forSigning) == nil {
		k.above = c
	}
}
