package overlay

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/pion/transport/v3"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/leaktest"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/internal/state"
	"github.com/idloc/idloc/internal/yardstick"
	"github.com/idloc/idloc/overlay/mesh"
	"github.com/idloc/idloc/overlay/p2p"
)

func TestMain(m *testing.M) {
	yardstick.Overlap()
	leaktest.Main(m)
}

var loopback = netip.MustParseAddr("127.0.0.1")

// node is one peer as the composition root would put it together, without
// the stack above the pipes.
type node struct {
	*Overlay
	t      testing.TB
	key    ed25519.PrivateKey
	sock   *socket.Port
	pipes  atomic.Pointer[pipe.Endpoint]
	ov     atomic.Pointer[Overlay]
	state  *state.Dir
	closer sync.Once

	mu     sync.Mutex
	events []event.Event
}

// The node is its pipes' user.
func (n *node) Data(p *pipe.Pipe, b []byte, seg int)      {}
func (n *node) Large(p *pipe.Pipe, v6 bool, plain []byte) {}
func (n *node) Up(p *pipe.Pipe)                           {}
func (n *node) Down(p *pipe.Pipe, err error)              {}
func (n *node) Gone(peerid.ID, error)                     {}

func (n *node) emit(e event.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, e)
}

// seen returns the events of a kind about a peer (zero: any).
func (n *node) seen(k event.Kind, p peerid.ID) []event.Event {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []event.Event
	for _, e := range n.events {
		if e.Kind == k && (p.IsZero() || e.Peer == p) {
			out = append(out, e)
		}
	}
	return out
}

// patience is for what happens sooner or later; how soon is not the point, and
// go test finds what hangs.
const patience = 5 * time.Minute

// await waits until ok, which an event may change, looked at again at each
// tick: the overlay's own background work has no end to wait on. The time is
// the yardstick's: a busy machine has more.
func await(t testing.TB, what string, within time.Duration, ok func() bool) {
	t.Helper()
	if !yardstick.Await(within, ok) {
		t.Fatalf("not within %v: %s", within, what)
	}
}

func newNode(t testing.TB, dir *state.Dir) *node {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return newNodeWith(t, key, dir)
}

func newNodeWith(t testing.TB, key ed25519.PrivateKey, dir *state.Dir) *node {
	t.Helper()
	return newNodeOn(t, key, dir, netip.AddrPortFrom(loopback, 0), nil)
}

// newNodeAt makes one at an address, with a port of before unless that is 0. While it is
// away somebody else may get the port: such a node has an address of its own.
func newNodeAt(t testing.TB, key ed25519.PrivateKey, dir *state.Dir, at netip.AddrPort) *node {
	t.Helper()
	if c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at.Addr(), 0))); err != nil {
		t.Skipf("the system has no %v on loopback: %v", at.Addr(), err)
	} else {
		_ = c.Close()
	}
	if key == nil {
		var err error
		if _, key, err = ed25519.GenerateKey(nil); err != nil {
			t.Fatal(err)
		}
	}
	return newNodeOn(t, key, dir, at, nil)
}

// newNodeOn makes one on a network that is not the kernel's; nil: it is.
func newNodeOn(t testing.TB, key ed25519.PrivateKey, dir *state.Dir, at netip.AddrPort, nw transport.Net) *node {
	t.Helper()
	n := &node{t: t, key: key, state: dir}
	var err error
	n.sock, err = socket.Listen(socket.Config{
		Addrs: []netip.Addr{at.Addr()}, Port: at.Port(), Net: nw,
		OnPipe: func(c *socket.Conn, from netip.AddrPort, b []byte, seg int) {
			if p := n.pipes.Load(); p != nil {
				p.Receive(c, from, b, seg)
			}
		},
		OnSTUN: func(c *socket.Conn, from netip.AddrPort, b []byte) {
			if o := n.ov.Load(); o != nil {
				o.HandleSTUN(c, from, b)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *node) config(name string) Config {
	cfg := Config{
		Key: n.key, Socket: n.sock, State: n.state, Name: name, Events: n.emit, PolicyChanged: func() {},
		Pipes: func(o *Overlay) (*pipe.Endpoint, error) {
			id := o.ID()
			e, err := pipe.NewEndpoint(pipe.Config{Key: n.key, Overlay: id, Handler: n, Events: n.emit})
			if old := n.pipes.Swap(e); old != nil {
				_ = old.Close() // of a join that has failed
			}
			return e, err
		},
	}
	if os.Getenv("IDLOC_TEST_LOG") != "" {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", name)
	}
	return cfg
}

func (n *node) run(o *Overlay, err error) *node {
	n.t.Helper()
	if err != nil {
		n.shut()
		n.t.Fatal(err)
	}
	n.Overlay = o
	n.ov.Store(o)
	n.t.Cleanup(n.shut)
	return n
}

// addrs are the node's own addresses as a token has them, the best first.
func (n *node) addrs() []string {
	var out []string
	own := n.nat.Own()
	for _, a := range own.Best(own.Len()) {
		out = append(out, p2p.QUIC(a).String()+"/p2p/"+n.Self().String())
	}
	return out
}

// proto is a protocol of members.
func (n *node) proto(name string) protocol.ID { return mesh.Protocol{Name: name}.ID(n.prefix()) }

// kad is the protocol of the database.
func (n *node) kad() protocol.ID { return n.prefix() + "/kad/1.0.0" }

// serveKad answers what a server of the database is asked in its place. That it is
// one takes effect a moment after it was told so, and would undo this.
func (n *node) serveKad(f network.StreamHandler) {
	n.t.Helper()
	await(n.t, "the database is served", 10*time.Second, func() bool { return slices.Contains(n.mesh.Host().Mux().Protocols(), n.kad()) })
	n.mesh.Host().SetStreamHandler(n.kad(), f)
}

// shut ends the node as the composition root does.
func (n *node) shut() {
	n.closer.Do(func() {
		if n.Overlay != nil {
			if err := n.Overlay.Close(); err != nil {
				n.t.Errorf("Close: %v", err)
			}
		}
		if p := n.pipes.Load(); p != nil {
			_ = p.Close()
		}
		_ = n.sock.Close()
	})
}

// founded starts an overlay of one.
func founded(t testing.TB, name string) *node {
	t.Helper()
	n := newNode(t, nil)
	return n.run(Create(t.Context(), "example.com", n.config(name)))
}

// join adds a peer by a token of the founder's.
func (n *node) join(t testing.TB, name string) *node {
	t.Helper()
	return n.joinWith(t, newNode(t, nil), name, InviteOptions{})
}

func (n *node) joinWith(t testing.TB, j *node, name string, opts InviteOptions) *node {
	t.Helper()
	token, err := n.Invite(opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return j.run(Join(ctx, token, j.config(name)))
}

// crowd founds an overlay and joins n peers called name0, name1 … to it.
func crowd(t testing.TB, n int) (founder *node, peers []*node) {
	t.Helper()
	founder = founded(t, "earth")
	peers = make([]*node, n)
	for i := range peers {
		peers[i] = founder.join(t, fmt.Sprintf("peer%d", i))
	}
	return founder, peers
}
