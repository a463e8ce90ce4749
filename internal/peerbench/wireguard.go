package main

import (
	"bufio"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/netstack"
)

// wireguardPair is wireguard-go over its own gVisor netstack, with an MTU of
// 1420 as its tools set it.
func wireguardPair(context.Context) (*pair, error) {
	at := [2]netip.Addr{netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.9.0.2")}
	var nets [2]*netstack.Net
	var devs [2]*device.Device
	var keys [2]*ecdh.PrivateKey
	for i := range at {
		t, n, err := netstack.CreateNetTUN(at[i:i+1], nil, 1420)
		if err != nil {
			return nil, err
		}
		if keys[i], err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
			return nil, err
		}
		nets[i] = n
		devs[i] = device.NewDevice(t, conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))
	}
	port := 0
	for i := 1; i >= 0; i-- { // the server first, for its port
		set := fmt.Sprintf("private_key=%s\nlisten_port=0\npublic_key=%s\nallowed_ip=%s/32\n",
			hex.EncodeToString(keys[i].Bytes()), hex.EncodeToString(keys[1-i].PublicKey().Bytes()), at[1-i])
		if port != 0 {
			set += fmt.Sprintf("endpoint=127.0.0.1:%d\n", port)
		}
		if err := devs[i].IpcSet(set); err != nil {
			return nil, err
		}
		if err := devs[i].Up(); err != nil {
			return nil, err
		}
		state, err := devs[i].IpcGet()
		if err != nil {
			return nil, err
		}
		for s := bufio.NewScanner(strings.NewReader(state)); s.Scan(); {
			_, _ = fmt.Sscanf(s.Text(), "listen_port=%d", &port)
		}
	}
	l, err := nets[1].ListenTCPAddrPort(netip.AddrPortFrom(at[1], 7000))
	if err != nil {
		return nil, err
	}
	return &pair{
		dial: func(ctx context.Context) (stream, error) {
			return nets[0].DialContextTCPAddrPort(ctx, netip.AddrPortFrom(at[1], 7000))
		},
		accept: func() (stream, error) { return l.Accept() },
		flow: func() (datagrams, datagrams, error) {
			pc, err := nets[1].ListenUDPAddrPort(netip.AddrPortFrom(at[1], 7001))
			if err != nil {
				return nil, nil, err
			}
			c, err := nets[0].DialUDPAddrPort(netip.AddrPort{}, netip.AddrPortFrom(at[1], 7001))
			if err != nil {
				return nil, nil, err
			}
			return udpFlow{Conn: c}, udpFlow{pc: pc}, nil
		},
		close: func() { devs[0].Close(); devs[1].Close() },
	}, nil
}
