package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// kernelPair is the kernel without encryption: what there is to lose.
func kernelPair(ctx context.Context) (*pair, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return &pair{
		dial: func(ctx context.Context) (stream, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
		},
		accept: func() (stream, error) { return l.Accept() },
		flow: func() (datagrams, datagrams, error) {
			pc, err := net.ListenPacket("udp", "127.0.0.1:0")
			if err != nil {
				return nil, nil, err
			}
			c, err := net.Dial("udp", pc.LocalAddr().String())
			if err != nil {
				return nil, nil, err
			}
			return udpFlow{Conn: c}, udpFlow{pc: pc}, nil
		},
		close: func() { _ = l.Close() },
	}, nil
}

// tlsPair is kernel TCP under crypto/tls, version 1.3, with tickets.
func tlsPair(ctx context.Context) (*pair, error) {
	p, err := kernelPair(ctx)
	if err != nil {
		return nil, err
	}
	cert, err := certificate()
	if err != nil {
		return nil, err
	}
	client := &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: "bench", InsecureSkipVerify: true,
		ClientSessionCache: tls.NewLRUClientSessionCache(0),
	}
	server := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}}
	dial, accept := p.dial, p.accept
	p.flow = nil
	p.dial = func(ctx context.Context) (stream, error) {
		c, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		return tls.Client(c.(net.Conn), client), nil
	}
	p.accept = func() (stream, error) {
		c, err := accept()
		if err != nil {
			return nil, err
		}
		return tls.Server(c.(net.Conn), server), nil
	}
	return p, nil
}

// kernelServe is the server on an impaired path, with that congestion control.
func kernelServe(congestion string) func(context.Context, *end) (string, func() (stream, error), error) {
	return func(ctx context.Context, e *end) (string, func() (stream, error), error) {
		l, err := (&net.ListenConfig{Control: control(congestion)}).Listen(ctx, "tcp", netip.AddrPortFrom(e.local, 0).String())
		if err != nil {
			return "", nil, err
		}
		return l.Addr().String(), func() (stream, error) { return l.Accept() }, nil
	}
}

func kernelConnect(congestion string) func(context.Context, *end, string) (stream, error) {
	return func(ctx context.Context, _ *end, hello string) (stream, error) {
		return (&net.Dialer{Control: control(congestion)}).DialContext(ctx, "tcp", hello)
	}
}

func control(congestion string) func(_, _ string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var set error
		err := c.Control(func(fd uintptr) { set = setCongestion(fd, congestion) })
		return errors.Join(err, set)
	}
}

func certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"bench"}}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
