package overlay

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-msgio"
	ma "github.com/multiformats/go-multiaddr"
	"google.golang.org/protobuf/proto"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/mesh"
	"github.com/idloc/idloc/overlay/p2p"
)

// A bystander is a host of its own: services that have no part in any of this,
// and count what comes. Its address is of the loopback network, where no node of
// these tests is.
type bystander struct {
	at             []netip.AddrPort
	packets, bytes atomic.Int64
}

func newBystander(t testing.TB, addr string, services int) *bystander {
	t.Helper()
	b := new(bystander)
	for range services {
		c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 0)))
		if err != nil {
			t.Skipf("the system has no %s on loopback: %v", addr, err)
		}
		b.at = append(b.at, c.LocalAddr().(*net.UDPAddr).AddrPort())
		done := make(chan struct{})
		go func() {
			defer close(done)
			buf := make([]byte, 2048)
			for {
				n, _, err := c.ReadFromUDPAddrPort(buf)
				if err != nil {
					return
				}
				b.packets.Add(1)
				b.bytes.Add(int64(n))
			}
		}()
		t.Cleanup(func() { c.Close(); <-done })
	}
	return b
}

// addrs are the services as QUIC listeners.
func (b *bystander) addrs() []ma.Multiaddr {
	var out []ma.Multiaddr
	for _, a := range b.at {
		out = append(out, p2p.QUIC(a))
	}
	return out
}

// saw checks what the bystander got, and that there was something to get: the
// attack must be one.
func (b *bystander) saw(t testing.TB, packets, bytes int64) {
	t.Helper()
	p, n := b.packets.Load(), b.bytes.Load()
	t.Logf("the bystander got %d datagrams, %d bytes", p, n)
	if p == 0 || p > packets || n > bytes {
		t.Errorf("the bystander got %d datagrams of %d bytes together, want 1 to %d, at most %d bytes", p, n, packets, bytes)
	}
}

func nobody(t testing.TB) peerid.ID {
	t.Helper()
	key, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return peerid.ID(key)
}

// answerWith makes a server name twenty peers that do not exist in each answer,
// at the addresses given.
func (n *node) answerWith(addrs []ma.Multiaddr) {
	var raw [][]byte
	for _, a := range addrs {
		raw = append(raw, a.Bytes())
	}
	n.serveKad(func(s network.Stream) {
		defer s.Reset()
		r, w := msgio.NewVarintReaderSize(s, network.MessageSizeMax), msgio.NewVarintWriter(s)
		for {
			b, err := r.ReadMsg()
			if err != nil {
				return
			}
			var m pb.Message
			if proto.Unmarshal(b, &m) != nil {
				return
			}
			a := &pb.Message{Type: m.Type, Key: m.Key, Record: m.Record}
			for range 20 {
				key, _, _ := ed25519.GenerateKey(nil)
				a.CloserPeers = append(a.CloserPeers, &pb.Message_Peer{Id: []byte(p2p.ID(peerid.ID(key))), Addrs: raw})
			}
			out, err := proto.Marshal(a)
			if err != nil || w.WriteMsg(out) != nil {
				return
			}
		}
	})
}

