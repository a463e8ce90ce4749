package shim

import (
	"sync"
	"time"

	"github.com/idloc/idloc/internal/pipe"
)

// Small packets that follow each other within a few microseconds cost one
// system call each when they are flushed where they are made. So such a
// stream is collected: the sender seals into the mapping's open batch and
// goes on, and the shim's goroutine flushes whatever has gathered while the
// flush before was in the kernel. A batch that is full is flushed by the
// sender, which bounds what can gather to one batch.

const (
	coalesceGap   = 25 * time.Microsecond // packets closer than this are coalesced
	coalesceAfter = 8                     // so many in a row
	coalesceMax   = 2048                  // plaintext bytes of a packet that counts as small
	maxDirty      = 1024                  // mappings that wait for the goroutine
)

// start is what the gaps are measured from: time.Since of it reads the
// monotonic clock only.
var start = time.Now()

// coalescer is the open batch of a mapping and how quickly packets come.
type coalescer struct {
	flushing sync.Mutex // held around Flush, so that batches keep their order

	mu     sync.Mutex // guards what follows; taken after flushing
	last   time.Duration
	run    int         // packets in a row with small gaps
	cur    *pipe.Batch // being filled; nil if none
	p      *pipe.Pipe  // cur is p's
	v6     bool        // cur's family
	class  uint8       // and traffic class
	queued bool        // the goroutine knows, or is at it
}

// crowded notes that a small packet is to be sent now and says whether it
// should be collected.
func (d *coalescer) crowded() bool {
	now := time.Since(start)
	d.mu.Lock()
	defer d.mu.Unlock()
	gap := now - d.last
	d.last = now
	if gap >= coalesceGap {
		d.run = 0
	} else if d.run < coalesceAfter {
		d.run++
	}
	// While a batch is open or being flushed, order demands the same way.
	return d.run >= coalesceAfter || d.queued
}

// coalesce adds a packet to the open batch.
func (s *Shim) coalesce(m *mapping, p *pipe.Pipe, pk *Packet, in parsed, n int) {
	d := &m.coalescer
	for {
		d.mu.Lock()
		fresh := d.cur == nil
		if fresh {
			d.cur, d.p, d.v6, d.class = p.Batch(pk.V6), p, pk.V6, in.class
			d.cur.SetClass(in.class)
		}
		var r []byte
		if d.p == p && d.v6 == pk.V6 && d.class == in.class {
			r = d.cur.Room(n)
		}
		if r != nil {
			in.write(r, pk)
			d.cur.Seal()
			wake := !d.queued
			d.queued = true
			d.mu.Unlock()
			if wake {
				s.wake(m)
			}
			return
		}
		d.mu.Unlock()
		if fresh { // an empty batch has no room either
			s.count.drop(DropOutTooBig)
			return
		}
		s.flushCoalesced(m)
	}
}

// flushCoalesced sends what the open batch holds.
func (s *Shim) flushCoalesced(m *mapping) {
	d := &m.coalescer
	d.mu.Lock()
	idle := d.cur == nil && !d.queued
	d.mu.Unlock()
	if idle {
		return
	}
	d.flushing.Lock()
	defer d.flushing.Unlock()
	b := d.take()
	if b == nil {
		return
	}
	s.flush(b)
	b.Free()
}

// take returns the open batch, if any, which then is the caller's.
func (d *coalescer) take() *pipe.Batch {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := d.cur
	d.cur, d.p = nil, nil
	return b
}

// discard forgets the open batch: its pipe is down.
func (d *coalescer) discard() {
	if b := d.take(); b != nil {
		b.Free()
	}
}

// settled says whether the goroutine may leave the mapping alone.
func (d *coalescer) settled() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cur != nil {
		return false
	}
	d.queued = false
	return true
}

// flushLoop is the shim's flushing goroutine; Close waits for it. A mapping
// that keeps gathering goes to the end of the queue after each flush.
func (s *Shim) flushLoop() {
	for {
		select {
		case <-s.ctx.Done():
			return
		case m := <-s.dirty:
			s.flushCoalesced(m)
			if m.coalescer.settled() {
				continue
			}
			s.wake(m)
		}
	}
}

// wake hands a mapping with an open batch to the goroutine. If too many wait
// for it already the caller does the work.
func (s *Shim) wake(m *mapping) {
	select {
	case s.dirty <- m:
	default:
		for !m.coalescer.settled() {
			s.flushCoalesced(m)
		}
	}
}
