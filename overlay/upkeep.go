package overlay

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

const (
	// upkeepEvery is the pulse: lists compared, memberships checked,
	// connections kept.
	upkeepEvery = compareEvery
	// nearServers is how many of the servers nearest its own ID a peer keeps
	// connections to: where others look for it (DESIGN §8).
	nearServers = 3
	nearEvery   = 2 * time.Minute // how often nearer ones are looked for
	// farEvery is how often a walk towards nowhere in particular shows who
	// else is there: a peer that asks nothing would know its neighbours only.
	farEvery = 10 * time.Minute
	// meshBelow is up to how many connected members there is one with each
	// pulse that has brought others: in an overlay no larger than that everybody
	// is connected, and a lookup is one round trip.
	meshBelow = connsLow / 2
	// bootstrapTimeout bounds the start's wait for a first member.
	bootstrapTimeout = 10 * time.Second
	bootstrapWidth   = 8
	serverPatience   = 500 * time.Millisecond // for a server, once a member is reached
	peersTimeout     = 3 * time.Second
	askPeersPause    = 5 * time.Second // between questions that an arrival causes
	rememberPause    = 5 * time.Second // between notes of who is connected
	askPeersWidth    = 3               // how many members are asked at a time; one, once meshBelow are connected
	peersMax         = 16
	peersAddrs       = 4
	// orphanRetry is how soon a peer without connections tries again.
	orphanRetry = 2 * time.Second
)

// bootstrap connects to at least one of the peers given, and if it is one that
// keeps no part of the database waits a little for one that does: what is put
// or asked next would find none.
func (o *Overlay) bootstrap(ctx context.Context, peers []peer.AddrInfo) error {
	ctx, cancel := context.WithTimeout(ctx, bootstrapTimeout)
	defer cancel()
	stop := context.AfterFunc(o.ctx, cancel)
	defer stop()
	errs := make(chan error)
	sem := make(chan struct{}, bootstrapWidth)
	n := 0
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, ai := range peers {
		if ai.ID == o.host.ID() {
			continue
		}
		n++
		wg.Go(func() {
			sem <- struct{}{}
			defer func() { <-sem }()
			err := ctx.Err()
			if err == nil {
				o.host.Peerstore().AddAddrs(ai.ID, ai.Addrs, peerstore.ConnectedAddrTTL)
				_, err = o.gate.connect(ctx, ai)
			}
			select {
			case errs <- err:
			case <-ctx.Done():
			}
		})
	}
	if n == 0 {
		return errors.New("overlay: no address of a member is known")
	}
	var all []error
	var patience <-chan time.Time // for a server; set with the first member
	for range n {
		select {
		case err := <-errs:
			switch {
			case err != nil:
				all = append(all, err)
			case len(o.db.servers()) > 0:
				return nil
			case patience == nil:
				patience = time.After(serverPatience)
			}
		case <-patience:
			return nil
		case <-ctx.Done():
			if patience != nil {
				return nil
			}
			return fmt.Errorf("overlay: no member reached: %w", errors.Join(append(all, ctx.Err())...))
		}
	}
	if patience != nil {
		return nil
	}
	return fmt.Errorf("overlay: no member reached: %w", errors.Join(all...))
}

// keepUp is the Overlay's housekeeping.
func (o *Overlay) keepUp() {
	t := time.NewTimer(upkeepEvery)
	defer t.Stop()
	role := time.NewTimer(serverAfter)
	defer role.Stop()
	var compared, asked, remembered time.Time
	few := orphanRetry // how soon to ask again while few servers are known
	for {
		pulse := false
		select {
		case <-o.ctx.Done():
			return
		case <-o.upkeep:
			few = orphanRetry
		case <-role.C:
		case <-t.C:
			pulse = true
		}
		next := upkeepEvery
		if pulse && time.Since(compared) >= compareEvery/2 {
			compared = time.Now()
			o.pulse()
		}
		pause := askPeersPause
		if len(o.db.servers()) == 0 {
			pause = orphanRetry / 2 // somebody must know where the records are
		}
		if (pulse || time.Since(asked) > pause) && o.askPeers(o.ctx) {
			asked = time.Now()
		}
		if pulse || time.Since(remembered) > rememberPause {
			remembered = time.Now()
			o.remember()
		}
		if len(o.db.servers()) < fewServers {
			// Whoever was asked may just not have heard of them yet.
			next = min(next, few)
			few = min(2*few, upkeepEvery)
		}
		if !o.connected() {
			next = orphanRetry
		}
		o.decideRole()
		t.Reset(next)
	}
}