// TestHearsayFloodsNobody: whatever members say about where somebody is, a host
// that has no part in it gets three datagrams of this node's in a minute.
func TestHearsayFloodsNobody(t *testing.T) {
	t.Run("answers of the database", func(t *testing.T) {
		t.Parallel()
		victim := newBystander(t, "127.0.7.1", 8)
		earth := founded(t, "earth")
		earth.answerWith(victim.addrs())
		mars := earth.join(t, "mars")
		await(t, "earth known as a server", patience, func() bool { return len(mars.directory.Servers()) == 1 })
		var wg sync.WaitGroup
		for _, name := range []string{"nowhere", "nobody"} {
			wg.Go(func() { _, _ = mars.Resolve(t.Context(), name) })
		}
		wg.Wait()
		victim.saw(t, 3, 3600)
	})
	t.Run("addresses of a peer's own, of hellos and records", func(t *testing.T) {
		t.Parallel()
		victim := newBystander(t, "127.0.7.2", 8)
		earth := founded(t, "earth")
		var wg sync.WaitGroup
		for range 3 {
			p := p2p.ID(nobody(t))
			earth.mesh.Host().Peerstore().AddAddrs(p, victim.addrs(), peerstore.TempAddrTTL)
			wg.Go(func() { _, _ = earth.mesh.Connect(t.Context(), peer.AddrInfo{ID: p}) })
		}
		wg.Wait()
		victim.saw(t, 3, 3600)
	})
	t.Run("lists of peers", func(t *testing.T) {
		t.Parallel()
		victim := newBystander(t, "127.0.7.3", 4)
		earth := founded(t, "earth")
		mars := earth.join(t, "mars")
		await(t, "mars is in", patience, func() bool { _, ok := earth.mesh.Member(mars.mesh.Host().ID()); return ok })
		mars.mesh.Host().SetStreamHandler(earth.proto("peers"), func(s network.Stream) {
			defer s.Close()
			b := []byte{16}
			for range 16 {
				id := nobody(t)
				b = append(append(b, id[:]...), 1, byte(len(victim.at)))
				for _, a := range victim.addrs() {
					b = append(append(b, byte(len(a.Bytes()))), a.Bytes()...)
				}
				b = append(b, 0, 0)
			}
			_, _ = s.Write(b)
		})
		earth.mesh.AskPeers(t.Context())
		var wg sync.WaitGroup
		for _, ai := range earth.mesh.Known().AddrInfos() {
			if ai.ID != mars.mesh.Host().ID() {
				wg.Go(func() { _, _ = earth.mesh.Connect(t.Context(), ai) })
			}
		}
		wg.Wait()
		victim.saw(t, 3, 3600)
	})
	t.Run("dial-backs", func(t *testing.T) {
		t.Parallel()
		victim := newBystander(t, "127.0.7.4", 6)
		earth := founded(t, "earth")
		mars := earth.join(t, "mars")
		q := func() []byte {
			id := nobody(t)
			b := append([]byte{0}, id[:]...)
			b = append(b, byte(len(victim.at)))
			for _, a := range victim.addrs() {
				b = append(append(b, byte(len(a.Bytes()))), a.Bytes()...)
			}
			return b
		}
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				_, _ = mars.dialBackQuestion(ctx, earth.mesh.Host().ID(), q())
			})
		}
		wg.Wait()
		victim.saw(t, 3, 3600)
	})
	t.Run("remembered hearsay", func(t *testing.T) {
		t.Parallel()
		victim := newBystander(t, "127.0.7.5", 4)
		liar := nobody(t)
		var list []mesh.KnownMember
		for range 16 {
			p := mesh.KnownMember{Peer: nobody(t), Server: true, Seen: time.Now(), By: liar}
			for _, a := range victim.addrs() {
				p.Addrs = append(p.Addrs, a.String())
			}
			list = append(list, p)
		}
		dir := memory(t)
		b, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		earth := newNode(t, dir)
		earth.run(Create(t.Context(), "example.com", earth.config("earth")))
		earth.shut()
		if err := dir.Save(mesh.KnownFile, json.RawMessage(b)); err != nil {
			t.Fatal(err)
		}
		again := newNodeWith(t, earth.key, dir)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		again.run(Create(ctx, "example.com", again.config("earth")))
		again.nat.Mapped().Remeasure()
		await(t, "measured", patience, func() bool { return !again.nat.Mapped().Known() })
		victim.saw(t, 3, 3600)
	})
}

// TestTokenFloodsNobody: the addresses in a token are its maker's choice, but it
// is the user who has it tried, and while nobody is there Join goes on: what goes
// to one host is bounded all the same.
func TestTokenFloodsNobody(t *testing.T) {
	t.Parallel()
	victim := newBystander(t, "127.0.7.6", membership.MaxAddrs)
	root, err := membership.NewRoot("example.com")
	if err != nil {
		t.Fatal(err)
	}
	var addrs []string
	for _, a := range victim.addrs() {
		addrs = append(addrs, a.String()+"/p2p/"+p2p.ID(nobody(t)).String())
	}
	token, err := root.Issuer().Invite(membership.InviteOptions{Addrs: addrs}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	mars := newNode(t, nil)
	t.Cleanup(mars.shut)
	if _, err := Join(ctx, token.String(), mars.config("mars")); err == nil {
		t.Fatal("joined nobody")
	}
	victim.saw(t, 30, 36000)
}
