package netstack

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/idloc/idloc/internal/peerid"
)

// CutError is what Stack.Close returns if it had to end connections whose peers
// have not acknowledged all that was written to them.
type CutError struct {
	Cuts []Cut // one a peer, those with the most bytes first; never empty
	Err  error // the context's, or syscall.ETIMEDOUT: the peers said nothing
}

// Cut is what one peer did not get.
type Cut struct {
	Peer  peerid.ID // zero: connections of the node to itself
	Name  string    // for Error; empty: the Stack knows no names, Error has the ID
	Conns int       // that were cut
	Bytes int64     // written to these and not acknowledged; 0: only their ends
}

// maxNamed is how many peers an error names.
const maxNamed = 3

// Error says how much was not delivered and to whom, "2 conns to
// mars.example.com were cut, 1.2 MB not delivered: context deadline exceeded".
func (e *CutError) Error() string {
	var conns int
	var bytes int64
	var named []string
	for _, c := range e.Cuts {
		conns += c.Conns
		bytes += c.Bytes
		if len(named) < maxNamed {
			named = append(named, c.name()+" "+size(c.Bytes))
		}
	}
	text := fmt.Sprintf("%d conns to ", conns)
	if conns == 1 {
		text = "1 conn to "
	}
	if len(e.Cuts) == 1 {
		text += e.Cuts[0].name()
	} else {
		text += fmt.Sprintf("%d peers", len(e.Cuts))
	}
	if text += " were cut, "; conns == 1 {
		text = strings.Replace(text, " were ", " was ", 1)
	}
	switch more := len(e.Cuts) - len(named); {
	case bytes == 0:
		text += "the end of the stream not delivered"
	case len(e.Cuts) == 1:
		text += size(bytes) + " not delivered"
	case more > 0:
		text += fmt.Sprintf("%s not delivered (%s and %d more)", size(bytes), strings.Join(named, ", "), more)
	default:
		text += fmt.Sprintf("%s not delivered (%s)", size(bytes), strings.Join(named, ", "))
	}
	return text + ": " + e.Err.Error()
}

// Unwrap returns Err.
func (e *CutError) Unwrap() error { return e.Err }

func (c Cut) name() string {
	switch {
	case c.Name != "":
		return c.Name
	case c.Peer == peerid.ID{}:
		return "this node"
	}
	return c.Peer.String()
}

// size is n bytes as one reads them.
func size(n int64) string {
	unit, v := "B", float64(n)
	for _, u := range []string{"kB", "MB", "GB"} {
		if v < 999.5 {
			break
		}
		unit, v = u, v/1000
	}
	if unit != "B" && v < 9.95 {
		return fmt.Sprintf("%.1f %s", v, unit)
	}
	return fmt.Sprintf("%.0f %s", v, unit)
}

// cut says what flush, which returned err, has left undelivered; nil: nothing. If
// it had the time, peers that said nothing and lack only the end of the stream do
// not count, for the notice that the node has ended tells them; nor do those whose
// notice says that they have all.
func (o *orphans) cut(err error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	by := make(map[peerid.ID]*Cut)
	for ep, c := range o.all {
		if !delivering(ep) {
			continue
		}
		n := unacknowledged(ep, c.wq)
		if n == 0 && (err == nil || o.link.deliveries.sure(c.peer)) {
			continue
		}
		if by[c.peer] == nil {
			by[c.peer] = &Cut{Peer: c.peer}
		}
		by[c.peer].Conns++
		by[c.peer].Bytes += n
	}
	if len(by) == 0 {
		return nil
	}
	e := &CutError{Err: cmp.Or(err, error(syscall.ETIMEDOUT))}
	for _, c := range by {
		e.Cuts = append(e.Cuts, *c)
	}
	slices.SortFunc(e.Cuts, func(a, b Cut) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(b.Conns, a.Conns), strings.Compare(a.name(), b.name()))
	})
	return e
}

// unacknowledged is how many bytes lie in ep's send buffer, from which
// acknowledgements take them. gVisor does not say. But it wakes the writers,
// closed or not, of a buffer that is made large enough, which is half as large
// again as what lies in it: the smallest that is tells. wq is ep's; nobody may
// write to ep any more.
func unacknowledged(ep *tcp.Endpoint, wq *waiter.Queue) int64 {
	w := wakes{ep: ep, wq: wq}
	defer w.watch()()
	if w.with(0) {
		return 0
	}
	low, high := int64(0), int64(2*tcpBufferMax) // of a few bytes' more than tcpBufferMax at most
	for low+1 < high {
		if middle := (low + high) / 2; w.with(middle) {
			high = middle
		} else {
			low = middle
		}
	}
	return (2*high + 1) / 3 // high = n + n/2
}

// bare says whether nothing lies in ep's send buffer, as its peer has it all: one
// that fails has an empty buffer, too, and has woken the writers.
func bare(ep *tcp.Endpoint, wq *waiter.Queue) bool {
	w := wakes{ep: ep, wq: wq}
	defer w.watch()()
	w.with(0) // may be woken by an acknowledgement that counts on the buffer as it was
	return w.with(0) && ep.EndpointState() != tcp.StateError
}

// wakes tells whether the writers of an endpoint are woken.
type wakes struct {
	ep    *tcp.Endpoint
	wq    *waiter.Queue
	woken atomic.Bool
}

func (w *wakes) watch() (stop func()) {
	entry := waiter.NewFunctionEntry(waiter.WritableEvents, func(waiter.EventMask) { w.woken.Store(true) })
	w.wq.EventRegister(&entry)
	return func() { w.wq.EventUnregister(&entry) }
}

func (w *wakes) with(buffer int64) bool {
	w.woken.Store(false)
	w.ep.SocketOptions().SetSendBufferSize(buffer, true)
	return w.woken.Load()
}
