package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// stream is what a peer's connections have in common.
type stream interface {
	io.ReadWriteCloser
}

// datagrams is one end of a datagram flow.
type datagrams interface {
	Send(b []byte) error
	Recv(b []byte) (int, error)
	Close() error
}

// pair is two nodes, a client and a server, that may not have met yet.
type pair struct {
	meet   func(ctx context.Context) error // before the first connection but W6's; may be nil
	dial   func(ctx context.Context) (stream, error)
	accept func() (stream, error)
	flow   func() (client, server datagrams, err error) // nil: none
	stages func() map[string]float64                    // of the first dial, in ms; may be nil
	close  func()
}

type maker func(context.Context) (*pair, error)

// work are the workloads; each fills its metrics.
var work = map[string]func(ctx context.Context, mk maker, m map[string]float64) error{
	"W1": func(ctx context.Context, mk maker, m map[string]float64) error {
		return with(ctx, mk, func(b *bench) error { return b.bulk(ctx, 1, m) })
	},
	"W2": func(ctx context.Context, mk maker, m map[string]float64) error {
		return with(ctx, mk, func(b *bench) error { return b.bulk(ctx, 8, m) })
	},
	"W3": func(ctx context.Context, mk maker, m map[string]float64) error {
		return with(ctx, mk, func(b *bench) error { return b.pingPong(ctx, m) })
	},
	"W4": func(ctx context.Context, mk maker, m map[string]float64) error {
		return with(ctx, mk, func(b *bench) error { return b.connects(ctx, m) })
	},
	"W5": func(ctx context.Context, mk maker, m map[string]float64) error {
		return with(ctx, mk, func(b *bench) error { return b.flatOut(m) })
	},
	"W5r": func(ctx context.Context, mk maker, m map[string]float64) error {
		return with(ctx, mk, func(b *bench) error { return b.paced(m) })
	},
	"W6": cold,
	"W7": func(ctx context.Context, mk maker, m map[string]float64) error {
		return with(ctx, mk, func(b *bench) error { return b.idle(ctx, m) })
	},
	"W9": func(ctx context.Context, mk maker, m map[string]float64) error {
		return with(ctx, mk, func(b *bench) error { return b.still(m) })
	},
	"W8": func(ctx context.Context, mk maker, m map[string]float64) error {
		return with(ctx, mk, func(b *bench) error { return b.loaded(ctx, m) })
	},
}

// profileTo begins a profile of a measurement; the function it returns ends it.
var profileTo = func() (func(), error) { return func() {}, nil }

// bench is a pair with its server running.
type bench struct {
	*pair
	received atomic.Int64
}

// with makes a pair whose nodes have met.
func with(ctx context.Context, mk maker, do func(*bench) error) error {
	p, err := mk(ctx)
	if err != nil {
		return err
	}
	if p.meet != nil {
		if err := p.meet(ctx); err != nil {
			return err
		}
	}
	b := &bench{pair: p}
	go b.serve()
	if err := b.once(ctx); err != nil {
		return fmt.Errorf("first connection: %w", err)
	}
	// The process ends after its one measurement; nodes that take their time
	// to close must not hold it up.
	return do(b)
}

// serve accepts connections until the process ends.
func (b *bench) serve() {
	for {
		c, err := b.accept()
		if err != nil {
			return
		}
		go b.handle(c)
	}
}

// What the client's first byte asks of the server.
const (
	asksSink = 'S' // read and count
	asksEcho = 'E' // 64 bytes at a time
	asksByte = 'B' // one byte back, then wait for the end
)

func (b *bench) handle(c stream) {
	defer c.Close()
	var first [1]byte
	if _, err := io.ReadFull(c, first[:]); err != nil {
		return
	}
	switch first[0] {
	case asksSink:
		buf := make([]byte, 256<<10)
		for {
			n, err := c.Read(buf)
			b.received.Add(int64(n))
			if err != nil {
				return
			}
		}
	case asksEcho:
		var buf [64]byte
		for {
			if _, err := io.ReadFull(c, buf[:]); err != nil {
				return
			}
			if _, err := c.Write(buf[:]); err != nil {
				return
			}
		}
	case asksByte:
		if _, err := c.Write(first[:]); err != nil {
			return
		}
		_, _ = c.Read(first[:])
	}
}

