package difftest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"sync"
	"time"
)

// Side is one of the two processes of a World.
type Side struct {
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	Listen func(network, address string) (net.Listener, error)
	Far    func(v6 bool) string // its address, as the other side dials it

	// Exit ends the process; nil: everything that the program has opened is
	// closed, which is what a kernel does then.
	Exit func() error

	// Crash ends the process without a word; it returns when the other side knows,
	// and its error is what can never be right. Nil: there is a kernel that outlives
	// the process, for which it is an exit.
	Crash func() error
}

// World is where a Program runs: the kernel, or two nodes.
type World struct {
	Name  string
	Sides [2]Side
	V4    bool          // it has no IPv6
	Limit time.Duration // after which a call hangs
}

// Kernel is the loopback interface. On Linux, where that has 2^24 addresses, it is
// one that hardly anybody else has: the port of a listener that was closed is free
// for all programs of the machine.
func Kernel() *World {
	var d net.Dialer
	at := "127.0.0.1"
	if runtime.GOOS == "linux" {
		at = fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	}
	listen := func(network, address string) (net.Listener, error) { return net.Listen(network, at+address) }
	s := Side{Dial: d.DialContext, Listen: listen, Far: func(bool) string { return at }}
	return &World{Name: "kernel", Sides: [2]Side{s, s}, V4: true, Limit: time.Minute}
}

// tcp are the methods of *net.TCPConn that programs call.
type tcp interface {
	net.Conn
	io.ReaderFrom
	CloseRead() error
	CloseWrite() error
	SetLinger(int) error
	SetReadBuffer(int) error
	SetWriteBuffer(int) error
}

type deadliner interface {
	net.Listener
	SetDeadline(time.Time) error
}

// past is a deadline that has passed.
var past = time.Unix(1, 0)

// run is a Program while it runs in a World.
type run struct {
	w       *World
	p       *Program
	network string

	lis     map[int]deadliner
	ports   map[int]string
	conns   map[int]*pair
	early   map[int][]tcp // by listener: accepted, of a connection that is not asked for yet
	exits   sync.WaitGroup
	mu      sync.Mutex // guards wrong
	wrong   string
	pending map[wait2]chan Outcome
}

// wait2 names a call that was begun.
type wait2 struct {
	read       bool
	side, conn int
}

// pair is a connection: both ends, and what each has written and read so far.
type pair struct {
	ends          [2]tcp
	linger        [2]int
	mu            sync.Mutex // guards what follows
	written, read [2]int     // by each side
}

// Run runs a program. What it opened is closed when it returns, unless a step hangs.
func (p *Program) Run(w *World) *Transcript {
	r := &run{w: w, p: p, network: "tcp4",
		early: make(map[int][]tcp), lis: make(map[int]deadliner), ports: make(map[int]string), conns: make(map[int]*pair), pending: make(map[wait2]chan Outcome)}
	if p.V6 && !w.V4 {
		r.network = "tcp6"
	}
	hangs := false
	defer func() {
		if !hangs { // else what is open is the step's that goes on
			r.end()
		}
	}()
	t := &Transcript{crashes: w.Sides[0].Crash != nil || w.Sides[1].Crash != nil}
	for i := range p.Steps {
		s := &p.Steps[i]
		done := make(chan Outcome, 1)
		go func() { done <- r.step(s) }()
		out := []Outcome{r.await(done)}
		for _, x := range s.waits {
			out = append(out, r.await(r.pending[wait2{x.read, x.side, x.conn}]))
		}
		t.steps = append(t.steps, out)
		for _, o := range out {
			if hangs = o.Class == Hang; hangs {
				return t
			}
		}
		r.mu.Lock()
		t.wrong = r.wrong
		r.mu.Unlock()
		if t.wrong != "" {
			return t
		}
	}
	return t
}

func (r *run) await(done <-chan Outcome) Outcome {
	timer := time.NewTimer(r.w.Limit)
	defer timer.Stop()
	select {
	case o := <-done:
		return o
	case <-timer.C:
		return Outcome{Class: Hang}
	}
}

// end closes everything, quickly.
func (r *run) end() {
	for lis := range r.early {
		r.refuse(lis)
	}
	for _, c := range r.conns {
		for _, e := range c.ends {
			if e != nil {
				_ = e.SetLinger(0)
				e.Close()
			}
		}
	}
	for _, l := range r.lis {
		l.Close()
	}
	r.exits.Wait()
}

