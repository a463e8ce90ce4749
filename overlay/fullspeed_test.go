//go:build unix

package overlay

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"flag"
	"fmt"
	mrand "math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	record "github.com/libp2p/go-libp2p-record"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-msgio"
	"google.golang.org/protobuf/proto"

	"github.com/idloc/idloc/overlay/adapter"
	"github.com/idloc/idloc/overlay/admission"
	"github.com/idloc/idloc/overlay/field"
	"github.com/idloc/idloc/overlay/mesh"
	"github.com/idloc/idloc/overlay/naming"
	"github.com/idloc/idloc/overlay/offers"
	"github.com/idloc/idloc/overlay/p2p"
)

// fullSpeed has the hostile member run in a process of its own, so that what it costs
// the others can be measured:
//
//	go test -run FullSpeedMember -v ./overlay -fullspeed=1m
var fullSpeed = flag.Duration("fullspeed", 0, "how long a hostile member goes at full speed, in a process of its own, measured; 0: two seconds, in this one, not measured")

// hostileToken, in the environment, makes the process that hostile member.
const hostileToken = "IDLOC_FULLSPEED_TOKEN"

// rampage has a member do everything at once that members may do to others, to all to
// whom it is connected, without a pause, until ctx ends. It returns how often it did
// each.
func (n *node) rampage(ctx context.Context) map[string]int64 {
	var wg sync.WaitGroup
	counts := map[string]*atomic.Int64{}
	each := func(what string, width int, do func(ctx context.Context, to peer.ID) error) {
		c := new(atomic.Int64)
		counts[what] = c
		for range width {
			wg.Go(func() {
				for ctx.Err() == nil {
					members := n.mesh.Members()
					if len(members) == 0 {
						select { // it is not let in again yet
						case <-ctx.Done():
						case <-time.After(10 * time.Millisecond):
						}
						continue
					}
					for _, m := range members {
						ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
						if do(ctx, m.Peer) == nil {
							c.Add(1)
						}
						cancel()
					}
				}
			})
		}
	}
	ask := func(pr mesh.Protocol, width int, request func() []byte) {
		each(pr.Name, width, func(ctx context.Context, to peer.ID) error {
			_, err := n.mesh.Ask(ctx, to, pr, request())
			return err
		})
	}
	chain := n.chainNow()
	random := func(size int) []byte {
		b := make([]byte, size)
		rand.Read(b)
		return b
	}
	ask(mesh.Protocol(admission.ConfirmProtocol), 8, func() []byte {
		return field.Append16(field.Append8([]byte{1, 1}, fmt.Appendf(nil, "x%x", random(4))), chain)
	})
	ask(mesh.Protocol(admission.ConfirmedProtocol), 8, func() []byte { return field.Append16(nil, chain) })
	ask(mesh.Protocol(admission.UsesProtocol), 8, func() []byte { return append([]byte{1}, n.Member().Invitation[:]...) })
	ask(mesh.Protocol(admission.RevocationProtocol), 8, func() []byte { return make([]byte, 8+8+4) })
	ask(mesh.Protocol{Name: "peers", MaxAnswer: 1 << 16, Timeout: time.Second}, 8, func() []byte { return nil })
	ask(mesh.Protocol{Name: "dialback", MaxAnswer: 1, Timeout: time.Second}, 2, func() []byte { return random(40) })
	ask(adapter.OfferProtocol, 8, func() []byte {
		q := offers.Request{TTL: offers.MaxTTL, Transaction: [16]byte(random(16)), From: n.Self(), Offer: random(1200)}
		for _, m := range n.mesh.Members() {
			q.Target = m.ID // to one of them, through another
		}
		return q.Append(nil)
	})
	each("hello", 8, func(ctx context.Context, to peer.ID) error {
		s, err := openStream(ctx, n.mesh.Host(), to, n.proto("hello"))
		if err != nil {
			return err
		}
		defer s.Reset()
		b := binary.BigEndian.AppendUint64([]byte{0, 1, 0}, 0)
		b = binary.BigEndian.AppendUint64(b, uint64(time.Now().Unix()))
		b = append(field.Append16(binary.BigEndian.AppendUint64(b, 7), chain), 0, 0, 0)
		if _, err := s.Write(b); err != nil {
			return err
		}
		_ = s.CloseWrite()
		deadline, _ := ctx.Deadline()
		_ = s.SetReadDeadline(deadline)
		_, err = s.Read(b)
		return err
	})
	keys := naming.Keys(n.ID(), n.Label())
	rec := naming.Record{Label: n.Label(), Seq: naming.Seq(time.Now(), 0), Issued: time.Now(), Expires: time.Now().Add(time.Hour), Chain: chain}
	value, err := rec.Sign(n.key, n.roster.Overlay())
	if err != nil {
		n.t.Error(err)
	}
	asked := new(atomic.Int64) // on each stream many
	each("database", 8, func(ctx context.Context, to peer.ID) error {
		s, err := n.mesh.Stream(ctx, to, n.kad())
		if err != nil {
			return err
		}
		defer s.Reset()
		deadline, _ := ctx.Deadline()
		_ = s.SetDeadline(deadline)
		r, w := msgio.NewVarintReaderSize(s, 1<<20), msgio.NewVarintWriter(s)
		for i := range 1000 {
			m := pb.NewMessage([]pb.Message_MessageType{pb.Message_PUT_VALUE, pb.Message_GET_VALUE, pb.Message_FIND_NODE}[i%3], []byte(keys[0]), 0)
			if i%3 == 0 {
				m.Record = record.MakePutRecord(keys[0], value)
			}
			b, err := proto.Marshal(m)
			if err != nil {
				return err
			}
			if err := w.WriteMsg(b); err != nil {
				return err
			}
			if _, err := r.ReadMsg(); err != nil {
				return err
			}
			asked.Add(1)
		}
		return nil
	})
	each("lookup", 4, func(ctx context.Context, _ peer.ID) error {
		_, err := n.Resolve(ctx, fmt.Sprintf("x%x", random(4)))
		return err
	})
	each("pipe and relay", 4, func(ctx context.Context, to peer.ID) error {
		id, err := p2p.PeerID(to)
		if err != nil {
			return err
		}
		pp, err := n.Connect(ctx, id)
		if err != nil {
			return err
		}
		short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		defer cancel()
		for _, m := range n.mesh.Members() {
			_, _ = pp.Bind(short, m.ID, [16]byte(random(16)))
		}
		pp.End(context.Canceled)
		return nil
	})
	wg.Go(func() { // and connects anew
		for ctx.Err() == nil {
			for _, m := range n.mesh.Members() {
				h := n.mesh.Host()
				ai := peer.AddrInfo{ID: m.Peer, Addrs: h.Peerstore().Addrs(m.Peer)}
				_ = h.Network().ClosePeer(m.Peer)
				short, cancel := context.WithTimeout(ctx, 5*time.Second)
				_, _ = n.mesh.Connect(short, ai)
				cancel()
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	})
	wg.Wait()
	out := map[string]int64{}
	for what, c := range counts {
		out[what] = c.Load()
	}
	out["database"] = asked.Load()
	return out
}

// dials has peers connect to each other as long as ctx lasts, and returns how many
// tries there were, and how many failed: were not there within a time.
func dials(ctx context.Context, peers []*node, within time.Duration) (tries, failed int, slowest time.Duration) {
	r := mrand.New(mrand.NewPCG(18, 3))
	for ctx.Err() == nil {
		p := r.Perm(len(peers))
		a, b := peers[p[0]], peers[p[1]]
		for _, pp := range a.pipes.Load().Pipes() {
			if pp.Peer() == b.Self() {
				pp.End(context.Canceled)
			}
		}
		each, cancel := context.WithTimeout(context.WithoutCancel(ctx), within)
		start := time.Now()
		f, err := a.Resolve(each, b.Label())
		if err == nil && f.Peer == b.Self() {
			_, err = a.Connect(each, b.Self())
		}
		cancel()
		tries++
		slowest = max(slowest, time.Since(start))
		if err != nil {
			failed++
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
	return tries, failed, slowest
}

// used is what the process has used of a processor, and what lives in its heap.
func used() (cpu time.Duration, heap int64) {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), int64(m.HeapAlloc)
}

// TestFullSpeedMember is the attack: one member does to all others whatever members can
// do, as fast as it can. They go on to find each other and to connect, and what it costs
// them is bounded: with -fullspeed, for each of them 20 % of a core and 32 MiB above what
// they use without it.
func TestFullSpeedMember(t *testing.T) {
	if token := os.Getenv(hostileToken); token != "" {
		ctx, cancel := context.WithTimeout(t.Context(), *fullSpeed)
		defer cancel()
		n := newNode(t, nil)
		n.run(Join(ctx, token, n.config("hostile")))
		t.Log(n.rampage(ctx))
		return
	}
	earth, peers := crowd(t, 3)
	honest := append(peers, earth)
	token, err := earth.Invite(InviteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if *fullSpeed == 0 {
		bad := newNode(t, nil)
		bad.run(Join(t.Context(), token, bad.config("hostile")))
		did := map[string]int64{}
		all := func() bool { // a busy machine needs longer for it
			for _, what := range []string{"confirm", "confirmed", "uses", "revocation", "peers", "offer", "hello", "database"} {
				if did[what] == 0 {
					return false
				}
			}
			return true
		}
		for begin := time.Now(); !all(); {
			if time.Since(begin) > patience {
				t.Fatalf("the attack is none: %v", did)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			var wg sync.WaitGroup
			wg.Go(func() {
				for what, n := range bad.rampage(ctx) {
					did[what] += n
				}
			})
			tries, failed, slowest := dials(ctx, honest, patience)
			cancel()
			wg.Wait()
			t.Logf("%d dials, %d failed, the slowest took %v; meanwhile %v", tries, failed, slowest, did)
			if tries == 0 || failed > 0 {
				t.Fatalf("%d of %d dials failed", failed, tries)
			}
		}
		return
	}
	phase := func(d time.Duration) (cpu float64, heap int64, tries, failed int, slowest time.Duration) {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		before, _ := used()
		start := time.Now()
		tries, failed, slowest = dials(ctx, honest, 10*time.Second)
		after, heap := used()
		return (after - before).Seconds() / time.Since(start).Seconds() / float64(len(honest)), heap, tries, failed, slowest
	}
	idle, small, tries, failed, slowest := phase(15 * time.Second)
	t.Logf("without: %.1f %% of a core for each, %d MiB; %d dials, %d failed, the slowest took %v", 100*idle, small>>20, tries, failed, slowest)
	child := exec.Command(os.Args[0], "-test.run=^TestFullSpeedMember$", "-test.v", "-fullspeed="+fullSpeed.String())
	child.Env = append(os.Environ(), hostileToken+"="+token)
	child.Stdout, child.Stderr = os.Stderr, os.Stderr
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	busy, big, tries, failed, slowest := phase(*fullSpeed)
	if err := child.Wait(); err != nil {
		t.Errorf("the hostile member: %v", err)
	}
	t.Logf("with: %.1f %% of a core for each, %d MiB; %d dials, %d failed, the slowest took %v", 100*busy, big>>20, tries, failed, slowest)
	if failed > tries/100 {
		t.Errorf("%d of %d dials failed", failed, tries)
	}
	if busy-idle > 0.2 {
		t.Errorf("%.1f %% of a core for each", 100*(busy-idle))
	}
	if (big-small)/int64(len(honest)) > 32<<20 {
		t.Errorf("%d MiB", (big-small)>>20)
	}
}
