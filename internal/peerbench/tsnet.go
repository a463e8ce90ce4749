package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"tailscale.com/derp/derpserver"
	"tailscale.com/ipn/ipnstate"
	"tailscale.com/ipn/store/mem"
	"tailscale.com/net/netns"
	"tailscale.com/net/stun"
	"tailscale.com/tailcfg"
	"tailscale.com/tsnet"
	"tailscale.com/tstest/integration/testcontrol"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
)

// tsnetControl is what a tailnet needs besides its nodes, all of it at one
// local address: a control server, which its own tests provide, a DERP relay
// and a STUN server. Its URL is what the nodes are given.
func tsnetControl(at netip.Addr) (url string, err error) {
	listen := func() (net.Listener, error) {
		return net.Listen("tcp", netip.AddrPortFrom(at, 0).String())
	}
	stunPort, err := tsnetSTUN(at)
	if err != nil {
		return "", err
	}
	l, err := listen()
	if err != nil {
		return "", err
	}
	derp := httptest.NewUnstartedServer(derpserver.Handler(derpserver.New(key.NewNode(), logger.Discard)))
	_ = derp.Listener.Close()
	derp.Listener = l
	derp.Config.ErrorLog = logger.StdLogger(logger.Discard)
	derp.Config.TLSNextProto = make(map[string]func(*http.Server, *tls.Conn, http.Handler)) // DERP is not HTTP/2
	derp.StartTLS()

	if l, err = listen(); err != nil {
		return "", err
	}
	control := &testcontrol.Server{
		DNSConfig: &tailcfg.DNSConfig{Proxied: true}, MagicDNSDomain: "bench.ts.net", Logf: logger.Discard,
		DERPMap: &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{1: {
			RegionID: 1, RegionCode: "bench",
			Nodes: []*tailcfg.DERPNode{{
				Name: "bench1", RegionID: 1, HostName: at.String(), IPv4: at.String(), IPv6: "none",
				STUNPort: stunPort, STUNTestIP: at.String(), InsecureForTests: true,
				DERPPort: derp.Listener.Addr().(*net.TCPAddr).Port,
			}},
		}}},
	}
	control.HTTPTestServer = httptest.NewUnstartedServer(control)
	_ = control.HTTPTestServer.Listener.Close()
	control.HTTPTestServer.Listener = l
	control.HTTPTestServer.Start()
	return control.HTTPTestServer.URL, nil
}

func tsnetSTUN(at netip.Addr) (port int, err error) {
	pc, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, 0)))
	if err != nil {
		return 0, err
	}
	go func() {
		var buf [2048]byte
		for {
			n, src, err := pc.ReadFromUDPAddrPort(buf[:])
			if err != nil {
				return
			}
			if id, err := stun.ParseBindingRequest(buf[:n]); err == nil {
				_, _ = pc.WriteToUDPAddrPort(stun.Response(id, src), src)
			}
		}
	}()
	return pc.LocalAddr().(*net.UDPAddr).Port, nil
}

// tsnetNode brings one node up.
func tsnetNode(ctx context.Context, url, name string) (*tsnet.Server, netip.Addr, error) {
	// Its sockets are not to be bound to the interface of a default route:
	// there is none on loopback.
	netns.SetEnabled(false)
	dir, err := os.MkdirTemp("", "peerbench")
	if err != nil {
		return nil, netip.Addr{}, err
	}
	s := &tsnet.Server{
		Dir: filepath.Join(dir, name), ControlURL: url, Hostname: name, Store: new(mem.Store),
		Ephemeral: true, UserLogf: logger.Discard,
	}
	st, err := s.Up(ctx)
	if err != nil {
		return nil, netip.Addr{}, err
	}
	return s, st.TailscaleIPs[0], nil
}

