// Package shimtest joins shims by real pipes without sockets or an overlay:
// two or more Nodes of one Net, whose Connectors shake hands directly. It is
// for the tests and benchmarks of shim and of what stands above it.
package shimtest

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/lsi"
	"github.com/idloc/idloc/shim"
)

// Filter sees each batch and returns what arrives of it: b itself, a changed
// copy, less, or nothing. It is called from many goroutines.
type Filter func(from, to *Node, b []byte, seg int) []byte

// SetFilter puts f in the way of all batches from now on.
func (n *Net) SetFilter(f Filter) { n.filter.Store(&f) }

// OnMarked calls f of each batch sent with a traffic class from now on, before
// any Filter. It is called from many goroutines.
func (n *Net) OnMarked(f func(from *Node, class uint8, b []byte, seg int)) { n.marked.Store(&f) }

// SetRefuse makes every batch sent from now on an error of the socket; nil ends that.
func (n *Net) SetRefuse(err error) { n.refuse.Store(&err) }

// SetDelay makes every batch sent from now on arrive d later. Order stays.
func (n *Net) SetDelay(d time.Duration) { n.delay.Store(int64(d)) }

// Net is a network in memory: every node reaches every other, in order and at
// once unless SetDelay says otherwise, and loses nothing unless it is overrun
// or a Filter says so. It may be used concurrently.
type Net struct {
	filter atomic.Pointer[Filter]
	delay  atomic.Int64
	refuse atomic.Pointer[error]
	marked atomic.Pointer[func(from *Node, class uint8, b []byte, seg int)]

	// NoRepair is pipe.Config's, of the nodes that are added after it was set.
	NoRepair bool
	// Lost counts the batches that found a node's queue full.
	Lost atomic.Int64

	mu     sync.Mutex // guards what follows
	byAddr map[netip.AddrPort]*Node
	byID   map[peerid.ID]*Node
}

// Node is one peer: a table, pipes, a shim, and one address of the Net.
type Node struct {
	ID    peerid.ID
	Table *lsi.Table
	Pipes *pipe.Endpoint
	Shim  *shim.Shim

	// Connects counts calls of the Connector.
	Connects atomic.Int64
	// OnConnect, if set before the first packet, is asked by the Connector;
	// an error is its answer.
	OnConnect func(ctx context.Context, peer peerid.ID) error
	// OnConnected, if set before the first packet, is shown the Connector's pipe
	// before the shim is.
	OnConnected func(p *pipe.Pipe)

	net  *Net
	addr netip.AddrPort
	in   chan batch
	done chan struct{}
	wg   sync.WaitGroup
	stop sync.Once
}

type batch struct {
	from *Node
	b    *[]byte
	seg  int
	due  time.Time // zero: at once
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 65536); return &b }}

// queue is how many batches wait for a node before more are lost.
const queue = 1024

// NewNet returns an empty Net.
func NewNet() *Net {
	return &Net{byAddr: make(map[netip.AddrPort]*Node), byID: make(map[peerid.ID]*Node)}
}

// Node adds a node, which is closed when tb ends.
func (n *Net) Node(tb testing.TB, events event.Sink) *Node {
	tb.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		tb.Fatal(err)
	}
	d := &Node{net: n, in: make(chan batch, queue), done: make(chan struct{})}
	if d.ID, err = peerid.FromPublicKey(pub); err != nil {
		tb.Fatal(err)
	}
	if d.Table, err = lsi.New(lsi.Config{Self: d.ID}); err != nil {
		tb.Fatal(err)
	}
	d.Shim = shim.New(shim.Config{Table: d.Table, Connector: d, Events: events})
	if d.Pipes, err = pipe.NewEndpoint(pipe.Config{Key: key, Handler: d.Shim, NoRepair: n.NoRepair}); err != nil {
		tb.Fatal(err)
	}
	n.mu.Lock()
	i := len(n.byAddr) + 1
	d.addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 4000)
	n.byAddr[d.addr], n.byID[d.ID] = d, d
	n.mu.Unlock()
	d.wg.Go(d.receive)
	tb.Cleanup(d.Close)
	return d
}

