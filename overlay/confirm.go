package overlay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/state"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/naming"
)

// The confirm protocol: one question, one answer.
//
//	question: version 1 | hops 1 | label length 1 | label | chain length 2 | chain
//	answer:   status 1 | text length 1 | label or reason |
//	          chain length 2 | chain | delegation length 2 | delegation
//
// A member that cannot confirm passes the question on to one that can (hops
// 1), so that a joiner needs to reach only one member.
const (
	confirmVersion = 1
	confirmOK      = 0
	confirmRefused = 1 // for good: the label or the token is another's
	confirmNobody  = 2 // nobody here can

	confirmTimeout = 4 * time.Second
	tellTimeout    = time.Second // for the other issuers to note it
	maxTies        = 200         // mars-2 … mars-200
)

var (
	errNobodyConfirms = errors.New("no founder or delegate reached")
	errLabelTaken     = errors.New("label taken")
)

// ErrNameTaken is wrapped by Join's error when a named token's label belongs
// to another peer.
var ErrNameTaken = errLabelTaken

type confirmQuestion struct {
	hops  uint8
	label string
	chain []byte
}

type confirmAnswer struct {
	status     uint8
	text       string
	chain      []byte
	delegation []byte
}

func (q confirmQuestion) append(b []byte) []byte {
	b = append(b, confirmVersion, q.hops, byte(len(q.label)))
	b = append(b, q.label...)
	return appendShort16(b, q.chain)
}

func (a confirmAnswer) append(b []byte) []byte {
	text := a.text[:min(len(a.text), 255)]
	b = append(b, a.status, byte(len(text)))
	b = append(b, text...)
	return appendShort16(appendShort16(b, a.chain), a.delegation)
}

func appendShort16(b, v []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(v))), v...)
}

// fieldReader reads length-prefixed fields off a stream; the first error
// sticks.
type fieldReader struct {
	r   io.Reader
	err error
}

func (f *fieldReader) bytes(n int) []byte {
	if f.err != nil {
		return nil
	}
	b := make([]byte, n)
	if _, f.err = io.ReadFull(f.r, b); f.err != nil {
		return nil
	}
	return b
}