// tsnetKnows waits until s has the node at ip in its map of the network.
func tsnetKnows(ctx context.Context, s *tsnet.Server, ip netip.Addr) error {
	lc, err := s.LocalClient()
	if err != nil {
		return err
	}
	for {
		st, err := lc.Status(ctx)
		if err == nil && tsnetHas(st, ip) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("tsnet: node %v is not known: %w", ip, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func tsnetHas(st *ipnstate.Status, ip netip.Addr) bool {
	for _, p := range st.Peer {
		if len(p.TailscaleIPs) > 0 && p.TailscaleIPs[0] == ip {
			return true
		}
	}
	return false
}

// tsnetDirect waits until the path from s to the node at ip is direct.
func tsnetDirect(ctx context.Context, s *tsnet.Server, ip netip.Addr) error {
	lc, err := s.LocalClient()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	for {
		// A ping that is lost is never answered.
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		r, err := lc.Ping(try, ip, tailcfg.PingDisco)
		cancel()
		if err == nil && r.Endpoint != "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New("tsnet: no direct path")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// tsnetPair is two nodes with a control server and a relay of their own. That
// the nodes know each other belongs to their start, the direct path too but
// for W6, which is the first connection: nodes of a tailnet begin with the
// relay.
func tsnetPair(ctx context.Context) (*pair, error) {
	_ = os.Setenv("TS_NO_LOGS_NO_SUPPORT", "true")
	url, err := tsnetControl(netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	client, clientIP, err := tsnetNode(ctx, url, "client")
	if err != nil {
		return nil, err
	}
	server, serverIP, err := tsnetNode(ctx, url, "server")
	if err != nil {
		return nil, err
	}
	if err := errors.Join(tsnetKnows(ctx, client, serverIP), tsnetKnows(ctx, server, clientIP)); err != nil {
		return nil, err
	}
	l, err := server.Listen("tcp", ":7000")
	if err != nil {
		return nil, err
	}
	return &pair{
		meet: func(ctx context.Context) error { return tsnetDirect(ctx, client, serverIP) },
		dial: func(ctx context.Context) (stream, error) {
			return client.Dial(ctx, "tcp", netip.AddrPortFrom(serverIP, 7000).String())
		},
		accept: func() (stream, error) { return l.Accept() },
		flow: func() (datagrams, datagrams, error) {
			pc, err := server.ListenPacket("udp", netip.AddrPortFrom(serverIP, 7001).String())
			if err != nil {
				return nil, nil, err
			}
			c, err := client.Dial(context.Background(), "udp", netip.AddrPortFrom(serverIP, 7001).String())
			if err != nil {
				return nil, nil, err
			}
			return udpFlow{Conn: c}, udpFlow{pc: pc}, nil
		},
		close: func() { _, _ = client.Close(), server.Close() },
	}, nil
}

// tsnetHello is what the client of an impaired path is told.
type tsnetHello struct {
	URL    string
	Server netip.Addr
}

// tsnetServe is the server on an impaired path, with the control server.
func tsnetServe(ctx context.Context, e *end) (hello string, accept func() (stream, error), err error) {
	_ = os.Setenv("TS_NO_LOGS_NO_SUPPORT", "true")
	url, err := tsnetControl(e.local)
	if err != nil {
		return "", nil, err
	}
	s, ip, err := tsnetNode(ctx, url, "server")
	if err != nil {
		return "", nil, err
	}
	l, err := s.Listen("tcp", ":7000")
	if err != nil {
		return "", nil, err
	}
	b, err := json.Marshal(tsnetHello{url, ip})
	return string(b), func() (stream, error) { return l.Accept() }, err
}

func tsnetConnect(ctx context.Context, e *end, hello string) (stream, error) {
	_ = os.Setenv("TS_NO_LOGS_NO_SUPPORT", "true")
	var h tsnetHello
	if err := json.Unmarshal([]byte(hello), &h); err != nil {
		return nil, err
	}
	s, _, err := tsnetNode(ctx, h.URL, "client")
	if err != nil {
		return nil, err
	}
	if err := tsnetKnows(ctx, s, h.Server); err != nil {
		return nil, err
	}
	if err := tsnetDirect(ctx, s, h.Server); err != nil {
		return nil, err
	}
	return s.Dial(ctx, "tcp", netip.AddrPortFrom(h.Server, 7000).String())
}
