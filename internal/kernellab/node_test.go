//go:build linux

package kernellab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/idloc/idloc/idloc"
	"github.com/idloc/idloc/internal/wallclock"
)

// request is one line on a process' standard input, answer one on its standard
// output: one for each request, with its number, in any order.
type request struct {
	ID int    `json:"id"`
	As string `json:"as"` // label of the node that is asked
	// Op is create, join, open, close, invite, call, path, self, ported, null,
	// bulk, stream, clock or warnings.
	Op     string        `json:"op"`
	Name   string        `json:"name,omitempty"` // of the node itself, or of a peer
	Token  string        `json:"token,omitempty"`
	Text   string        `json:"text,omitempty"`   // of null: the network
	Null   bool          `json:"null,omitempty"`   // of create, join and open: allow null encapsulation
	Dir    string        `json:"dir,omitempty"`    // of the same
	Port   uint16        `json:"port,omitempty"`   // of the same
	Carry  string        `json:"carry,omitempty"`  // of the same: Config.Carrier
	Reach  []string      `json:"reach,omitempty"`  // of the same: Config.Reached
	NoLAN  bool          `json:"no_lan,omitempty"` // of the same: Config.NoLAN
	Web    string        `json:"web,omitempty"`    // of the same: serve the CarrierHandler at /idloc, and a page, by HTTP at this address
	Bytes  int           `json:"bytes,omitempty"`  // of bulk: how many there and back
	Clock  time.Duration `json:"clock,omitempty"`  // of clock: how far the process' one is ahead from now on
	Within time.Duration `json:"within,omitempty"` // the time for it, if not the usual one
}

type answer struct {
	ID   int           `json:"id"`
	Text string        `json:"text,omitempty"`
	Took time.Duration `json:"took"`
	// Silence is the longest time in which nothing came back of a stream.
	Silence time.Duration    `json:"silence,omitempty"`
	Path    idloc.PathStatus `json:"path"` // in use to the peer when a call was over
	Self    idloc.SelfStatus `json:"self"`
	Error   string           `json:"error,omitempty"`
}

const (
	domain     = "example.com"
	echoPort   = "7"
	callWithin = time.Minute
	joinWithin = 2 * time.Minute
)

// The environment variable that tells a process where to put debug logs.
const logVariable = "IDLOC_KERNELLAB_LOGS"

// host is the process' nodes.
type host struct {
	mu    sync.Mutex // guards what follows
	nodes map[string]*idloc.Node
	warns map[string]*warnings
}

// runNode is the process: it serves requests until its input ends.
func runNode() int {
	h := &host{nodes: map[string]*idloc.Node{}, warns: map[string]*warnings{}}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	answers := make(chan answer)
	go func() {
		for a := range answers {
			_ = out.Encode(a)
		}
	}()
	for {
		var q request
		if in.Decode(&q) != nil {
			break
		}
		go func() {
			start := time.Now()
			a, err := h.serve(q)
			if a.ID, a.Took = q.ID, time.Since(start); err != nil {
				a.Error = err.Error()
			}
			answers <- a
		}()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var wg sync.WaitGroup
	errs := make(chan error, len(h.nodes))
	for _, n := range h.nodes {
		wg.Go(func() { errs <- n.Close() })
	}
	wg.Wait()
	close(errs)
	code := 0
	for err := range errs {
		if err != nil {
			fmt.Fprintln(os.Stderr, "close:", err)
			code = 1
		}
	}
	return code
}

// begin makes a node and has it echo.
func (h *host) begin(q request) (a answer, err error) {
	w := &warnings{}
	h.mu.Lock()
	h.warns[q.As] = w
	h.mu.Unlock()
	cfg := idloc.Config{Name: q.Name, Dir: q.Dir, Port: q.Port, Carrier: q.Carry, Reached: q.Reach, NoLAN: q.NoLAN, Logger: w.logger(q.As)}
	if q.Null {
		cfg.Null = idloc.NullPlain
	}
	ctx, cancel := context.WithTimeout(context.Background(), q.within(joinWithin))
	defer cancel()
	var n *idloc.Node
	switch q.Op {
	case "create":
		n, err = idloc.Create(ctx, domain, cfg)
	case "join":
		n, err = idloc.Join(ctx, q.Token, cfg)
	case "open":
		n, err = idloc.Open(ctx, cfg)
	}
	if err != nil {
		return a, err
	}
	h.mu.Lock()
	h.nodes[q.As] = n
	h.mu.Unlock()
	a.Self = n.Status().Self
	if q.Web != "" {
		err = serveWeb(n, q.Web)
	}
	return a, errors.Join(err, echo(n))
}

// serveWeb serves a page, and carriers beside it, until the process ends.
func serveWeb(n *idloc.Node, at string) error {
	l, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/idloc", n.CarrierHandler())
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "a page\n") })
	go func() { _ = http.Serve(l, mux) }()
	return nil
}

