package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/idloc/idloc/idloc"
)

// idlocPair is an overlay of a founder and two members. Each dial resolves
// the server's name; what the first one went through is in stages.
func idlocPair(ctx context.Context) (*pair, error) {
	cfg := func(name string) idloc.Config {
		return idloc.Config{Name: name, Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}
	}
	founder, err := idloc.Create(ctx, "bench.example", cfg("founder"))
	if err != nil {
		return nil, err
	}
	join := func(name string) (*idloc.Node, error) {
		token, err := founder.Invite(idloc.InviteOptions{Name: name})
		if err != nil {
			return nil, err
		}
		return idloc.Join(ctx, token, cfg(name))
	}
	server, err := join("server")
	if err != nil {
		return nil, err
	}
	client, err := join("client")
	if err != nil {
		return nil, err
	}
	l, err := server.Listen("tcp", ":7000")
	if err != nil {
		return nil, err
	}
	// The database is warm: the founder finds the name. The client has not
	// asked for it.
	if err := published(ctx, founder, "server.bench.example"); err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var events []idloc.Event
	go func() {
		for e := range client.Watch(context.Background()) {
			mu.Lock()
			events = append(events, e)
			enough := len(events) >= 64
			mu.Unlock()
			if enough {
				return // what follows is measured without a watcher
			}
		}
	}()
	return &pair{
		dial: func(ctx context.Context) (stream, error) {
			return client.Dial(ctx, "tcp", "server.bench.example:7000")
		},
		accept: func() (stream, error) { return l.Accept() },
		flow: func() (datagrams, datagrams, error) {
			pc, err := server.ListenPacket("udp", ":7001")
			if err != nil {
				return nil, nil, err
			}
			c, err := client.Dial(context.Background(), "udp", "server.bench.example:7001")
			if err != nil {
				return nil, nil, err
			}
			return udpFlow{Conn: c}, udpFlow{pc: pc}, nil
		},
		stages: func() map[string]float64 {
			time.Sleep(50 * time.Millisecond) // the last events are on their way
			mu.Lock()
			defer mu.Unlock()
			return stagesOf(events)
		},
		close: func() { _, _, _ = client.Close(), server.Close(), founder.Close() },
	}, nil
}

// published waits until a node finds a name.
func published(ctx context.Context, by *idloc.Node, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		_, err := by.Resolver().LookupHost(ctx, name)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s was not published: %w", name, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// idlocServe is the server on an impaired path, and the founder beside it; the
// client is told its token.
func idlocServe(ctx context.Context, e *end) (hello string, accept func() (stream, error), err error) {
	cfg := func(name string) idloc.Config {
		return idloc.Config{Name: name, Addrs: []netip.Addr{e.local}}
	}
	founder, err := idloc.Create(ctx, "bench.example", cfg("founder"))
	if err != nil {
		return "", nil, err
	}
	token, err := founder.Invite(idloc.InviteOptions{Name: "server"})
	if err != nil {
		return "", nil, err
	}
	server, err := idloc.Join(ctx, token, cfg("server"))
	if err != nil {
		return "", nil, err
	}
	l, err := server.Listen("tcp", ":7000")
	if err != nil {
		return "", nil, err
	}
	if *pings {
		if err := echo(server); err != nil {
			return "", nil, err
		}
	}
	token, err = founder.Invite(idloc.InviteOptions{Name: "client"})
	return token, func() (stream, error) { return l.Accept() }, err
}

// echo answers pings on ports 7001 (TCP) and 7002 (UDP).
func echo(n *idloc.Node) error {
	l, err := n.Listen("tcp", ":7001")
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c) }()
		}
	}()
	pc, err := n.ListenPacket("udp", ":7002")
	if err != nil {
		return err
	}
	go func() {
		b := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(b[:n], from)
		}
	}()
	return nil
}

// pinged prints, once a second after the warm-up, how long round trips take: of 64
// bytes over a TCP conn of its own, one at a time, and of UDP datagrams of 160 bytes, of
// which one leaves each 20 ms.
func pinged(ctx context.Context, n *idloc.Node) {
	t, err := n.Dial(ctx, "tcp", "server.bench.example:7001")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	u, err := n.Dial(ctx, "udp", "server.bench.example:7002")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	began := time.Now()
	var mu sync.Mutex // guards what follows
	var tcp, udp []time.Duration
	sent := 0
	note := func(l *[]time.Duration, d time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(began) > *warm {
			*l = append(*l, d)
		}
	}
	go func() {
		b := make([]byte, 64)
		for {
			at := time.Now()
			if _, err := t.Write(b); err != nil {
				return
			}
			if _, err := io.ReadFull(t, b); err != nil {
				return
			}
			note(&tcp, time.Since(at))
			time.Sleep(20 * time.Millisecond)
		}
	}()
	go func() {
		b := make([]byte, 1500)
		for {
			if _, err := u.Read(b); err != nil {
				return
			}
			note(&udp, time.Since(began)-time.Duration(binary.BigEndian.Uint64(b)))
		}
	}()
	b := make([]byte, 160)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		binary.BigEndian.PutUint64(b, uint64(time.Since(began)))
		_, _ = u.Write(b)
		mu.Lock()
		if time.Since(began) > *warm {
			sent++
		}
		if i%50 == 49 && len(tcp) > 0 && len(udp) > 0 {
			slices.Sort(tcp)
			slices.Sort(udp)
			fmt.Fprintf(os.Stderr, "pings: TCP %v, p99 %v of %d; UDP %v, p99 %v of %d, %d sent\n",
				tcp[len(tcp)/2].Round(10*time.Microsecond), tcp[len(tcp)*99/100].Round(10*time.Microsecond), len(tcp),
				udp[len(udp)/2].Round(10*time.Microsecond), udp[len(udp)*99/100].Round(10*time.Microsecond), len(udp), sent)
		}
		mu.Unlock()
	}
}

