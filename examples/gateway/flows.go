package main

import (
	"context"
	"errors"
	"log"
	"net"
	"os"
	"sync"
	"time"
)

const (
	flowIdle  = 2 * time.Minute // without a datagram: RFC 4787, REQ-5
	flowsMax  = 1024            // of one socket; the least recently used gives way
	flowEarly = 32              // datagrams that wait while a flow is being opened
)

// flows are the conversations behind one socket for datagrams: each source,
// or each source and destination, has a conn of its own, by which the answers
// find back. Concurrent use is fine.
type flows struct {
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	open   map[string]*flow
	closed bool
}

// flow is one conversation. flows.mu guards it.
type flow struct {
	conn  net.Conn // nil while it is being opened
	early [][]byte // for then
	used  time.Time
	ended bool
}

func newFlows(ctx context.Context) *flows {
	f := &flows{open: map[string]*flow{}}
	f.ctx, f.cancel = context.WithCancel(ctx)
	return f
}

// send passes a datagram on in the flow of key, which dial opens if it is
// new; reply takes what comes back until it fails. b is borrowed.
func (f *flows) send(key string, b []byte, dial func(context.Context) (net.Conn, error), reply func([]byte) error) {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return
	}
	fl := f.open[key]
	if fl == nil {
		if len(f.open) >= flowsMax {
			f.evict()
		}
		fl = &flow{}
		f.open[key] = fl
		f.wg.Go(func() { f.run(key, fl, dial, reply) })
	}
	fl.used = time.Now()
	conn := fl.conn
	if conn == nil && len(fl.early) < flowEarly {
		fl.early = append(fl.early, append([]byte(nil), b...))
	}
	f.mu.Unlock()
	if conn != nil {
		conn.Write(b) // lost, if it fails: these are datagrams
	}
}

// evict ends the flow that was idle for longest. The caller holds mu.
func (f *flows) evict() {
	var oldest string
	for key, fl := range f.open {
		if o := f.open[oldest]; o == nil || fl.used.Before(o.used) {
			oldest = key
		}
	}
	f.drop(oldest)
}

// drop ends a flow. The caller holds mu.
func (f *flows) drop(key string) {
	fl := f.open[key]
	delete(f.open, key)
	fl.ended, fl.early = true, nil
	if fl.conn != nil {
		fl.conn.Close()
	}
}

// close ends all flows and waits for them.
func (f *flows) close() {
	f.mu.Lock()
	f.closed = true
	f.cancel()
	for key := range f.open {
		f.drop(key)
	}
	f.mu.Unlock()
	f.wg.Wait()
}

// run is the life of a flow.
func (f *flows) run(key string, fl *flow, dial func(context.Context) (net.Conn, error), reply func([]byte) error) {
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if !fl.ended {
			f.drop(key)
		}
	}()
	conn, err := dial(f.ctx)
	if err != nil {
		log.Printf("%s: %v", key, err)
		return
	}
	if !f.opened(fl, conn) {
		conn.Close()
		return
	}
	b := make([]byte, 65535)
	for failures := 0; failures < 16; {
		f.mu.Lock()
		until := fl.used.Add(flowIdle)
		f.mu.Unlock()
		conn.SetReadDeadline(until)
		n, err := conn.Read(b)
		switch {
		case err == nil:
			failures = 0
			f.mu.Lock()
			fl.used = time.Now()
			f.mu.Unlock()
			if reply(b[:n]) != nil {
				return
			}
		case errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, os.ErrDeadlineExceeded):
			if f.idle(fl) {
				return
			}
		default:
			failures++ // an ICMP error for an earlier datagram; the next may arrive
		}
	}
}

// opened gives the flow its conn and sends what waits for it.
func (f *flows) opened(fl *flow, conn net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl.ended {
		return false
	}
	for _, b := range fl.early {
		conn.Write(b)
	}
	fl.conn, fl.early = conn, nil
	return true
}

// idle says whether nothing was sent or received for flowIdle.
func (f *flows) idle(fl *flow) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Since(fl.used) >= flowIdle
}