// Close ends the node's pipes, shim and table. It is idempotent.
func (d *Node) Close() {
	d.stop.Do(func() {
		_ = d.Shim.Close()
		_ = d.Pipes.Close()
		close(d.done)
		d.wg.Wait()
		_ = d.Table.Close()
	})
}

// LSI assigns peer's LSIs at d and returns the IPv4 one.
func (d *Node) LSI(tb testing.TB, peer *Node) (v4, v6 netip.Addr) {
	tb.Helper()
	v4, v6, _, err := d.Table.Assign(peer.ID)
	if err != nil {
		tb.Fatal(err)
	}
	return v4, v6
}

// LocalAddr implements pipe.Sender.
func (d *Node) LocalAddr() netip.AddrPort { return d.addr }

// WriteBatch implements pipe.Sender.
func (d *Node) WriteBatch(b []byte, seg int, to netip.AddrPort) error {
	if err := d.net.refuse.Load(); err != nil && *err != nil {
		return *err
	}
	d.net.mu.Lock()
	dst := d.net.byAddr[to]
	d.net.mu.Unlock()
	if dst == nil {
		return nil
	}
	if f := d.net.filter.Load(); f != nil {
		if b = (*f)(d, dst, b, seg); len(b) == 0 {
			return nil
		}
	}
	buf := buffers.Get().(*[]byte)
	*buf = append((*buf)[:0], b...)
	m := batch{from: d, b: buf, seg: seg}
	if delay := time.Duration(d.net.delay.Load()); delay > 0 {
		m.due = time.Now().Add(delay)
	}
	select {
	case dst.in <- m:
	default: // like a socket's buffer: full
		d.net.Lost.Add(1)
		buffers.Put(buf)
	}
	return nil
}

// WriteClass implements pipe.ClassSender.
func (d *Node) WriteClass(b []byte, seg int, to netip.AddrPort, class uint8) error {
	if f := d.net.marked.Load(); f != nil {
		(*f)(d, class, b, seg)
	}
	return d.WriteBatch(b, seg, to)
}

func (d *Node) receive() {
	for {
		select {
		case <-d.done:
			return
		case m := <-d.in:
			if !m.due.IsZero() {
				select {
				case <-d.done:
					return
				case <-time.After(time.Until(m.due)):
				}
			}
			d.Pipes.Receive(d, m.from.addr, *m.b, m.seg)
			buffers.Put(m.b)
		}
	}
}

// Connect implements shim.Connector.
func (d *Node) Connect(ctx context.Context, peer peerid.ID) (*pipe.Pipe, error) {
	d.Connects.Add(1)
	if d.OnConnect != nil {
		if err := d.OnConnect(ctx, peer); err != nil {
			return nil, err
		}
	}
	d.net.mu.Lock()
	other := d.net.byID[peer]
	d.net.mu.Unlock()
	if other == nil {
		return nil, errors.New("shimtest: no such peer")
	}
	offer, err := d.Pipes.NewOffer(peer, pipe.Local{MTU: 1472})
	if err != nil {
		return nil, err
	}
	defer offer.Cancel()
	in, err := other.Pipes.ReadOffer(offer.Bytes())
	if err != nil {
		return nil, err
	}
	answer, theirs, err := in.Accept(pipe.Local{MTU: 1472})
	if err != nil {
		return nil, err
	}
	if _, err := other.Pipes.Up(theirs, pipe.Path{Local: other, Remote: d.addr}); err != nil {
		return nil, err
	}
	ours, err := offer.Finish(answer)
	if err != nil {
		return nil, err
	}
	p, err := d.Pipes.Up(ours, pipe.Path{Local: d, Remote: other.addr})
	if err == nil && d.OnConnected != nil {
		d.OnConnected(p)
	}
	return p, err
}