// pulse is what happens every upkeepEvery.
func (o *Overlay) pulse() {
	o.enforce()
	all := o.gate.members()
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, d := range all[:min(len(all), compareWidth)] {
		o.gate.spawn(func() { o.compareLists(d.peer) })
	}
	if o.root == nil {
		o.renew(o.ctx)
	}
	if o.nearDue() {
		o.stayNear()
	}
	if n := len(all); time.Since(o.farAt) > farEvery || n < meshBelow && n != o.farSaw {
		o.farAt, o.farSaw = time.Now(), n
		o.lookAround()
	}
	if err := o.peers.save(); err != nil {
		o.log.Error("saving known peers", "err", err)
	}
	if err := o.names.save(); err != nil {
		o.log.Error("saving known names", "err", err)
	}
}

// remember keeps the addresses of those connected for the next start.
func (o *Overlay) remember() {
	for _, d := range o.gate.members() {
		o.peers.note(d.id, o.host.Peerstore().Addrs(d.peer), o.db.speaks(d), peerid.ID{})
	}
}

// connected says whether there is anybody to talk to, and tries the
// remembered members if not.
func (o *Overlay) connected() bool {
	if len(o.gate.members()) > 0 {
		return true
	}
	known := o.peers.addrInfos()
	if len(known) == 0 {
		return true // nobody to wait for
	}
	err := o.bootstrap(o.ctx, known)
	if err != nil {
		o.log.Debug("no member reached", "err", err)
	}
	return err == nil
}

// decideRole makes this peer a server of the database when the overlay needs
// it (doc.go says why so).
func (o *Overlay) decideRole() {
	if o.db.isServer() {
		return
	}
	servers := o.db.servers()
	up := time.Since(o.started) >= serverAfter
	switch {
	case len(servers) == 0:
		// Nobody keeps the records any more.
		o.db.takeOver()
	case up && len(servers) < fewServers:
	case up && o.gate.wasReached():
	default:
		if up {
			o.askDialBack()
		}
		return
	}
	o.db.setServer()
	o.gate.greetAll() // tells the role
	o.publisher.serverFound()
}

// renew asks for a confirmed certificate while this peer has none or its own
// is past half of its life (DESIGN §14.1).
func (o *Overlay) renew(ctx context.Context) {
	m, label := o.Member(), o.Label()
	if !membership.NeedsRenewal(m, o.now()) || len(o.gate.members()) == 0 {
		return
	}
	if err := o.confirm(ctx, label); err != nil {
		o.log.Debug("membership not confirmed yet", "err", err)
		return
	}
	if err := o.save(); err != nil {
		o.log.Error("saving the membership", "err", err)
	}
}

// nearDue says whether it is time to look for the nearest servers: one is not
// connected any more, or nearer ones may have come.
func (o *Overlay) nearDue() bool {
	near := o.keeper.nearest()
	for _, p := range near {
		if _, ok := o.gate.member(p); !ok {
			return true
		}
	}
	return len(near) < min(nearServers, len(o.db.servers())) || time.Since(o.nearAt) > nearEvery
}

// stayNear connects to the servers nearest this peer's ID, where others look
// for somebody who can pass an offer on.
func (o *Overlay) stayNear() {
	ctx, cancel := context.WithTimeout(o.ctx, lookupTimeout)
	defer cancel()
	res := o.db.walk(ctx, string(o.host.ID()), nil)
	// The walk has connected to them.
	o.keeper.setNear(res.nearest[:min(len(res.nearest), nearServers)])
	o.nearAt = time.Now()
	if len(res.nearest) > 0 {
		o.publisher.contactChanged()
	}
}

// lookAround walks towards a key drawn at random: whom it meets fills the
// routing table's other parts.
func (o *Overlay) lookAround() {
	var key [32]byte
	crand.Read(key[:])
	ctx, cancel := context.WithTimeout(o.ctx, lookupTimeout)
	defer cancel()
	o.db.walk(ctx, string(key[:]), nil)
}

// The peers protocol: a list of members with addresses, so that the way back
// does not depend on one that may be gone.
//
//	answer: count 1 | { peer ID 32 | server 1 | addresses 1 | { length 1 | multiaddr } }

// servePeers tells a few members' addresses.
func (o *Overlay) servePeers(s network.Stream, from *membership.Member) {
	_ = s.SetDeadline(time.Now().Add(peersTimeout))
	defer s.Close()
	all := o.gate.members()
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	b := []byte{0}
	for _, d := range all {
		if d.id == from.Peer || b[0] == peersMax {
			continue
		}
		addrs := o.host.Peerstore().Addrs(d.peer)
		addrs = addrs[:min(len(addrs), peersAddrs)]
		if len(addrs) == 0 {
			continue
		}
		b[0]++
		b = append(b, d.id[:]...)
		server := byte(0)
		if o.db.speaks(d) {
			server = 1
		}
		b = append(b, server, byte(len(addrs)))
		for _, a := range addrs {
			raw := a.Bytes()
			if len(raw) > 255 {
				raw = nil
			}
			b = append(append(b, byte(len(raw))), raw...)
		}
	}
	_, _ = s.Write(b)
}

