package mesh

import (
	"context"
	"errors"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"

	"github.com/idloc/idloc/internal/pause"
)

const (
	// recallWidth is how many members are called at a time. A dead one takes a
	// place for DialTimeout.
	recallWidth = 32
	// recallRounds is how often at most one is called that does not answer.
	recallRounds = 4
)

// Recall calls those that a founder was connected to before it started again.
// Their connections look alive to them for half a minute if it ended without a
// word, and they find out by the new one; behind a NAT the mapping towards this
// port is still there.
func (m *Mesh) Recall() {
	left := m.known.Met()
	for i := range recallRounds {
		if left = m.callAll(left); len(left) == 0 || !pause.For(m.ctx, recallPause<<i) {
			return
		}
	}
}

// callAll connects to the members given, and returns those that have not
// answered and may yet.
func (m *Mesh) callAll(list []peer.AddrInfo) []peer.AddrInfo {
	var wg sync.WaitGroup
	sem := make(chan struct{}, recallWidth)
	silent := make([]bool, len(list))
	for i, ai := range list {
		select {
		case sem <- struct{}{}:
		case <-m.ctx.Done():
		}
		if m.ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-sem }()
			silent[i] = !m.call(ai)
		})
	}
	wg.Wait()
	var left []peer.AddrInfo
	for i, ai := range list {
		if silent[i] {
			left = append(left, ai)
		}
	}
	return left
}

// call connects to a member, and says whether there is nothing left to try.
func (m *Mesh) call(ai peer.AddrInfo) bool {
	if _, in := m.Member(ai.ID); in {
		return true
	}
	ctx, cancel := context.WithTimeout(m.ctx, DialTimeout)
	defer cancel()
	m.host.Peerstore().AddAddrs(ai.ID, ai.Addrs, peerstore.TempAddrTTL)
	err := m.try(ctx, ai)
	if err == nil {
		return true
	}
	m.cfg.Log.Debug("a member from before the start does not answer", "peer", ai.ID, "err", err)
	var no *RefusedError
	return errors.As(err, &no) && no.Final
}
