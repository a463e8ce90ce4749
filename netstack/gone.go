package netstack

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

// When the process of a peer is known to be over, because it has said so, has
// been started anew, or was put out, its connections are over too: nobody is
// there who would acknowledge, reset or close them. They end here as if the
// peer had reset each: what has come in order can still be read, then a conn
// whose end has come as well says io.EOF, and any other ECONNRESET. If the peer
// has said that this side has all that was ever written to it, each has the end
// first that is on its way, but for one that answers that something lacks.
//
// Which they are is settled where packets are received, before anything of the
// peer's next process comes up (internal/pipe): those that are there then, and no
// other. That takes no lock of an endpoint, for somebody may hold one for as long as
// a packet to another peer is on its way. To end them takes longer, as each is asked
// for a number first (lastwords.go): that is done by a goroutine for each peer, and
// nothing of one waits for another. From the beginning on
//
//   - nothing of these connections goes out, until some time after each is
//     over: no process is there that wants to know, and a packet would ask for a pipe;
//   - the peer is not doubted because of them (delivered.go): what was known of its
//     process does not hold for the next.
//
// What does not answer in time is aborted, which discards what has come: its conn says
// ECONNRESET, whatever had come.

const (
	goneWithin = 30 * time.Second // beyond, what does not answer is aborted
	goneQuiet  = time.Second      // after one is over, until it is muted no more
)

// endings are the ends of peers that are under way. Its methods may be used
// concurrently.
type endings struct {
	s      *Stack
	within time.Duration
	stop   chan struct{} // closed by close

	mu     sync.Mutex // guards what follows
	closed bool
	by     map[netip.Addr]*ending // by the peer's IPv4 LSI
	wg     sync.WaitGroup
}

// ending is that of one peer.
type ending struct {
	more  []*lastWords  // for the goroutine; endings.mu guards it
	added chan struct{} // there is more
}

func (e *endings) init(s *Stack) {
	e.s, e.within = s, goneWithin
	e.stop, e.by = make(chan struct{}), make(map[netip.Addr]*ending)
}

// Gone implements shim.PeerUpper.
func (l *link) Gone(v4, v6 netip.Addr, delivered bool) { l.gone(v4, v6, delivered) }

// peerGone ends all connections with the peer that has these addresses, but for
// those that it has not answered yet: they are meant for whoever comes. delivered says
// that what the peer has written on them has come. It returns at once, with what
// there is to do.
func (s *Stack) peerGone(v4, v6 netip.Addr, delivered bool) []*lastWords {
	if id, ok := s.shim.Table().Peer(v4); ok {
		s.link.deliveries.forget(id)
	}
	var all []*lastWords
	until := time.Now().Add(s.endings.within)
	for ep := range s.endpoints() {
		if w := newLastWords(ep, v4, v6); w != nil && s.link.mute(w) {
			w.delivered, w.until = delivered, until
			all = append(all, w)
		}
	}
	s.endings.add(v4, all)
	return all
}

// add gives the peer's goroutine more to do, and begins it if there is none.
func (e *endings) add(peer netip.Addr, all []*lastWords) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(all) == 0 || e.closed {
		return
	}
	p := e.by[peer]
	if p == nil {
		p = &ending{added: make(chan struct{}, 1)}
		e.by[peer] = p
		e.wg.Go(func() { e.run(peer, p) })
	}
	p.more = append(p.more, all...)
	nudge(p.added)
}

// close ends the goroutines. What is muted stays so.
func (e *endings) close() {
	e.mu.Lock()
	first := !e.closed
	e.closed = true
	e.mu.Unlock()
	if first {
		close(e.stop)
	}
	e.wg.Wait()
}

// take returns what was added. When there is nothing and last is set the goroutine
// is to end.
func (e *endings) take(peer netip.Addr, p *ending, last bool) []*lastWords {
	e.mu.Lock()
	defer e.mu.Unlock()
	more := p.more
	if p.more = nil; more == nil && last {
		delete(e.by, peer)
	}
	return more
}

// run ends the connections with one peer.
func (e *endings) run(peer netip.Addr, p *ending) {
	var left, over []*lastWords
	pause := time.NewTimer(0)
	defer pause.Stop()
	for quiet := false; ; {
		select {
		case <-pause.C:
		case <-p.added:
			quiet = false
		case <-e.stop:
			return
		}
		more := e.take(peer, p, quiet)
		if quiet && more == nil {
			break
		}
		began := time.Now()
		left = append(left, more...)
		var done []*lastWords
		if left, done = e.look(left, began); len(done) > 0 {
			e.s.orphans.look(began)
			for _, w := range done {
				w.over.Store(true)
				w.quiet = began.Add(goneQuiet)
			}
			over = append(over, done...)
		}
		over = e.release(over, began)
		if quiet = len(left) == 0; quiet {
			pause.Reset(goneQuiet)
		} else { // what it takes to look at thousands is better left to them
			pause.Reset(max(flushEvery, time.Since(began)))
		}
	}
	for _, w := range over {
		e.s.link.muted.end(w)
	}
}

// release ends the silence of those that have kept it for long enough; they stand in the
// order in which they were over. It does not wait for the last one of a peer, which may
// be long in coming: the peer may end again and again.
func (e *endings) release(over []*lastWords, now time.Time) (left []*lastWords) {
	n := 0
	for n < len(over) && !now.Before(over[n].quiet) {
		e.s.link.muted.end(over[n])
		n++
	}
	return slices.Delete(over, 0, n)
}

// look tells each endpoint what is next, and aborts those that have not answered in
// time.
func (e *endings) look(all []*lastWords, now time.Time) (left, done []*lastWords) {
	left = all[:0]
	for _, w := range all {
		switch {
		case !w.look(e.s.link):
			done = append(done, w)
		case now.After(w.until):
			w.abort(e.s.link)
			done = append(done, w)
		default:
			left = append(left, w)
		}
	}
	return left, done
}
