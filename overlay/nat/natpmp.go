package nat

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"
)

const (
	natPMPPort  = 5351
	natPMPRTO   = 250 * time.Millisecond // doubled (RFC 6886 §3.1)
	natPMPTries = 4

	natPMPExternal = 0   // opcode: external address
	natPMPMapUDP   = 1   // opcode: map UDP
	natPMPResponse = 128 // added to the opcode
)

// natPMP speaks NAT-PMP (RFC 6886) with a router:
//
//	external address  request:  version 0 | op 0
//	                  response: version 0 | op 128 | result 2 | epoch 4 | address 4
//	mapping           request:  version 0 | op 1 | reserved 2 | internal port 2 | suggested external port 2 | seconds 4
//	                  response: version 0 | op 129 | result 2 | epoch 4 | internal port 2 | external port 2 | seconds 4
type natPMP struct {
	router netip.AddrPort
}

var _ gateway = (*natPMP)(nil)

func (p *natPMP) String() string { return "NAT-PMP" }

func (p *natPMP) external(ctx context.Context) (netip.Addr, error) {
	b, err := p.ask(ctx, []byte{0, natPMPExternal}, 12)
	if err != nil {
		return netip.Addr{}, err
	}
	return netip.AddrFrom4([4]byte(b[8:])), nil
}

func (p *natPMP) add(ctx context.Context, local netip.AddrPort, want uint16, life time.Duration) (uint16, time.Duration, error) {
	b, err := p.ask(ctx, natPMPMapping(local.Port(), want, life), 16)
	if err != nil {
		return 0, 0, err
	}
	if got := binary.BigEndian.Uint16(b[8:]); got != local.Port() {
		return 0, 0, fmt.Errorf("the router has mapped port %d", got)
	}
	return binary.BigEndian.Uint16(b[10:]), time.Duration(binary.BigEndian.Uint32(b[12:])) * time.Second, nil
}

// remove asks for a lifetime of zero (RFC 6886 §3.4).
func (p *natPMP) remove(ctx context.Context, local netip.AddrPort, _ uint16) error {
	_, err := p.ask(ctx, natPMPMapping(local.Port(), 0, 0), 16)
	return err
}

func natPMPMapping(internal, external uint16, life time.Duration) []byte {
	b := []byte{0, natPMPMapUDP, 0, 0}
	b = binary.BigEndian.AppendUint16(b, internal)
	b = binary.BigEndian.AppendUint16(b, external)
	return binary.BigEndian.AppendUint32(b, uint32(life/time.Second))
}

// ask sends a request until the router answers with n bytes or more.
func (p *natPMP) ask(ctx context.Context, request []byte, n int) ([]byte, error) {
	return askRouter(ctx, netip.AddrPort{}, p.router, request, func(b []byte) ([]byte, error) { return readNATPMP(b, request, n) })
}

// askRouter sends a request, from a local address or any, until read takes what comes
// back for the response or for an error; it returns nil for what is neither.
func askRouter(ctx context.Context, local, router netip.AddrPort, request []byte, read func(b []byte) ([]byte, error)) ([]byte, error) {
	var from *net.UDPAddr
	if local.IsValid() {
		from = net.UDPAddrFromAddrPort(local)
	}
	// Connected: what others send does not come in (RFC 6886 §3.1).
	c, err := net.DialUDP("udp4", from, net.UDPAddrFromAddrPort(router))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	b := make([]byte, 1100) // RFC 6887 §7: no message of PCP is longer
	wait := natPMPRTO
	for range natPMPTries {
		if ctx.Err() != nil {
			break
		}
		_ = c.SetReadDeadline(time.Now().Add(wait))
		wait *= 2
		if _, err := c.Write(request); err != nil {
			return nil, err
		}
		for {
			m, err := c.Read(b)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return nil, err // as ECONNREFUSED: nobody listens
			}
			if a, err := read(b[:m]); a != nil || err != nil {
				return a, err
			}
		}
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return nil, errNoRouter
}

// readNATPMP returns b if it is the response to request, of n bytes or more; nil
// if it is none. A router that refuses is an error.
func readNATPMP(b, request []byte, n int) ([]byte, error) {
	if len(b) < 4 || b[0] != 0 || b[1] != natPMPResponse+request[1] {
		return nil, nil
	}
	if code := binary.BigEndian.Uint16(b[2:]); code != 0 {
		return nil, fmt.Errorf("the router refuses, result %d", code)
	}
	if len(b) < n {
		return nil, nil
	}
	return b, nil
}