// step does one step.
func (r *run) step(s *Step) Outcome {
	side := &r.w.Sides[s.Side]
	switch s.Op {
	case Listen:
		l, err := side.Listen(r.network, ":0")
		if err == nil {
			r.lis[s.Lis] = l.(deadliner)
			_, r.ports[s.Lis], _ = net.SplitHostPort(l.Addr().String())
		}
		return Outcome{0, classOf(err)}
	case CloseListener:
		err := r.lis[s.Lis].Close()
		r.refuse(s.Lis)
		return Outcome{0, classOf(err)}
	case AcceptPast:
		l := r.lis[s.Lis]
		l.SetDeadline(past)
		_, err := l.Accept()
		l.SetDeadline(time.Time{})
		return Outcome{0, classOf(err)}
	case AcceptClosed:
		l := r.lis[s.Lis]
		done := make(chan error, 1)
		go func() { _, err := l.Accept(); done <- err }()
		l.Close()
		return Outcome{0, classOf(<-done)}
	case Dial:
		return r.dial(s)
	case Accept:
		return r.accept(s)
	case Exit:
		return r.exit(s.Side, side.Exit)
	case Crash:
		if side.Crash == nil {
			return r.exit(s.Side, nil)
		}
		if err := side.Crash(); err != nil {
			r.note(err.Error())
		}
		return r.exit(s.Side, func() error { return nil })
	}
	c := r.conns[s.Conn]
	return r.call(s, c, c.ends[s.Side])
}

func (r *run) dial(s *Step) Outcome {
	ctx, cancel := context.WithTimeout(context.Background(), r.w.Limit)
	defer cancel()
	far := r.w.Sides[1-s.Side].Far(r.p.V6)
	c, err := r.w.Sides[s.Side].Dial(ctx, r.network, net.JoinHostPort(far, r.ports[s.Lis]))
	if err != nil {
		return Outcome{0, classOf(err)}
	}
	pr := &pair{linger: [2]int{-1, -1}}
	pr.ends[s.Side] = c.(tcp)
	r.conns[s.Conn] = pr
	return Outcome{0, OK}
}

// accept accepts the connection of the step: connections may come in another
// order than they were dialled in.
func (r *run) accept(s *Step) Outcome {
	pr := r.conns[s.Conn]
	_, want, _ := net.SplitHostPort(pr.ends[1-s.Side].LocalAddr().String())
	for i := 0; ; i++ {
		if i == len(r.early[s.Lis]) {
			c, err := r.lis[s.Lis].Accept()
			if err != nil {
				return Outcome{0, classOf(err)}
			}
			r.early[s.Lis] = append(r.early[s.Lis], c.(tcp))
		}
		if _, port, _ := net.SplitHostPort(r.early[s.Lis][i].RemoteAddr().String()); port == want {
			pr.ends[s.Side] = r.early[s.Lis][i]
			r.early[s.Lis] = slices.Delete(r.early[s.Lis], i, i+1)
			return Outcome{0, OK}
		}
	}
}

// exit ends a side's process. It returns when the side has let go of all, which
// is before its peer has all.
func (r *run) exit(side int, exit func() error) Outcome {
	if exit != nil {
		r.exits.Go(func() { _ = exit() })
	}
	for i, l := range r.lis {
		if r.listens(i) != side {
			continue
		}
		for exit != nil && l.SetDeadline(time.Time{}) == nil {
			time.Sleep(time.Millisecond) // nothing tells
		}
		l.Close()
		r.refuse(i)
	}
	for _, c := range r.conns {
		e := c.ends[side]
		if e == nil {
			continue
		}
		if exit == nil {
			if c.linger[side] > 0 {
				_ = e.SetLinger(-1) // a process that ends waits for nothing
			}
			e.Close()
		}
		for e.SetDeadline(time.Time{}) == nil {
			time.Sleep(time.Millisecond)
		}
	}
	return Outcome{0, OK}
}

// refuse does to the connections that were accepted early what the end of their
// listener does to those that wait.
func (r *run) refuse(lis int) {
	for _, c := range r.early[lis] {
		_ = c.SetLinger(0)
		c.Close()
	}
	delete(r.early, lis)
}

func (r *run) listens(lis int) int {
	for i := range r.p.Steps {
		if s := &r.p.Steps[i]; s.Op == Listen && s.Lis == lis {
			return s.Side
		}
	}
	return -1
}

