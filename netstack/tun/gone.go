package tun

import (
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/idloc/idloc/internal/inner"
)

// When the process of a peer is known to be over, because it has said so, has
// been started anew, or was put out, the kernel is asked to end its connections
// to it, whichever program has them (SOCK_DESTROY, sock_diag(7)). What has come
// can still be read, then there is the end that the peer had sent or
// ECONNABORTED. Where the kernel cannot do that, or the program has given up
// CAP_NET_ADMIN, they live until they get no answer.

// socket is one of the kernel's TCP connections.
type socket struct{ local, remote netip.AddrPort }

// Gone implements shim.PeerUpper. Connections that are being opened go on: they
// are meant for whoever comes. That all was delivered the kernel cannot be told.
func (h *Host) Gone(v4, v6 netip.Addr, _ bool) {
	err := h.dev.destroy(func(s socket) bool {
		a := s.remote.Addr()
		if a != v4 && a != v6 {
			return false
		}
		h.last.expect(s)
		return true
	})
	if err != nil {
		h.log.Info("the host's connections to a peer that has ended live on", "lsi", v4, "err", err)
	}
}

// resets are those that the kernel sends for connections that Gone has ended:
// there is no process that wants to know, and the packet would ask for a pipe.
// It may be used concurrently.
type resets struct {
	mu    sync.Mutex // guards what follows
	all   map[inner.Flow]time.Time
	swept time.Time // when those that did not come were last forgotten
}

// resetSoon is in what time the kernel's reset comes, if one does.
const resetSoon = 5 * time.Second

func (r *resets) expect(s socket) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if now.Sub(r.swept) > resetSoon { // not at each of thousands
		r.swept = now
		maps.DeleteFunc(r.all, func(_ inner.Flow, at time.Time) bool { return now.Sub(at) > resetSoon })
	}
	if r.all == nil {
		r.all = make(map[inner.Flow]time.Time)
	}
	r.all[inner.FlowOf(s.local.Port(), s.remote)] = now
}

// take says whether a packet that goes out is a reset that was expected.
func (r *resets) take(h *inner.Header) bool {
	if h.Flags&inner.RST == 0 {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	f := h.Outbound()
	at, ok := r.all[f]
	delete(r.all, f)
	return ok && time.Since(at) < resetSoon
}
