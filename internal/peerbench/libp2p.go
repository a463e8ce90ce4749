package main

import (
	"context"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
)

func libp2pQUIC(ctx context.Context) (*pair, error) {
	return libp2pPair(libp2p.ListenAddrStrings("/ip4/127.0.0.1/udp/0/quic-v1"), libp2p.Transport(quic.NewTransport))
}

func libp2pTCP(ctx context.Context) (*pair, error) {
	return libp2pPair(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Security(noise.ID, noise.New), libp2p.Muxer(yamux.ID, yamux.DefaultTransport))
}

// libp2pPair is two hosts without resource limits, which W4 and W7 would meet.
func libp2pPair(opts ...libp2p.Option) (*pair, error) {
	const protocol = "/bench/1"
	var hosts [2]host.Host
	for i := range hosts {
		limits, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(rcmgr.InfiniteLimits))
		if err != nil {
			return nil, err
		}
		hosts[i], err = libp2p.New(append([]libp2p.Option{
			libp2p.NoTransports, libp2p.ResourceManager(limits), libp2p.DisableRelay(), libp2p.DisableMetrics(),
		}, opts...)...)
		if err != nil {
			return nil, err
		}
	}
	accepted := make(chan stream, 16)
	hosts[1].SetStreamHandler(protocol, func(s network.Stream) { accepted <- s })
	server := peer.AddrInfo{ID: hosts[1].ID(), Addrs: hosts[1].Addrs()}
	return &pair{
		dial: func(ctx context.Context) (stream, error) {
			if err := hosts[0].Connect(ctx, server); err != nil { // at once if connected
				return nil, err
			}
			return hosts[0].NewStream(ctx, server.ID, protocol)
		},
		accept: func() (stream, error) { return <-accepted, nil },
		close:  func() { _, _ = hosts[0].Close(), hosts[1].Close() },
	}, nil
}