func (f *fieldReader) uint8() uint8 {
	if b := f.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (f *fieldReader) short8() []byte { return f.bytes(int(f.uint8())) }

func (f *fieldReader) short16(most int) []byte {
	b := f.bytes(2)
	if b == nil {
		return nil
	}
	n := int(binary.BigEndian.Uint16(b))
	if n > most {
		f.err = fmt.Errorf("field of %d bytes, at most %d", n, most)
		return nil
	}
	return f.bytes(n)
}

func readConfirmQuestion(r io.Reader) (confirmQuestion, error) {
	f := &fieldReader{r: r}
	if v := f.uint8(); f.err == nil && v != confirmVersion {
		f.err = fmt.Errorf("confirm: version %d", v)
	}
	q := confirmQuestion{hops: f.uint8(), label: string(f.short8()), chain: f.short16(maxChain)}
	return q, f.err
}

func readConfirmAnswer(r io.Reader) (confirmAnswer, error) {
	f := &fieldReader{r: r}
	a := confirmAnswer{status: f.uint8(), text: string(f.short8()), chain: f.short16(maxChain), delegation: f.short16(maxChain)}
	return a, f.err
}

// settleName has this peer's name decided before Join returns: by a founder
// or delegate if one is reached, else by what the database says.
func (o *Overlay) settleName(ctx context.Context, t *membership.Token, label string) error {
	err := o.confirm(ctx, label)
	if err == nil || errors.Is(err, errLabelTaken) || ctx.Err() != nil {
		return err
	}
	o.log.Info("membership stays provisional for now", "err", err)
	named := t.Label() != membership.AnyLabel
	for n := 1; n <= maxTies; n++ {
		try := tie(label, n)
		if named {
			try = label
		}
		rec, _, _, _ := o.names.fetch(ctx, try)
		free := rec == nil || rec.Peer == o.self || rec.Tombstone
		if free {
			return o.enter(t, try)
		}
		if named {
			if rec.Member().Confirmed {
				return fmt.Errorf("%w: %q is %s", errLabelTaken, try, rec.Peer)
			}
			return nil // both claim it; the order decides (DESIGN §14.2)
		}
	}
	return fmt.Errorf("%w: %q and %d like it", errLabelTaken, label, maxTies)
}

// tie is the n-th try for a label: mars, mars-2, mars-3 (draft §5, "some
// scheme to break ties").
func tie(label string, n int) string {
	if n <= 1 {
		return label
	}
	return fmt.Sprintf("%s-%d", label[:min(len(label), maxBaseLabel)], n)
}

// confirm asks to be made a confirmed member under the label, or, if the
// label is free to choose, under one like it.
func (o *Overlay) confirm(ctx context.Context, label string) error {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	o.mu.Lock()
	q := confirmQuestion{hops: 1, label: label, chain: o.chain}
	issuer := o.issuer
	o.mu.Unlock()
	if issuer != nil && issuer.IsRoot() {
		if err := o.issueSelf(label); err != nil {
			return err
		}
		o.renewed()
		return nil
	}
	err := error(errNobodyConfirms)
	for _, p := range o.confirmers() {
		var a confirmAnswer
		a, err = o.askConfirm(ctx, p, q)
		if err != nil || a.status == confirmNobody {
			continue
		}
		if a.status != confirmOK {
			return fmt.Errorf("%w: %q", errLabelTaken, a.text)
		}
		if err = o.take(a.chain, a.text); err != nil {
			continue
		}
		o.takeDelegation(a.delegation)
		o.renewed()
		return nil
	}
	if err == nil {
		err = errNobodyConfirms
	}
	return err
}

// renewed tells everybody about the new chain.
func (o *Overlay) renewed() {
	o.gate.greetAll()
	o.publisher.changed()
}

func (o *Overlay) takeDelegation(b []byte) {
	if len(b) == 0 {
		return
	}
	i, err := membership.NewDelegate(o.cfg.Key, b, o.ov, o.now(), o.revoked.Load())
	if err != nil {
		o.log.Warn("delegation not usable", "err", err)
		return
	}
	o.mu.Lock()
	o.issuer, o.delegation = i, b
	o.mu.Unlock()
}

// confirmers returns connected members to ask, those that issue first.
func (o *Overlay) confirmers() []peer.ID {
	var first, rest []peer.ID
	for _, d := range o.gate.members() {
		if d.flags&flagIssuer != 0 {
			first = append(first, d.peer)
		} else if o.db.speaks(d) {
			rest = append(rest, d.peer)
		}
	}
	return append(first, rest[:min(len(rest), 3)]...)
}

func (o *Overlay) askConfirm(ctx context.Context, p peer.ID, q confirmQuestion) (confirmAnswer, error) {
	s, err := o.gate.stream(ctx, p, o.proto("confirm"))
	if err != nil {
		return confirmAnswer{}, err
	}
	defer s.Reset()
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	defer stop()
	if _, err := s.Write(q.append(nil)); err != nil {
		return confirmAnswer{}, err
	}
	_ = s.CloseWrite()
	return readConfirmAnswer(s)
}

// serveConfirm answers a question, or passes it on.
func (o *Overlay) serveConfirm(s network.Stream, m *membership.Member) {
	_ = s.SetDeadline(time.Now().Add(confirmTimeout))
	q, err := readConfirmQuestion(s)
	if err != nil {
		_ = s.Reset()
		return
	}
	a := o.answerConfirm(q, m)
	if _, err := s.Write(a.append(nil)); err != nil {
		_ = s.Reset()
		return
	}
	_ = s.Close()
}

func (o *Overlay) answerConfirm(q confirmQuestion, from *membership.Member) confirmAnswer {
	ctx, cancel := context.WithTimeout(o.ctx, confirmTimeout)
	defer cancel()
	o.mu.Lock()
	issuer := o.issuer
	o.mu.Unlock()
	if issuer == nil {
		if q.hops > 0 {
			q.hops--
			for _, d := range o.gate.members() {
				if d.flags&flagIssuer == 0 || d.id == from.Peer {
					continue
				}
				if a, err := o.askConfirm(ctx, d.peer, q); err == nil {
					return a
				}
			}
		}
		return confirmAnswer{status: confirmNobody}
	}
	a, err := o.issueConfirmed(ctx, issuer, q)
	if err != nil {
		o.log.Info("refusing to confirm", "label", q.label, "err", err)
		return confirmAnswer{status: confirmRefused, text: err.Error()}
	}
	return a
}

// issueConfirmed makes the subject of a chain a confirmed member under a
// label that nobody else holds.
func (o *Overlay) issueConfirmed(ctx context.Context, issuer *membership.Issuer, q confirmQuestion) (confirmAnswer, error) {
	now := o.now()
	m, err := membership.VerifyChain(q.chain, o.ov, now, o.revoked.Load())
	if err != nil {
		return confirmAnswer{}, err
	}
	o.registry.issuing.Lock()
	defer o.registry.issuing.Unlock()
	label, serial, err := o.assign(ctx, m, q.label, now)
	if err != nil {
		return confirmAnswer{}, err
	}
	chain, err := membership.Confirm(issuer, q.chain, label, serial, now, o.revoked.Load())
	if err != nil {
		return confirmAnswer{}, err
	}
	done, err := membership.VerifyChain(chain, o.ov, now, o.revoked.Load())
	if err != nil {
		return confirmAnswer{}, err
	}
	if o.root != nil && m.Roles.Has(membership.RoleDelegate) {
		o.registry.delegated()
	}
	if err := o.registry.set(label, heldBy(done)); err != nil {
		return confirmAnswer{}, err
	}
	o.tellIssuers(ctx, m.Peer, chain)
	a := confirmAnswer{status: confirmOK, text: label, chain: chain}
	if o.root != nil && m.Roles.Has(membership.RoleDelegate) {
		if a.delegation, err = o.root.Delegate(m.Peer, m.Roles, time.Time{}, now); err != nil {
			return confirmAnswer{}, err
		}
	}
	return a, nil
}

// tellIssuers shows a chain that this issuer has just confirmed to the others
// it is connected to, so that none of them gives the label away again, also
// while the database is out of reach. It returns when all have read it, or
// after tellTimeout: one that is dead must not keep a joiner waiting.
func (o *Overlay) tellIssuers(ctx context.Context, subject peerid.ID, chain []byte) {
	ctx, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, d := range o.gate.members() {
		if d.flags&flagIssuer == 0 || d.id == subject {
			continue
		}
		wg.Go(func() {
			s, err := o.gate.stream(ctx, d.peer, o.proto("confirmed"))
			if err != nil {
				return
			}
			defer s.Reset()
			stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
			defer stop()
			if _, err := s.Write(appendShort16(nil, chain)); err != nil {
				return
			}
			_ = s.CloseWrite()
			_, _ = io.ReadFull(s, make([]byte, 1))
		})
	}
	wg.Wait()
}

// serveConfirmed reads a chain that another issuer has confirmed, and answers
// one byte when it is noted. The chain speaks for itself: who shows it does
// not matter.
//
//	notice: chain length 2 | chain
func (o *Overlay) serveConfirmed(s network.Stream, _ *membership.Member) {
	_ = s.SetDeadline(time.Now().Add(confirmTimeout))
	f := &fieldReader{r: s}
	chain := f.short16(maxChain)
	if f.err != nil {
		_ = s.Reset()
		return
	}
	m, err := membership.VerifyChain(chain, o.ov, o.now(), o.revoked.Load())
	if err != nil || !m.Confirmed {
		_ = s.Reset()
		return
	}
	if err := o.noteConfirmed(m); err != nil {
		o.log.Error("saving what another issuer confirmed", "err", err)
	}
	_, _ = s.Write([]byte{1})
	_ = s.Close()
}

// noteConfirmed keeps what another issuer has confirmed. Of two claims the
// earlier stands.
func (o *Overlay) noteConfirmed(m *membership.Member) error {
	o.names.saw(m)
	o.mu.Lock()
	issuer := o.issuer
	o.mu.Unlock()
	if issuer == nil {
		return nil
	}
	held, ok := o.registry.get(m.Label)
	if ok && held.Peer != m.Peer && held.Serial <= m.Serial && o.now().Before(held.NotAfter) {
		return nil
	}
	return o.registry.set(m.Label, heldBy(m))
}

// assign picks the label and the serial. The registry is what this issuer has
// confirmed and what others have told it; the database tells the rest.
func (o *Overlay) assign(ctx context.Context, m *membership.Member, want string, now time.Time) (string, uint64, error) {
	if !m.Wildcard {
		want = m.Label // a named invitation leaves no choice
	}
	if err := membership.CheckLabel(want); err != nil {
		return "", 0, err
	}
	if !m.Wildcard && !m.Invitation.IsZero() && o.registry.usedBy(m.Invitation, m.Peer) {
		return "", 0, fmt.Errorf("%w: the token for %q was used by another peer", errLabelTaken, want)
	}
	for n := 1; n <= maxTies; n++ {
		label := tie(want, n)
		held, ok := o.registry.get(label)
		if ok && held.Peer == m.Peer {
			return label, held.Serial, nil
		}
		taken := label == o.Label() && m.Peer != o.self ||
			ok && now.Before(held.NotAfter) && !o.registry.revoked(held, o.revoked.Load())
		if !taken {
			taken = o.takenElsewhere(ctx, label, m.Peer)
		}
		if !taken {
			return label, o.registry.nextSerial(), nil
		}
		if !m.Wildcard {
			break
		}
	}
	return "", 0, fmt.Errorf("%w: %q", errLabelTaken, want)
}

// takenElsewhere says whether the database has the label for another
// confirmed member.
func (o *Overlay) takenElsewhere(ctx context.Context, label string, p peerid.ID) bool {
	if o.root != nil && o.registry.alone() {
		return false // nobody else confirms
	}
	if o.names.holds(label, p) {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout/2)
	defer cancel()
	rec, _, _, _ := o.names.fetch(ctx, label)
	return rec != nil && rec.Peer != p && !rec.Tombstone && rec.Member().Confirmed
}

// confirmedLabel is one label that an issuer has confirmed.
type confirmedLabel struct {
	Peer       peerid.ID      `json:"peer"`
	Serial     uint64         `json:"serial"`
	NotAfter   time.Time      `json:"not_after"`
	Invitation membership.Key `json:"invitation,omitzero"`
	Named      bool           `json:"named"`
}

func heldBy(m *membership.Member) confirmedLabel {
	return confirmedLabel{Peer: m.Peer, Serial: m.Serial, NotAfter: m.NotAfter, Invitation: m.Invitation, Named: !m.Wildcard}
}

// registry is an issuer's memory of what it and others confirmed. It is safe for
// concurrent use.
type registry struct {
	dir     *state.Dir
	issuing sync.Mutex // held from the choice of a label until it is set

	mu sync.Mutex // guards s
	s  savedRegistry
}

type savedRegistry struct {
	Serial    uint64                    `json:"serial"`
	Labels    map[string]confirmedLabel `json:"labels"`
	Delegates bool                      `json:"delegates"` // others confirm too
}

func newRegistry(dir *state.Dir) (*registry, error) {
	r := &registry{dir: dir, s: savedRegistry{Serial: 1, Labels: map[string]confirmedLabel{}}}
	if err := load(dir, docLabels, &r.s); err != nil {
		return nil, err
	}
	if r.s.Labels == nil {
		r.s.Labels = map[string]confirmedLabel{}
	}
	return r, nil
}

func (r *registry) get(label string) (confirmedLabel, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.s.Labels[label]
	return c, ok
}

// usedBy says whether a named invitation has made somebody else than p a
// member.
func (r *registry) usedBy(invitation membership.Key, p peerid.ID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.s.Labels {
		if c.Named && c.Invitation == invitation && c.Peer != p {
			return true
		}
	}
	return false
}

func (r *registry) revoked(c confirmedLabel, l *membership.RevocationList) bool {
	return l.Has(membership.RevokePeer, membership.KeyOf(c.Peer))
}

// nextSerial returns a serial for a member confirmed now. It is the time, so
// that those of several issuers compare: of two confirmed claims the earlier
// stands.
func (r *registry) nextSerial() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.s.Serial = naming.Seq(time.Now(), r.s.Serial)
	return r.s.Serial
}

func (r *registry) set(label string, c confirmedLabel) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.s.Labels[label] = c
	if r.dir == nil {
		return nil
	}
	return r.dir.Save(docLabels, savedRegistry{r.s.Serial, maps.Clone(r.s.Labels), r.s.Delegates})
}

// delegated notes that somebody else confirms too.
func (r *registry) delegated() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.s.Delegates = true
}

func (r *registry) alone() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.s.Delegates
}

// find returns who was confirmed under a label.
func (r *registry) find(label string) (peerid.ID, bool) {
	c, ok := r.get(label)
	return c.Peer, ok
}