func (b *bench) open(ctx context.Context, asks byte) (stream, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	c, err := b.dial(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := c.Write([]byte{asks}); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// once is one connection with a byte there and back.
func (b *bench) once(ctx context.Context) error {
	c, err := b.open(ctx, asksByte)
	if err != nil {
		return err
	}
	defer c.Close()
	var one [1]byte
	_, err = io.ReadFull(c, one[:])
	return err
}

// pump writes to n connections until stop is closed.
func (b *bench) pump(ctx context.Context, n int, stop <-chan struct{}) (wait func() error, err error) {
	var wg sync.WaitGroup
	failed := make(chan error, n)
	for range n {
		c, err := b.open(ctx, asksSink)
		if err != nil {
			return nil, err
		}
		wg.Go(func() {
			defer c.Close()
			buf := make([]byte, 64<<10)
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := c.Write(buf); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	return func() error {
		wg.Wait()
		select {
		case err := <-failed:
			return err
		default:
			return nil
		}
	}, nil
}

func (b *bench) bulk(ctx context.Context, n int, m map[string]float64) error {
	stop := make(chan struct{})
	wait, err := b.pump(ctx, n, stop)
	if err != nil {
		return err
	}
	time.Sleep(500 * time.Millisecond)
	end, err := profileTo()
	if err != nil {
		return err
	}
	var m0, m1 runtime.MemStats
	runtime.ReadMemStats(&m0)
	r0, c0, t0 := b.received.Load(), cpuTime(), time.Now()
	time.Sleep(*dur)
	gb, cpu, took := float64(b.received.Load()-r0)/1e9, cpuTime()-c0, time.Since(t0)
	runtime.ReadMemStats(&m1)
	end()
	close(stop)
	m["gbps"] = gb * 8 / took.Seconds()
	m["cpu_s_per_gb"] = cpu.Seconds() / gb
	m["alloc_mb_per_gb"] = float64(m1.TotalAlloc-m0.TotalAlloc) / 1e6 / gb
	return wait()
}

// roundTrips measures until d has passed and returns them sorted.
func roundTrips(c stream, d time.Duration) ([]float64, error) {
	var v []float64
	var buf [64]byte
	for end := time.Now().Add(d); ; {
		t := time.Now()
		if t.After(end) {
			break
		}
		if _, err := c.Write(buf[:]); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(c, buf[:]); err != nil {
			return nil, err
		}
		v = append(v, float64(time.Since(t).Nanoseconds())/1e3)
	}
	slices.Sort(v)
	return v, nil
}

func percentile(sorted []float64, p float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[int(float64(len(sorted)-1)*p)]
}

func (b *bench) pingPong(ctx context.Context, m map[string]float64) error {
	c, err := b.open(ctx, asksEcho)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := roundTrips(c, 300*time.Millisecond); err != nil {
		return err
	}
	end, err := profileTo()
	if err != nil {
		return err
	}
	c0 := cpuTime()
	v, err := roundTrips(c, *dur)
	if err != nil {
		return err
	}
	cpu := cpuTime() - c0
	end()
	m["p50_us"], m["p99_us"] = percentile(v, .5), percentile(v, .99)
	m["cpu_us_per_trip"] = cpu.Seconds() * 1e6 / float64(len(v))
	return nil
}

func (b *bench) connects(ctx context.Context, m map[string]float64) error {
	if err := b.once(ctx); err != nil {
		return err
	}
	end, err := profileTo()
	if err != nil {
		return err
	}
	var m0, m1 runtime.MemStats
	runtime.ReadMemStats(&m0)
	n, c0 := 0, cpuTime()
	t0 := time.Now()
	for time.Since(t0) < *dur {
		if err := b.once(ctx); err != nil {
			return fmt.Errorf("after %d connections: %w", n, err)
		}
		n++
	}
	took, cpu := time.Since(t0), cpuTime()-c0
	runtime.ReadMemStats(&m1)
	end()
	per := func(v float64) float64 { return v / float64(n) }
	m["conns_per_s"] = float64(n) / took.Seconds()
	m["cpu_us_per_conn"] = per(cpu.Seconds() * 1e6)
	m["allocs_per_conn"], m["kb_per_conn"] = per(float64(m1.Mallocs-m0.Mallocs)), per(float64(m1.TotalAlloc-m0.TotalAlloc)/1024)
	if *memProfile == "" {
		return nil
	}
	runtime.GC()
	f, err := os.Create(*memProfile)
	if err != nil {
		return err
	}
	return errors.Join(pprof.Lookup("heap").WriteTo(f, 0), f.Close())
}

// datagram is W5's size in bytes.
const datagram = 1200

// send sends datagrams at rate a second, 0 for as fast as Send returns, and
// says how many arrived of how many.
func (b *bench) send(rate float64, d time.Duration) (sent, arrived int64, err error) {
	if b.flow == nil {
		return 0, 0, errNotApplicable
	}
	client, server, err := b.flow()
	if err != nil {
		return 0, 0, err
	}
	var got atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 2048)
		for {
			n, err := server.Recv(buf)
			if err != nil {
				return
			}
			if n == datagram {
				got.Add(1)
			}
		}
	}()
	buf := make([]byte, datagram)
	t0 := time.Now()
	for {
		took := time.Since(t0)
		if took >= d {
			break
		}
		if rate > 0 && float64(sent) > took.Seconds()*rate {
			time.Sleep(100 * time.Microsecond)
			continue
		}
		if err := client.Send(buf); err == nil {
			sent++
		}
	}
	arrived = got.Load()
	if rate > 0 { // what is on its way counts
		for {
			time.Sleep(30 * time.Millisecond)
			n := got.Load()
			if n == arrived {
				break
			}
			arrived = n
		}
	}
	_, _ = client.Close(), server.Close()
	select {
	case <-done:
	case <-time.After(time.Second):
	}
	return sent, arrived, nil
}

func (b *bench) flatOut(m map[string]float64) error {
	end, err := profileTo()
	if err != nil {
		return err
	}
	defer end()
	sent, arrived, err := b.send(0, *dur)
	m["kpps"] = float64(arrived) / dur.Seconds() / 1e3
	m["sent_kpps"] = float64(sent) / dur.Seconds() / 1e3
	return err
}

// paced climbs until twice in a row more than one in a hundred is lost, or
// the sender cannot keep the rate.
func (b *bench) paced(m map[string]float64) error {
	const d = 400 * time.Millisecond
	good := func(rate float64) (bool, error) {
		for range 2 {
			sent, arrived, err := b.send(rate, d)
			if err != nil {
				return false, err
			}
			if float64(sent) >= 0.95*rate*d.Seconds() && float64(arrived) >= 0.99*float64(sent) {
				m["kpps"] = float64(arrived) / d.Seconds() / 1e3
				return true, nil
			}
		}
		return false, nil
	}
	m["kpps"] = 0
	for rate := 5e3; rate < 1e6; rate *= 1.2 {
		ok, err := good(rate)
		if err != nil || !ok {
			return err
		}
	}
	return nil
}

// cold is the first connection between nodes made for it.
func cold(ctx context.Context, mk maker, m map[string]float64) error {
	p, err := mk(ctx)
	if err != nil {
		return err
	}
	b := &bench{pair: p}
	go b.serve()
	t := time.Now()
	if err := b.once(ctx); err != nil {
		return err
	}
	m["ms"] = float64(time.Since(t).Microseconds()) / 1e3
	if p.stages != nil {
		for k, v := range p.stages() {
			m["ms "+k] = v
		}
	}
	return nil
}

// idle opens connections and leaves them alone.
func (b *bench) idle(ctx context.Context, m map[string]float64) error {
	n := *idleConns
	heap := func() float64 {
		runtime.GC()
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return float64(s.HeapAlloc + s.StackInuse)
	}
	h0, g0 := heap(), runtime.NumGoroutine()
	conns := make([]stream, 0, n)
	for range n {
		c, err := b.open(ctx, asksByte)
		if err != nil {
			return fmt.Errorf("connection %d: %w", len(conns), err)
		}
		var one [1]byte
		if _, err := io.ReadFull(c, one[:]); err != nil {
			return err
		}
		conns = append(conns, c)
	}
	time.Sleep(300 * time.Millisecond)
	m["kb_per_conn"] = (heap() - h0) / float64(n) / 1024
	if *memProfile != "" {
		f, err := os.Create(*memProfile)
		if err != nil {
			return err
		}
		if err := errors.Join(pprof.Lookup("heap").WriteTo(f, 0), f.Close()); err != nil {
			return err
		}
	}
	m["goroutines_per_conn"] = float64(runtime.NumGoroutine()-g0)/float64(n) - 1 // the server's handler
	c0 := cpuTime()
	time.Sleep(*dur)
	m["cpu_percent"] = 100 * (cpuTime() - c0).Seconds() / dur.Seconds()
	var err error
	for _, c := range conns {
		err = errors.Join(err, c.Close())
	}
	return err
}

// loaded measures round trips without and with a bulk flow beside them.
func (b *bench) loaded(ctx context.Context, m map[string]float64) error {
	c, err := b.open(ctx, asksEcho)
	if err != nil {
		return err
	}
	defer c.Close()
	before, err := roundTrips(c, *dur/2)
	if err != nil {
		return err
	}
	stop := make(chan struct{})
	wait, err := b.pump(ctx, 1, stop)
	if err != nil {
		return err
	}
	time.Sleep(500 * time.Millisecond)
	beside, err := roundTrips(c, *dur)
	close(stop)
	if err != nil {
		return err
	}
	m["added_p50_us"] = percentile(beside, .5) - percentile(before, .5)
	m["added_p99_us"] = percentile(beside, .99) - percentile(before, .99)
	return wait()
}

// still measures what nodes use that have met and have nothing to do.
func (b *bench) still(m map[string]float64) error {
	const settle, d = 3 * time.Second, 20 * time.Second
	time.Sleep(settle)
	c0 := cpuTime()
	time.Sleep(d)
	m["cpu_percent"] = 100 * (cpuTime() - c0).Seconds() / d.Seconds()
	m["goroutines"] = float64(runtime.NumGoroutine())
	return nil
}