// call is a call on one end of a connection.
func (r *run) call(s *Step, c *pair, e tcp) Outcome {
	switch s.Op {
	case Tight:
		var err error
		for _, e := range c.ends {
			for _, set := range []func(int) error{e.SetReadBuffer, e.SetWriteBuffer} {
				if err2 := set(smallBuffer); err2 != nil {
					err = err2
				}
			}
		}
		return Outcome{0, classOf(err)}
	case WritePast:
		e.SetWriteDeadline(past)
		n, err := e.Write([]byte{1})
		e.SetWriteDeadline(time.Time{})
		return Outcome{n, classOf(err)}
	case ReadPast:
		e.SetReadDeadline(past)
		n, err := e.Read(make([]byte, 1))
		e.SetReadDeadline(time.Time{})
		return Outcome{n, classOf(err)}
	case ReadSoon:
		e.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		n, err := e.Read(make([]byte, 1))
		e.SetReadDeadline(time.Time{})
		return Outcome{n, classOf(err)}
	case CloseWrite:
		return Outcome{0, classOf(e.CloseWrite())}
	case CloseRead:
		return Outcome{0, classOf(e.CloseRead())}
	case Linger:
		c.linger[s.Side] = s.N
		return Outcome{0, classOf(e.SetLinger(s.N))}
	case Close:
		return Outcome{0, classOf(e.Close())}
	case CutRead:
		return r.cut(s, true, e.SetReadDeadline)
	case CutWrite:
		return r.cut(s, false, e.SetWriteDeadline)
	case BeginRead, BeginWrite:
		done := make(chan Outcome, 1)
		r.pending[wait2{s.Op == BeginRead, s.Side, s.Conn}] = done
		go func() {
			if s.Op == BeginRead {
				done <- r.read(s, c, e, s.N)
			} else {
				done <- r.write(s, c, e)
			}
		}()
		return Outcome{0, OK}
	case Write, ReadFrom:
		return r.write(s, c, e)
	case WriteFail:
		return r.writeFail(e)
	case ReadEnd:
		return r.read(s, c, e, -1)
	case ReadAgain:
		b := make([]byte, 10)
		n, err := e.Read(b)
		return r.took(s, c, b[:n], err)
	case Read:
		return r.read(s, c, e, s.N)
	}
	return Outcome{0, "no such step"}
}

// cut has a call that waits meet its deadline, which is lifted then.
func (r *run) cut(s *Step, read bool, set func(time.Time) error) Outcome {
	k := wait2{read, s.Side, s.Conn}
	done := r.pending[k]
	set(past)
	o := r.await(done)
	set(time.Time{})
	r.pending[k] = make(chan Outcome, 1)
	r.pending[k] <- o
	return Outcome{0, OK}
}

// written is byte number i of what one side of a connection writes.
func written(conn, side, i int) byte {
	return byte(uint32(i)*2654435761>>13) ^ byte(i) ^ byte(conn<<6) ^ byte(side<<5)
}

func (r *run) write(s *Step, c *pair, e tcp) Outcome {
	c.mu.Lock()
	at := c.written[s.Side]
	c.written[s.Side] += s.N // a reader may have it before Write returns
	c.mu.Unlock()
	b := make([]byte, s.N)
	for i := range b {
		b[i] = written(s.Conn, s.Side, at+i)
	}
	var n int
	var err error
	if s.Op == ReadFrom {
		var m int64
		m, err = e.ReadFrom(struct{ io.Reader }{bytes.NewReader(b)})
		n = int(m)
	} else {
		n, err = e.Write(b)
	}
	c.mu.Lock()
	c.written[s.Side] -= s.N - n
	c.mu.Unlock()
	return Outcome{n, classOf(err)}
}

// writeFail writes to a connection whose peer does not read any more.
func (r *run) writeFail(e tcp) Outcome {
	began := time.Now()
	for n := 0; ; n++ {
		if _, err := e.Write([]byte{0}); err != nil {
			return Outcome{n, classOf(err)}
		}
		if time.Since(began) > r.w.Limit {
			return Outcome{n, Hang}
		}
		time.Sleep(min(time.Duration(n)*100*time.Microsecond, 20*time.Millisecond)) // for the reset to come
	}
}

// read reads n bytes, or with n below 0 to the end, and looks at each.
func (r *run) read(s *Step, c *pair, e tcp, n int) Outcome {
	var b []byte
	var err error
	if n < 0 {
		b, err = io.ReadAll(e)
		if err == nil {
			err = io.EOF
		}
	} else {
		b = make([]byte, n)
		n, err = io.ReadFull(e, b)
		b = b[:n]
	}
	return r.took(s, c, b, err)
}

// took is the outcome of a read of b.
func (r *run) took(s *Step, c *pair, b []byte, err error) Outcome {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.read[s.Side]
	c.read[s.Side] += len(b)
	if c.read[s.Side] > c.written[1-s.Side] {
		r.note(fmt.Sprintf("%v: read %d bytes of %d that were written", s, c.read[s.Side], c.written[1-s.Side]))
	}
	for i := range b {
		if b[i] != written(s.Conn, 1-s.Side, at+i) {
			r.note(fmt.Sprintf("%v: byte %d is not the one that was written", s, at+i))
			break
		}
	}
	return Outcome{len(b), classOf(err)}
}

func (r *run) note(wrong string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.wrong == "" {
		r.wrong = r.w.Name + ": " + wrong
	}
}

var (
	_ tcp       = (*net.TCPConn)(nil)
	_ deadliner = (*net.TCPListener)(nil)
)
