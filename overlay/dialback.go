package overlay

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

// The dial-back protocol: a peer that would serve asks a member to have others
// try to reach it. Those have had nothing from the peer, so that no NAT lets
// them in for an old packet's sake (DESIGN §14.6; private addresses count).
//
//	question: hops 1 | if 0: peer ID 32 | addresses 1 | { length 1 | multiaddr }
//	answer:   1 somebody tries, 0 nobody
//
// With hops 1 the asker means itself, and the member passes the question to
// others with hops 0. That the connection then comes in is the result.
const (
	dialBackEvery   = 2 * time.Minute
	dialBackTimeout = 5 * time.Second
	dialBackTries   = 2
	dialBackAddrs   = 6
)

// askDialBack has a member arrange a dial-back, now and then.
func (o *Overlay) askDialBack() {
	servers := o.db.servers()
	if len(servers) == 0 || !o.backAt.IsZero() && time.Since(o.backAt) < dialBackEvery {
		return
	}
	o.backAt = time.Now()
	p := servers[rand.IntN(len(servers))]
	o.gate.spawn(func() {
		ctx, cancel := context.WithTimeout(o.ctx, dialBackTimeout)
		defer cancel()
		_ = o.dialBackQuestion(ctx, p, []byte{1})
		o.wake()
	})
}

// dialBackQuestion puts a question and says whether somebody tries.
func (o *Overlay) dialBackQuestion(ctx context.Context, p peer.ID, q []byte) bool {
	s, err := o.gate.stream(ctx, p, o.proto("dialback"))
	if err != nil {
		return false
	}
	defer s.Reset()
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	defer stop()
	if _, err := s.Write(q); err != nil {
		return false
	}
	_ = s.CloseWrite()
	var a [1]byte
	_, err = s.Read(a[:])
	return err == nil && a[0] == 1
}

func (o *Overlay) serveDialBack(s network.Stream, from *membership.Member) {
	_ = s.SetDeadline(time.Now().Add(dialBackTimeout))
	defer s.Close()
	if !o.router.allow(from.Peer) {
		return
	}
	f := &fieldReader{r: s}
	var ok bool
	if hops := f.uint8(); hops == 1 {
		ok = o.arrangeDialBack(s.Conn(), from.Peer)
	} else {
		ok = o.dialBack(f)
	}
	a := []byte{0}
	if ok {
		a[0] = 1
	}
	_, _ = s.Write(a)
}

// arrangeDialBack has a few members try to reach the asker.
func (o *Overlay) arrangeDialBack(c network.Conn, id peerid.ID) bool {
	ctx, cancel := context.WithTimeout(o.ctx, dialBackTimeout)
	defer cancel()
	addrs := append([]ma.Multiaddr{c.RemoteMultiaddr()}, o.host.Peerstore().Addrs(c.RemotePeer())...)
	addrs = ma.Unique(addrs)
	addrs = addrs[:min(len(addrs), dialBackAddrs)]
	q := append([]byte{0}, id[:]...)
	q = append(q, byte(len(addrs)))
	for _, a := range addrs {
		b := a.Bytes()
		if len(b) > 255 {
			return false
		}
		q = append(append(q, byte(len(b))), b...)
	}
	all := o.gate.members()
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	tried := 0
	for _, d := range all {
		if d.id == id {
			continue
		}
		if tried++; tried > dialBackTries {
			break
		}
		if o.dialBackQuestion(ctx, d.peer, q) {
			return true
		}
	}
	return false
}

// dialBack tries to reach a peer that we are not connected to.
func (o *Overlay) dialBack(f *fieldReader) bool {
	var id peerid.ID
	copy(id[:], f.bytes(peerid.Size))
	n := int(f.uint8())
	if f.err != nil || n > dialBackAddrs {
		return false
	}
	ai := peer.AddrInfo{ID: toLibp2p(id)}
	for range n {
		a, err := ma.NewMultiaddrBytes(f.short8())
		if err != nil {
			continue
		}
		if at, ok := addrPort(a); !ok || at.Port() < minRemotePort {
			continue
		}
		ai.Addrs = append(ai.Addrs, a)
	}
	if f.err != nil || len(ai.Addrs) == 0 || o.host.Network().Connectedness(ai.ID) == network.Connected {
		return false
	}
	ctx, cancel := context.WithTimeout(o.ctx, dialBackTimeout)
	defer cancel()
	_, err := o.gate.connect(ctx, ai)
	return err == nil
}
