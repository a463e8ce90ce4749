package pipe

import (
	"sync"

	"github.com/idloc/idloc/internal/peerid"
)

// processes are those of the peers: by its start number a peer that comes back anew
// is known as such, whether its pipe of before is still there or not. What is open
// with a process is over with it, and nothing that the next one sends may be taken
// for that: so until the Handler has been told (Gone has returned), who hears first
// from a peer under the keys of a handshake waits in begins. All that has come up
// before is of the process that has ended, and all that comes after of the next.
//
// It has a lock of its own, taken last.
type processes struct {
	mu   sync.Mutex // guards what follows
	by   map[peerid.ID]*process
	told sync.Cond // some Gone has returned
}

// process is what is known of a peer's.
type process struct {
	start  uint64
	known  bool // start is
	ending int  // calls of Gone that are due or under way
}

// maxStarts bounds them; beyond, any one is forgotten for a new one.
const maxStarts = 8192

func (s *processes) init() {
	s.by = make(map[peerid.ID]*process)
	s.told.L = &s.mu
}

func (s *processes) ofLocked(peer peerid.ID) *process {
	if r := s.by[peer]; r != nil {
		return r
	}
	if len(s.by) >= maxStarts {
		for k, r := range s.by {
			if r.ending == 0 {
				delete(s.by, k)
				break
			}
		}
	}
	r := new(process)
	s.by[peer] = r
	return r
}

// ends is called before the end of a process can be seen; gone must follow.
func (s *processes) ends(peer peerid.ID) {
	s.mu.Lock()
	s.ofLocked(peer).ending++
	s.mu.Unlock()
}

// gone is told that the Handler has been told.
func (s *processes) gone(peer peerid.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.by[peer]
	if r.ending--; r.ending > 0 {
		return
	}
	if !r.known {
		delete(s.by, peer)
	}
	s.told.Broadcast()
}

// wait returns when no end of the peer's is untold.
func (s *processes) wait(peer peerid.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for r := s.by[peer]; r != nil && r.ending > 0; r = s.by[peer] {
		s.told.Wait()
	}
}

// begins notes start, unless an end is untold: then wait is false. If the peer had
// another start number before, that process ends, and gone must follow.
func (s *processes) begins(peer peerid.ID, start uint64) (anew, wait bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.ofLocked(peer)
	if r.ending > 0 {
		return false, true
	}
	if anew = r.known && r.start != start; anew {
		r.ending++
	}
	r.known, r.start = true, start
	return anew, false
}

// rises is begins by hearsay, which may be late: only a higher number is news.
func (s *processes) rises(peer peerid.ID, start uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.by[peer]
	if r == nil || !r.known || start <= r.start {
		return false // without a pipe of before there is nothing that could be over
	}
	r.start = start
	r.ending++
	return true
}

// gone has the Handler told that all is over that was open over the pipe. The caller
// holds mu, and is about to close p.
func (p *Pipe) gone(err error) {
	p.e.processes.ends(p.peer)
	p.outbox.calls = append(p.outbox.calls, call{gone: true, err: err})
}

// begins is called when a packet has opened under kp, before anything of it counts.
// If it is the first one of another process of the peer than before it tells so.
func (e *Endpoint) begins(p *Pipe, kp *keypair) {
	if kp.confirmed.Load() || kp.number > 0 {
		return
	}
	for {
		p.mu.Lock()
		if p.state == stateClosed || kp.dead() || kp.confirmed.Load() {
			p.mu.Unlock()
			return
		}
		anew, wait := e.processes.begins(p.peer, kp.sess.remote.Start)
		p.mu.Unlock()
		if anew {
			e.cfg.Handler.Gone(p.peer, ErrPeerEnded)
			e.processes.gone(p.peer)
		}
		if !wait {
			return
		}
		e.processes.wait(p.peer)
	}
}

// Start is this process's start number, as offers and answers have it.
func (e *Endpoint) Start() uint64 { return e.start }

// PeerStarted tells what start number the peer has said itself, elsewhere than in
// a handshake: if it is newer than that of its pipe, the peer's process of before
// has ended without a word, and so has the pipe.
func (e *Endpoint) PeerStarted(peer peerid.ID, start uint64) {
	if !e.processes.rises(peer, start) {
		return
	}
	defer e.processes.gone(peer)
	if p := e.Pipe(peer); p != nil {
		p.mu.Lock()
		if p.state != stateClosed && (p.keys.sess == nil || p.keys.sess.remote.Start < start) {
			p.gone(ErrPeerEnded)
			p.setState(stateClosed, ErrPeerEnded)
			p.unlock()
			return
		}
		p.unlock()
	}
	e.cfg.Handler.Gone(peer, ErrPeerEnded)
}