// askPeers asks a few members whom they know, and says whether there was one
// to ask. While this peer knows too few servers it connects to those it is
// told of: two servers that only share a client would each keep a database of
// their own.
func (o *Overlay) askPeers(ctx context.Context) bool {
	all := o.gate.members()
	if len(all) == 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, peersTimeout)
	defer cancel()
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	width := askPeersWidth
	if len(all) >= meshBelow && len(o.db.servers()) >= fewServers {
		width = 1
	}
	told := make([][]toldPeer, min(len(all), width))
	var wg sync.WaitGroup
	for i := range told {
		wg.Go(func() {
			told[i] = o.askPeersOf(ctx, all[i].peer)
			for _, p := range told[i] {
				o.peers.note(p.id, p.addrs, p.server, all[i].id)
			}
		})
	}
	wg.Wait()
	var servers []peer.AddrInfo
	for _, p := range slices.Concat(told...) {
		id := toLibp2p(p.id)
		if _, ok := o.gate.member(id); !ok && p.server && len(p.addrs) > 0 && p.id != o.self {
			servers = append(servers, peer.AddrInfo{ID: id, Addrs: p.addrs})
		}
	}
	for _, ai := range servers[:min(len(servers), max(0, fewServers-len(o.db.servers())))] {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, peersTimeout)
			defer cancel()
			if _, err := o.gate.connect(ctx, ai); err != nil {
				o.log.Debug("connecting to a server heard of", "peer", ai.ID, "err", err)
			}
		})
	}
	wg.Wait()
	return true
}

// askPeersOf asks one member whom it knows.
func (o *Overlay) askPeersOf(ctx context.Context, p peer.ID) []toldPeer {
	s, err := o.gate.stream(ctx, p, o.proto("peers"))
	if err != nil {
		return nil
	}
	defer s.Reset()
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	defer stop()
	if s.CloseWrite() != nil {
		return nil
	}
	list, err := readPeers(s)
	if err != nil {
		return nil
	}
	return list
}

type toldPeer struct {
	id     peerid.ID
	server bool
	addrs  []ma.Multiaddr
}

func readPeers(r io.Reader) ([]toldPeer, error) {
	f := &fieldReader{r: r}
	n := int(f.uint8())
	if n > peersMax {
		return nil, fmt.Errorf("%d peers", n)
	}
	var out []toldPeer
	for range n {
		var p toldPeer
		copy(p.id[:], f.bytes(peerid.Size))
		p.server = f.uint8() == 1
		k := int(f.uint8())
		if k > peersAddrs {
			return nil, fmt.Errorf("%d addresses", k)
		}
		for range k {
			if m, err := ma.NewMultiaddrBytes(f.short8()); err == nil {
				p.addrs = append(p.addrs, m)
			}
		}
		if f.err != nil {
			return nil, f.err
		}
		out = append(out, p)
	}
	return out, nil
}

// Invite makes a token. Only the founder and delegates can.
func (o *Overlay) Invite(opts InviteOptions) (string, error) {
	o.mu.Lock()
	issuer := o.issuer
	o.mu.Unlock()
	if issuer == nil {
		return "", ErrNotIssuer
	}
	var roles membership.Roles
	if opts.Relay {
		roles |= membership.RoleRelay
	}
	if opts.Delegate {
		roles |= membership.RoleDelegate
	}
	t, err := issuer.Invite(membership.InviteOptions{
		Label: opts.Name, Expires: opts.Expires, Roles: roles, Addrs: o.tokenAddrs(),
	}, o.now())
	if err != nil {
		return "", err
	}
	return t.String(), nil
}

// tokenAddrs are up to four ways into the overlay: our own first, then
// another server.
func (o *Overlay) tokenAddrs() []string {
	out := o.addrs()
	out = out[:min(len(out), membership.MaxAddrs)]
	for _, d := range o.gate.members() {
		if len(out) == membership.MaxAddrs {
			break
		}
		if !o.db.speaks(d) {
			continue
		}
		if addrs := o.host.Peerstore().Addrs(d.peer); len(addrs) > 0 {
			out = append(out, addrs[0].String()+"/p2p/"+d.id.String())
		}
	}
	return out
}
