package sipproxy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"strings"

	"github.com/emiago/sipgo/sip"
)

// request takes a request: this node's own business, or one to pass on.
func (p *Proxy) request(ctx context.Context, req *sip.Request, from netip.AddrPort) {
	stamp(req.Via(), from)
	hops := req.MaxForwards()
	if hops != nil && hops.Val() == 0 {
		p.answer(req, from, 483, "Too Many Hops")
		return
	}
	if hops == nil {
		h := sip.MaxForwardsHeader(70)
		req.AppendHeader(&h)
	} else {
		hops.Dec()
	}
	for r := req.Route(); r != nil && p.isMe(r.Address.Host, r.Address.Port); r = req.Route() {
		req.RemoveHeader("Route")
	}
	switch {
	case !p.local(from) && req.Route() != nil, !p.local(from) && req.Method == sip.REGISTER:
		p.answer(req, from, sip.StatusForbidden, "Only For The Phones Of "+p.name)
	case !p.local(from):
		p.inbound(ctx, req, from)
	default:
		p.phones.note(from)
		p.ofPhone(ctx, req, from)
	}
}

// ofPhone takes a request of a phone of this host.
func (p *Proxy) ofPhone(ctx context.Context, req *sip.Request, from netip.AddrPort) {
	host := strings.ToLower(req.Recipient.Host)
	switch {
	case req.Route() != nil:
		p.outbound(ctx, req, from)
	case req.Method == sip.REGISTER && (host == p.domain || p.isMe(host, req.Recipient.Port)):
		p.register(ctx, req, from)
	case host == p.domain:
		p.redirect(ctx, req, from)
	default:
		p.outbound(ctx, req, from)
	}
}

// isMe says whether a host and port, 0 for the default, are this proxy's.
func (p *Proxy) isMe(host string, port int) bool {
	return (strings.EqualFold(host, p.name) || host == p.self.String()) && (port == p.port || port == 0 && p.port == defaultPort)
}

// outbound passes a request of a phone of this host on to another member.
func (p *Proxy) outbound(ctx context.Context, req *sip.Request, from netip.AddrPort) {
	p.names.outward(req)
	next := req.Recipient
	if r := req.Route(); r != nil {
		next = r.Address
	}
	host := strings.ToLower(next.Host)
	if host == p.name {
		p.inbound(ctx, req, from)
		return
	}
	if !strings.HasSuffix(host, "."+p.domain) {
		p.answer(req, from, sip.StatusNotFound, "Not In "+p.domain)
		return
	}
	at, ok := p.addrOf(ctx, host)
	if !ok {
		p.answer(req, from, sip.StatusTemporarilyUnavailable, "No Such Member Now")
		return
	}
	port := next.Port
	if port == 0 {
		port = defaultPort
	}
	p.forward(req, p.name, netip.AddrPortFrom(at, uint16(port)))
}

// inbound gives a request to a phone of this host: the one at the port that the request
// names, as within a dialogue, or the one that has registered its user.
func (p *Proxy) inbound(ctx context.Context, req *sip.Request, from netip.AddrPort) {
	host := strings.ToLower(req.Recipient.Host)
	if host != p.name && host != p.self.String() {
		p.answer(req, from, sip.StatusNotFound, "Not Here")
		return
	}
	to := netip.AddrPortFrom(p.self, uint16(req.Recipient.Port))
	if p.isMe(host, req.Recipient.Port) {
		b, ok := p.registrar.find(req.Recipient.User)
		if !ok {
			p.answer(req, from, sip.StatusTemporarilyUnavailable, "Not Registered At "+p.name)
			return
		}
		to, req.Recipient = b.at, *b.contact.Clone()
	}
	if !p.phones.has(to) {
		p.answer(req, from, sip.StatusNotFound, "No Such Phone")
		return
	}
	p.names.inward(ctx, req)
	p.forward(req, p.self.String(), to)
}

// forward sends a request to its next hop, from whose side this proxy has the name or
// address self (RFC 3261 §16.6, §16.11).
func (p *Proxy) forward(req *sip.Request, self string, to netip.AddrPort) {
	before := req.Via()
	branch, _ := before.Params.Get("branch")
	// The same for an INVITE, its CANCEL and the ACK of a refusal, which have the same below.
	sum := sha256.Sum256([]byte(p.name + " " + before.SentBy() + " " + branch))
	params := sip.NewParams()
	params.Add("branch", sip.RFC3261BranchMagicCookie+hex.EncodeToString(sum[:16]))
	if req.Method == sip.INVITE || req.Method == sip.SUBSCRIBE {
		uri := sip.Uri{Scheme: "sip", Host: self, Port: p.uriPort(), UriParams: sip.NewParams()}
		uri.UriParams.Add("lr", "")
		req.PrependHeader(&sip.RecordRouteHeader{Address: uri})
	}
	req.PrependHeader(&sip.ViaHeader{ProtocolName: "SIP", ProtocolVersion: "2.0", Transport: "UDP", Host: self, Port: p.port, Params: params})
	p.send(req, to)
}

// uriPort is this proxy's port as URIs have it, 0 for the default.
func (p *Proxy) uriPort() int {
	if p.port == defaultPort {
		return 0
	}
	return p.port
}
