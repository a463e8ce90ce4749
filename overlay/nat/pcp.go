package nat

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

const (
	pcpVersion  = 2
	pcpAnnounce = 0 // opcode: nothing but an answer
	pcpMap      = 1 // opcode: map a port
	pcpResponse = 0x80
	pcpUDP      = 17 // the protocol of what is mapped
	pcpHeader   = 24
	pcpMapping  = 36
	// pcpGrace is how long a router that speaks NAT-PMP may take to show that it
	// speaks PCP as well, which is asked at the same time.
	pcpGrace = 250 * time.Millisecond
)

var errOldRouter = errors.New("the router speaks NAT-PMP, not PCP")

// pcp speaks PCP (RFC 6887) with a router, version 2 of what began as NAT-PMP, on the
// same port:
//
//	request   version 1 | op 1 | reserved 2 | seconds 4 | this host's address 16
//	response  version 1 | 0x80 + op 1 | reserved 1 | result 1 | seconds 4 | epoch 4 | reserved 12
//	mapping   nonce 12 | protocol 1 | reserved 3 | internal port 2 | external port 2 | external address 16
//
// IPv4 addresses are IPv4-mapped ones of IPv6. The nonce shows that who changes a mapping
// is who has made it. RFC 6887 §8.1.1 has a request repeated after 3 s; a router is one
// link away, and the time is NAT-PMP's.
type pcp struct {
	local  netip.Addr // must be what the router sees, §8.1
	router netip.AddrPort
	nonce  [12]byte

	outer netip.Addr // that the last mapping was given; one goroutine uses it
}

var _ gateway = (*pcp)(nil)

func newPCP(local netip.Addr, router netip.AddrPort) *pcp {
	p := &pcp{local: local, router: router}
	rand.Read(p.nonce[:])
	return p
}

func (p *pcp) String() string { return "PCP" }

// announce asks whether the router speaks PCP.
func (p *pcp) announce(ctx context.Context) error {
	_, err := p.ask(ctx, p.request(pcpAnnounce, 0), pcpHeader)
	return err
}

// external is what the router has said when it mapped the port: PCP has no other way to
// ask.
func (p *pcp) external(context.Context) (netip.Addr, error) {
	if !p.outer.IsValid() {
		return netip.Addr{}, errors.New("the router has mapped no port yet")
	}
	return p.outer, nil
}

func (p *pcp) add(ctx context.Context, local netip.AddrPort, want uint16, life time.Duration) (uint16, time.Duration, error) {
	b, err := p.ask(ctx, p.mapping(local.Port(), want, life), pcpHeader+pcpMapping)
	if err != nil {
		return 0, 0, err
	}
	m := b[pcpHeader:]
	p.outer = netip.AddrFrom16([16]byte(m[20:])).Unmap()
	return binary.BigEndian.Uint16(m[18:]), time.Duration(binary.BigEndian.Uint32(b[4:])) * time.Second, nil
}

// remove asks for a lifetime of zero (RFC 6887 §15).
func (p *pcp) remove(ctx context.Context, local netip.AddrPort, _ uint16) error {
	_, err := p.ask(ctx, p.mapping(local.Port(), 0, 0), pcpHeader+pcpMapping)
	return err
}

func (p *pcp) request(op byte, life time.Duration) []byte {
	b := []byte{pcpVersion, op, 0, 0}
	b = binary.BigEndian.AppendUint32(b, uint32(life/time.Second))
	local := p.local.As16()
	return append(b, local[:]...)
}

// mapping is the request for one. The external address that it wants is any of IPv4
// (§11.1), or the one that it had.
func (p *pcp) mapping(internal, external uint16, life time.Duration) []byte {
	b := append(p.request(pcpMap, life), p.nonce[:]...)
	b = append(b, pcpUDP, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, internal)
	b = binary.BigEndian.AppendUint16(b, external)
	outer := netip.IPv4Unspecified()
	if p.outer.Is4() && life > 0 {
		outer = p.outer
	}
	a := outer.As16()
	return append(b, a[:]...)
}

// ask sends a request until the router answers with n bytes or more.
func (p *pcp) ask(ctx context.Context, request []byte, n int) ([]byte, error) {
	return askRouter(ctx, netip.AddrPortFrom(p.local, 0), p.router, request, func(b []byte) ([]byte, error) { return readPCP(b, request, n) })
}

// readPCP returns b if it is the response to request, of n bytes or more; nil if it is
// none. A router that refuses, or speaks another version, is an error.
func readPCP(b, request []byte, n int) ([]byte, error) {
	if len(b) >= 4 && b[0] == 0 && b[1]&natPMPResponse != 0 {
		return nil, errOldRouter // RFC 6886 §3.5: it answers another version in its own
	}
	if len(b) < pcpHeader || b[0] != pcpVersion || b[1] != pcpResponse|request[1] {
		return nil, nil
	}
	if request[1] == pcpMap {
		// The nonce, the protocol and the internal port say which request it was for (§11.4).
		m, asked := b[pcpHeader:], request[pcpHeader:]
		if len(m) < pcpMapping || string(m[:13]) != string(asked[:13]) || string(m[16:18]) != string(asked[16:18]) {
			return nil, nil
		}
	}
	if code := b[3]; code != 0 {
		return nil, fmt.Errorf("the router refuses, result %d", code)
	}
	if len(b) < n {
		return nil, nil
	}
	return b, nil
}