func (q request) within(usual time.Duration) time.Duration {
	if q.Within > 0 {
		return q.Within
	}
	return usual
}

// echo serves on the echo port until the node closes.
func echo(n *idloc.Node) error {
	l, err := n.Listen("tcp", ":"+echoPort)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	pc, err := n.ListenPacket("udp", ":"+echoPort)
	if err != nil {
		return err
	}
	go func() {
		b := make([]byte, 2048)
		for {
			k, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(b[:k], from)
		}
	}()
	return nil
}

func (h *host) serve(q request) (a answer, err error) {
	switch q.Op {
	case "create", "join", "open":
		return h.begin(q)
	case "clock":
		wallclock.Shift(q.Clock)
		return a, nil
	}
	h.mu.Lock()
	n, w := h.nodes[q.As], h.warns[q.As]
	h.mu.Unlock()
	if q.Op == "warnings" {
		if w != nil {
			a.Text = w.text()
		}
		return a, nil
	}
	if n == nil {
		return a, fmt.Errorf("%s before the node has begun", q.Op)
	}
	switch q.Op {
	case "close":
		h.mu.Lock()
		delete(h.nodes, q.As)
		h.mu.Unlock()
		err = n.Close()
	case "invite":
		a.Text, err = n.Invite(idloc.InviteOptions{Name: q.Name})
	case "call":
		err = exchange(n, q, "tcp", idloc.OuterUDP)
		a.Path = pathTo(n, q.Name)
	case "bulk":
		err = bulk(n, q)
		a.Path = pathTo(n, q.Name)
	case "stream":
		a.Text, a.Silence, err = stream(n, q)
	case "null":
		err = exchange(n, q, q.Text, idloc.Null)
	case "path":
		a.Path = pathTo(n, q.Name)
	case "mtu":
		a.Text = strconv.Itoa(mtuTo(n, q.Name))
	case "ported":
		if p := n.Status().Self.Ported; p.Addr.IsValid() {
			a.Text = fmt.Sprint(p.Protocol, " ", p.Addr)
		}
	case "self":
		a.Self = n.Status().Self
	default:
		err = fmt.Errorf("unknown op %q", q.Op)
	}
	return a, err
}

// mtuTo is the largest UDP payload that is sent to a peer, 0 if there is no pipe.
func mtuTo(n *idloc.Node, name string) int {
	for _, p := range n.Status().Peers {
		if p.Name == name {
			return p.MTU
		}
	}
	return 0
}

// pathTo is the path in use to a peer, the zero one if there is none.
func pathTo(n *idloc.Node, name string) idloc.PathStatus {
	for _, p := range n.Status().Peers {
		for _, path := range p.Paths {
			if p.Name == name && path.Active {
				return path
			}
		}
	}
	return idloc.PathStatus{}
}

