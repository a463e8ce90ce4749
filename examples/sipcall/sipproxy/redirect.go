package sipproxy

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/emiago/sipgo/sip"

	"github.com/idloc/idloc/idloc"
)

// service is how the overlay's database calls SIP's users.
const service = "sip:"

// redirect answers a request for an address of record with where its user is (RFC 3261
// §8.3): with several, in the order of their q, and of who has registered last.
func (p *Proxy) redirect(ctx context.Context, req *sip.Request, from netip.AddrPort) {
	switch req.Method {
	case sip.ACK:
		return // of the redirection
	case sip.CANCEL:
		p.answer(req, from, sip.StatusOK, "OK")
		return
	case sip.INVITE:
		p.answer(req, from, sip.StatusTrying, "Trying") // or it comes again meanwhile
	}
	found, err := p.node.LookupUser(ctx, service+req.Recipient.User)
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		p.answer(req, from, sip.StatusNotFound, "Nowhere In "+p.domain)
		return
	case err != nil:
		p.log.Info("looking for a user", "user", req.Recipient.User, "err", err)
		p.answer(req, from, sip.StatusTemporarilyUnavailable, "The Database Does Not Say")
		return
	}
	p.answer(req, from, sip.StatusMovedTemporarily, "Moved Temporarily", contacts(found, req.Recipient)...)
}

func contacts(found []idloc.UserAt, wanted sip.Uri) (out []sip.Header) {
	slices.SortStableFunc(found, func(a, b idloc.UserAt) int { return cmp.Compare(weight(b.Info), weight(a.Info)) })
	for _, f := range found {
		if f.Peer.Name == "" {
			continue
		}
		c := &sip.ContactHeader{Address: sip.Uri{Scheme: "sip", User: wanted.User, Host: f.Peer.Name}, Params: sip.NewParams()}
		c.Params.Add("q", quality(weight(f.Info)))
		out = append(out, c)
	}
	return out
}

// weight is the q in what a node has said of a user, in thousandths; 1000 where it has said
// none.
func weight(info string) int {
	text, ok := strings.CutPrefix(info, "q=")
	q, err := strconv.ParseFloat(text, 64)
	if !ok || err != nil || !(q >= 0 && q <= 1) {
		return 1000
	}
	return int(q*1000 + 0.5)
}

// quality is a weight as q is written (RFC 3261 §25.1).
func quality(thousandths int) string {
	return strconv.FormatFloat(float64(thousandths)/1000, 'g', 4, 64)
}