// idlocServeCarried is a founder that is reached by a carrier only: its UDP port is on
// an address that the client has no way to.
func idlocServeCarried(ctx context.Context, e *end) (hello string, accept func() (stream, error), err error) {
	at := netip.AddrPortFrom(e.local, 443).String()
	founder, err := idloc.Create(ctx, "bench.example", idloc.Config{
		Name: "server", Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Carrier: at, Reached: []string{"tls://" + at},
	})
	if err != nil {
		return "", nil, err
	}
	l, err := founder.Listen("tcp", ":7000")
	if err != nil {
		return "", nil, err
	}
	if *pings {
		if err := echo(founder); err != nil {
			return "", nil, err
		}
	}
	token, err := founder.Invite(idloc.InviteOptions{Name: "client"})
	return token, func() (stream, error) { return l.Accept() }, err
}

func idlocConnect(ctx context.Context, e *end, token string) (stream, error) {
	client, err := idloc.Join(ctx, token, idloc.Config{Name: "client", Addrs: []netip.Addr{e.local}})
	if err != nil {
		return nil, err
	}
	for { // until the server's name is published
		c, err := client.Dial(ctx, "tcp", "server.bench.example:7000")
		if err == nil && *trace {
			go traced(ctx, client, c)
		}
		if err == nil && *pings {
			go pinged(ctx, client)
		}
		if err == nil || ctx.Err() != nil {
			return c, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// traced prints how c and the pipe below it are.
func traced(ctx context.Context, n *idloc.Node, c net.Conn) {
	began := time.Now()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, p := range n.Status().Peers {
			r := p.Repair
			if r.Sent == 0 {
				continue
			}
			fmt.Fprintf(os.Stderr, "%5.1f s %s %.1f Mbit/s RTT %v %v, %d of %d in flight, kept %d, sent %d repaired %d late %d probes %d refused %d",
				time.Since(began).Seconds(), r.State, r.Rate/1e6, r.RTT.Round(10*time.Microsecond), r.Smoothed.Round(10*time.Microsecond),
				r.InFlight, r.Window, r.Kept, r.Sent, r.Repaired, r.Late, r.Probes, r.Refused)
			if i, ok := c.(interface {
				Info() (idloc.TCPInfo, error)
			}); ok {
				if t, err := i.Info(); err == nil {
					fmt.Fprintf(os.Stderr, "; TCP window %d of %d, RTT %v, RTO %v, %d again", t.CongestionWindow, t.SlowStartThreshold, t.RTT, t.RTO, t.Retransmits)
				}
			}
			fmt.Fprintln(os.Stderr)
		}
	}
}

// stagesOf says how long after the step before it each step of a first dial
// came, in ms.
func stagesOf(events []idloc.Event) map[string]float64 {
	m := map[string]float64{}
	var last time.Time
	for _, e := range events {
		switch e.Kind {
		case idloc.EventNameAsked:
			last = e.Time
		case idloc.EventNameResolved, idloc.EventMiss, idloc.EventOfferSent, idloc.EventAnswerReceived,
			idloc.EventPairChosen, idloc.EventPipeUp, idloc.EventPacketsReleased:
			if _, twice := m[string(e.Kind)]; twice || last.IsZero() {
				continue
			}
			m[string(e.Kind)] = float64(e.Time.Sub(last).Microseconds()) / 1e3
			last = e.Time
		}
	}
	return m
}

// udpFlow is an end of a flow: a connected socket, or a listening one.
type udpFlow struct {
	net.Conn
	pc net.PacketConn
}

func (f udpFlow) Send(b []byte) error {
	_, err := f.Conn.Write(b)
	return err
}

func (f udpFlow) Recv(b []byte) (int, error) {
	if r, ok := f.pc.(interface {
		ReadFromUDPAddrPort([]byte) (int, netip.AddrPort, error)
	}); ok {
		n, _, err := r.ReadFromUDPAddrPort(b)
		return n, err
	}
	n, _, err := f.pc.ReadFrom(b)
	return n, err
}

func (f udpFlow) Close() error {
	if f.pc != nil {
		return f.pc.Close()
	}
	return f.Conn.Close()
}