// exchange dials a peer's echo and wants a message back.
func exchange(n *idloc.Node, q request, network string, enc idloc.Encapsulation) error {
	end := time.Now().Add(q.within(callWithin))
	ctx, cancel := context.WithDeadline(context.Background(), end)
	defer cancel()
	d := idloc.Dialer{Nodes: []*idloc.Node{n}, Encapsulation: enc}
	c, err := d.Dial(ctx, network, net.JoinHostPort(q.Name, echoPort))
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(end)
	msg := []byte("from " + n.Name() + " to " + q.Name)
	if _, err := c.Write(msg); err != nil {
		return err
	}
	got := make([]byte, len(msg))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !bytes.Equal(got, msg) {
		return fmt.Errorf("echo of %q is %q", msg, got)
	}
	return nil
}

// bulk sends bytes to a peer's echo while it reads them back.
func bulk(n *idloc.Node, q request) error {
	end := time.Now().Add(q.within(callWithin))
	ctx, cancel := context.WithDeadline(context.Background(), end)
	defer cancel()
	c, err := n.Dial(ctx, "tcp", net.JoinHostPort(q.Name, echoPort))
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(end)
	sent := make([]byte, q.Bytes)
	for i := range sent {
		sent[i] = byte(i * i >> 7)
	}
	wrote := make(chan error, 1)
	go func() { _, err := c.Write(sent); wrote <- err }()
	got := make([]byte, q.Bytes)
	k, err := io.ReadFull(c, got)
	if err != nil {
		_ = c.Close()
		return errors.Join(fmt.Errorf("after %d of %d bytes: %w", k, q.Bytes, err), <-wrote)
	}
	if !bytes.Equal(got, sent) {
		return fmt.Errorf("%d bytes came back as others", q.Bytes)
	}
	return <-wrote
}

// stream sends to a peer's echo for a while, 2 MB/s, and checks what comes back.
func stream(n *idloc.Node, q request) (text string, silence time.Duration, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	c, err := n.Dial(ctx, "tcp", net.JoinHostPort(q.Name, echoPort))
	if err != nil {
		return "", 0, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(q.Within + callWithin)); err != nil {
		return "", 0, err
	}
	block := func(i int, b []byte) []byte {
		for j := range b {
			b[j] = byte(i + 7*j)
		}
		return b
	}
	wrote := make(chan error, 1)
	go func() {
		b := make([]byte, 4096)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for i, end := 0, time.Now().Add(q.Within); time.Now().Before(end); i++ {
			if _, err := c.Write(block(i, b)); err != nil {
				wrote <- err
				return
			}
			<-tick.C
		}
		wrote <- c.(idloc.TCPConn).CloseWrite()
	}()
	got, want := make([]byte, 4096), make([]byte, 4096)
	last := time.Now()
	for i := 0; ; i++ {
		for k := 0; k < len(got); {
			m, err := c.Read(got[k:])
			silence = max(silence, time.Since(last))
			last = time.Now()
			if k += m; err == io.EOF && k == 0 {
				return fmt.Sprintf("%d bytes", i*len(got)), silence, <-wrote
			} else if err != nil {
				return "", silence, errors.Join(err, <-wrote)
			}
		}
		if !bytes.Equal(got, block(i, want)) {
			return "", silence, fmt.Errorf("block %d is damaged", i)
		}
	}
}

// warnings keeps what a node logs at Warn and above, the first 32 KiB. It may
// be used from any goroutine.
type warnings struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (w *warnings) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.b.Len() < 32<<10 {
		w.b.Write(b)
	}
	return len(b), nil
}

func (w *warnings) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

// logger writes warnings here and, where that is asked for, everything to a
// file that is named for the node.
func (w *warnings) logger(label string) *slog.Logger {
	warn := slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelWarn})
	dir := os.Getenv(logVariable)
	if dir == "" {
		return slog.New(warn)
	}
	f, err := os.OpenFile(filepath.Join(dir, label+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	all := slog.NewTextHandler(f, &slog.HandlerOptions{Level: slog.LevelDebug})
	return slog.New(slog.NewMultiHandler(warn, all))
}
