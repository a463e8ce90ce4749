package sipproxy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"strconv"

	"github.com/emiago/sipgo/sip"
)

// response passes a response on, to where its request came from (RFC 3261 §16.7, §18.2.2).
// One of another member goes to a phone of this host only.
func (p *Proxy) response(ctx context.Context, res *sip.Response, from netip.AddrPort) {
	if !p.isMe(res.Via().Host, res.Via().Port) || !res.RemoveHeader("Via") {
		return
	}
	next := res.Via()
	if next == nil {
		return
	}
	to, ok := backTo(next)
	switch {
	case !ok:
		return
	case p.local(to) && !p.phones.has(to):
		return
	case p.local(from) && p.local(to): // an LSI of this host is the same for both
	case p.local(from):
		p.names.outward(res)
	case p.local(to):
		p.names.inward(ctx, res)
	default:
		return
	}
	p.send(res, to)
}

// backTo is where the response to a request with this Via goes: stamp has put it there.
func backTo(v *sip.ViaHeader) (netip.AddrPort, bool) {
	host, _ := v.Params.Get("received")
	text, _ := v.Params.Get("rport")
	a, err := netip.ParseAddr(host)
	port, perr := strconv.ParseUint(text, 10, 16)
	return netip.AddrPortFrom(a, uint16(port)), err == nil && perr == nil && a.Is4()
}

// stamp notes in the topmost Via where a request came from (RFC 3581), also for those that
// have not asked for it.
func stamp(v *sip.ViaHeader, from netip.AddrPort) {
	if v.Params == nil {
		v.Params = sip.NewParams()
	}
	v.Params.Add("received", from.Addr().String())
	v.Params.Add("rport", strconv.Itoa(int(from.Port())))
}

// answer answers a request. The same request gives the same tag, since nothing is kept of
// it (RFC 3261 §8.2.7).
func (p *Proxy) answer(req *sip.Request, from netip.AddrPort, code int, reason string, more ...sip.Header) {
	if req.IsAck() {
		return
	}
	if to := req.To(); !to.Params.Has("tag") && code > 100 {
		sum := sha256.Sum256([]byte(p.name + req.Via().Value() + req.CallID().Value()))
		if to.Params == nil {
			to.Params = sip.NewParams()
		}
		to.Params.Add("tag", hex.EncodeToString(sum[:8]))
	}
	res := sip.NewResponseFromRequest(req, code, reason, nil)
	for _, h := range more {
		res.AppendHeader(h)
	}
	p.send(res, from)
}
