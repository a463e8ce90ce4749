package main

import (
	"context"
	"io"
	"net"

	"github.com/things-go/go-socks5"
	"github.com/things-go/go-socks5/statute"
)

// associate serves UDP ASSOCIATE (RFC 1928 §7) until the client ends the TCP
// connection that it came on: datagrams to names or addresses, each with a
// header that says where to. Names are resolved in the overlay. The library's
// own handler keeps a conn for each destination as long as the association
// lasts, and ends the association when one of them breaks.
func (g *gateway) associate(_ context.Context, w io.Writer, r *socks5.Request) error {
	at, ok := r.LocalAddr.(*net.TCPAddr)
	if !ok {
		return socks5.SendReply(w, statute.RepServerFailure, nil)
	}
	pc, err := net.ListenUDP("udp", &net.UDPAddr{IP: at.IP, Zone: at.Zone})
	if err != nil {
		socks5.SendReply(w, statute.RepServerFailure, nil)
		return err
	}
	stop := context.AfterFunc(g.ctx, func() { pc.Close() })
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.relay(pc, r.DestAddr)
	}()
	err = socks5.SendReply(w, statute.RepSuccess, pc.LocalAddr())
	if err == nil {
		_, err = io.Copy(io.Discard, r.Reader) // until the client hangs up
	}
	pc.Close()
	<-done
	return err
}

// relay passes datagrams on, those of the client only: of the address that it
// announced, or else of the first one that sends.
func (g *gateway) relay(pc *net.UDPConn, announced *statute.AddrSpec) {
	f := newFlows(g.ctx)
	defer f.close()
	var client *net.UDPAddr
	b := make([]byte, 65535)
	for {
		n, from, err := pc.ReadFromUDP(b)
		if err != nil {
			if g.ctx.Err() != nil || isClosed(err) {
				return
			}
			continue // an ICMP error for an earlier answer
		}
		if client == nil && announces(announced, from) {
			client = from
		}
		if client == nil || !client.IP.Equal(from.IP) || client.Port != from.Port {
			continue
		}
		d, err := statute.ParseDatagram(b[:n])
		if err != nil || d.Frag != 0 { // RFC 1928 §7: fragments may be dropped
			continue
		}
		to := d.DstAddr.String()
		head := d.Header()
		f.send(to, d.Data,
			func(ctx context.Context) (net.Conn, error) { return g.dial(ctx, "udp", to) },
			func(b []byte) error {
				_, err := pc.WriteToUDP(append(head[:len(head):len(head)], b...), from)
				if isClosed(err) {
					return err
				}
				return nil
			})
	}
}

// announces says whether from may be the client that a request spoke of.
func announces(a *statute.AddrSpec, from *net.UDPAddr) bool {
	if a == nil {
		return true
	}
	return (len(a.IP) == 0 || a.IP.IsUnspecified() || a.IP.Equal(from.IP)) && (a.Port == 0 || a.Port == from.Port)
}
