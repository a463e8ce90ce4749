package main

import (
	"context"
	"crypto/tls"
	"net"
	"sync"

	"github.com/quic-go/quic-go"
)

// quicPair is quic-go with receive windows for a fast path.
func quicPair(ctx context.Context) (*pair, error) {
	cert, err := certificate()
	if err != nil {
		return nil, err
	}
	cfg := &quic.Config{
		EnableDatagrams: true, MaxIncomingStreams: 1 << 20,
		InitialStreamReceiveWindow: 4 << 20, MaxStreamReceiveWindow: 16 << 20,
		InitialConnectionReceiveWindow: 8 << 20, MaxConnectionReceiveWindow: 64 << 20,
	}
	var ts [2]*quic.Transport
	for i := range ts {
		c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			return nil, err
		}
		ts[i] = &quic.Transport{Conn: c}
	}
	l, err := ts[1].Listen(&tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"bench"}}, cfg)
	if err != nil {
		return nil, err
	}
	accepted := make(chan stream, 16)
	servers := make(chan *quic.Conn, 1)
	go func() {
		c, err := l.Accept(context.Background())
		if err != nil {
			return
		}
		servers <- c
		for {
			s, err := c.AcceptStream(context.Background())
			if err != nil {
				return
			}
			accepted <- quicStream{s}
		}
	}()
	connect := sync.OnceValues(func() (*quic.Conn, error) {
		return ts[0].Dial(context.Background(), ts[1].Conn.LocalAddr(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"bench"}}, cfg)
	})
	server := sync.OnceValue(func() *quic.Conn { return <-servers })
	return &pair{
		dial: func(ctx context.Context) (stream, error) {
			c, err := connect()
			if err != nil {
				return nil, err
			}
			s, err := c.OpenStreamSync(ctx)
			return quicStream{s}, err
		},
		accept: func() (stream, error) { return <-accepted, nil },
		flow: func() (datagrams, datagrams, error) {
			c, err := connect()
			if err != nil {
				return nil, nil, err
			}
			return newQUICFlow(c), newQUICFlow(server()), nil
		},
		close: func() { _, _ = ts[0].Close(), ts[1].Close() },
	}, nil
}

// quicStream is closed in both directions, as a connection is.
type quicStream struct{ *quic.Stream }

func (s quicStream) Close() error {
	s.CancelRead(0)
	return s.Stream.Close()
}

type quicFlow struct {
	c     *quic.Conn
	ctx   context.Context
	close context.CancelFunc
}

func newQUICFlow(c *quic.Conn) quicFlow {
	ctx, cancel := context.WithCancel(context.Background())
	return quicFlow{c, ctx, cancel}
}

func (f quicFlow) Send(b []byte) error { return f.c.SendDatagram(b) }
func (f quicFlow) Recv(b []byte) (int, error) {
	d, err := f.c.ReceiveDatagram(f.ctx)
	return copy(b, d), err
}
func (f quicFlow) Close() error { f.close(); return nil }
