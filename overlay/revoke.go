package overlay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/naming"
)

// The revocation protocol, one exchange for a stream: each side says the
// number of the list it has, who has the newer one sends it.
//
//	asker:    number 8 | if the answerer's is lower: length 4 | list
//	answerer: number 8 | if the asker's is lower: length 4 | list
const (
	compareTimeout = 5 * time.Second
	compareEvery   = 20 * time.Second
	// compareWidth is with how many members the numbers are compared each
	// time. A change is flooded; this finds what the flood has missed, and
	// spreads as rumours do: a thousand peers know within three rounds.
	compareWidth = 4
)

var errRevoked = errors.New("membership revoked")

// compareLists exchanges the revocation lists with a member.
func (o *Overlay) compareLists(p peer.ID) {
	ctx, cancel := context.WithTimeout(o.ctx, compareTimeout)
	defer cancel()
	s, err := o.gate.stream(ctx, p, o.proto("revocation"))
	if err != nil {
		return
	}
	defer s.Reset()
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	defer stop()
	mine := o.revoked.Load()
	if _, err := s.Write(binary.BigEndian.AppendUint64(nil, mine.Seq())); err != nil {
		return
	}
	theirs, err := readUint64(s)
	if err != nil {
		return
	}
	switch {
	case theirs > mine.Seq():
		if b, err := readList(s); err == nil {
			o.learn(b, p)
		}
	case theirs < mine.Seq():
		if writeList(s, mine) == nil {
			_ = s.CloseWrite()
			// Wait for the end, else the reset overtakes the list.
			_, _ = io.ReadFull(s, make([]byte, 1))
		}
	}
}

func (o *Overlay) serveRevocation(s network.Stream, _ *membership.Member) {
	_ = s.SetDeadline(time.Now().Add(compareTimeout))
	defer s.Close()
	theirs, err := readUint64(s)
	if err != nil {
		_ = s.Reset()
		return
	}
	mine := o.revoked.Load()
	if _, err := s.Write(binary.BigEndian.AppendUint64(nil, mine.Seq())); err != nil {
		return
	}
	switch {
	case theirs > mine.Seq():
		if b, err := readList(s); err == nil {
			o.learn(b, s.Conn().RemotePeer())
		}
	case theirs < mine.Seq():
		_ = writeList(s, mine)
	}
}

func readUint64(r io.Reader) (uint64, error) {
	var b [8]byte
	_, err := io.ReadFull(r, b[:])
	return binary.BigEndian.Uint64(b[:]), err
}

func readList(r io.Reader) ([]byte, error) {
	var n [4]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(n[:])
	if size > membership.MaxRevocationList {
		return nil, fmt.Errorf("revocation list of %d bytes", size)
	}
	b := make([]byte, size)
	_, err := io.ReadFull(r, b)
	return b, err
}

func writeList(w io.Writer, l *membership.RevocationList) error {
	b := l.Bytes()
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

// learn takes a list that a member sent.
func (o *Overlay) learn(b []byte, from peer.ID) {
	l, err := membership.OpenRevocationList(b, o.ov)
	if err != nil {
		o.log.Warn("revocation list refused", "from", from, "err", err)
		return
	}
	o.adopt(l, from)
}

// adopt makes l the list that counts if it is the newer one, enforces it and
// passes it on.
func (o *Overlay) adopt(l *membership.RevocationList, from peer.ID) {
	for {
		old := o.revoked.Load()
		next := membership.Merge(old, l)
		if next == old {
			return
		}
		if o.revoked.CompareAndSwap(old, next) {
			break
		}
	}
	o.log.Info("revocation list", "number", l.Seq())
	o.enforce()
	if err := o.save(); err != nil {
		o.log.Error("saving the revocation list", "err", err)
	}
	for _, d := range o.gate.members() {
		if d.peer != from {
			o.gate.spawn(func() { o.compareLists(d.peer) })
		}
	}
	o.spawn(func() {
		ctx, cancel := context.WithTimeout(o.ctx, publishTimeout)
		defer cancel()
		_, _ = o.db.put(ctx, naming.RevocationKey(o.ov.ID), naming.RevocationValue(l))
	})
}

// enforce ends what those who are no members any more have open: connections,
// pipes, cached names. Records are refused by the validator, which asks for
// the list each time. It also ends memberships that have run out.
func (o *Overlay) enforce() {
	l := o.revoked.Load()
	now := o.now()
	gone := o.gate.expel(func(d *door) bool {
		_, err := membership.VerifyChain(d.chain, o.ov, now, l)
		return err == nil
	})
	for _, d := range gone {
		o.dismissed(d.id, d.member.Label)
	}
	for _, p := range o.pipes.Pipes() {
		// A chain that has ended may have been followed by a newer one.
		if _, err := membership.VerifyChain(p.Chain(), o.ov, now, l); err != nil && !o.names.known(p.Peer()) {
			o.dismissed(p.Peer(), "")
			p.Close(fmt.Errorf("%w: %w", errRevoked, err))
		}
	}
	o.nulls.enforce(func(chain []byte, p peerid.ID) bool {
		_, err := membership.VerifyChain(chain, o.ov, now, l)
		return err == nil || o.names.known(p)
	})
}

func (o *Overlay) dismissed(id peerid.ID, label string) {
	o.names.forget(id)
	l := o.revoked.Load()
	if l.Has(membership.RevokePeer, membership.KeyOf(id)) {
		o.names.marks.Forget(id)
		o.peers.forget(id)
		o.cfg.Events.Emit(event.Event{Kind: event.Revoked, Peer: id, Name: o.fullName(label)})
	}
	o.log.Info("no member any more", "peer", id, "label", label)
}

// Revoke ends the membership of the peer that has a label, or whose ID is
// given as a label, and of the invitation it came by. Only the founder can.
// When it returns, the list has been signed, saved and sent to all connected
// members.
func (o *Overlay) Revoke(ctx context.Context, label string) error {
	if o.root == nil {
		return ErrNotFounder
	}
	id, ok := naming.PeerLabel(label)
	if !ok {
		if id, ok = o.registry.find(label); !ok {
			f, err := o.Resolve(ctx, label)
			if err != nil {
				return err
			}
			id = f.Peer
		}
	}
	if id == o.self {
		return errors.New("overlay: the founder cannot be revoked")
	}
	now := o.now()
	entries := []membership.Revocation{{Kind: membership.RevokePeer, Key: membership.KeyOf(id), Until: now.Add(membership.MaxMember + time.Hour)}}
	if inv := o.invitationOf(id); !inv.IsZero() {
		entries = append(entries, membership.Revocation{Kind: membership.RevokeInvitation, Key: inv})
	}
	l, err := o.root.Revoke(o.revoked.Load(), now, entries...)
	if err != nil {
		return err
	}
	o.adopt(l, o.host.ID())
	return nil
}

// invitationOf returns the invitation by which a peer came, as far as known.
func (o *Overlay) invitationOf(id peerid.ID) membership.Key {
	if m, ok := o.gate.member(toLibp2p(id)); ok {
		return m.Invitation
	}
	o.names.mu.Lock()
	m := o.names.members[id]
	o.names.mu.Unlock()
	if m != nil {
		return m.Invitation
	}
	return o.registry.invitationOf(id)
}

func (r *registry) invitationOf(id peerid.ID) membership.Key {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.s.Labels {
		if c.Peer == id {
			return c.Invitation
		}
	}
	return membership.Key{}
}
