package sipproxy

import (
	"context"
	"net/netip"
	"strings"

	"github.com/emiago/sipgo/sip"
)

// namesMax bounds how many names are looked up for one message.
const namesMax = 8

// message is a request or a response.
type message interface {
	sip.Message
	Headers() []sip.Header
	GetHeader(name string) sip.Header
}

var (
	_ message = (*sip.Request)(nil)
	_ message = (*sip.Response)(nil)
)

// translator changes the addresses of messages between what they are on this host and
// names, which mean the same everywhere.
type translator struct {
	domain string
	nameOf func(netip.Addr) string                          // "": it is no LSI
	addrOf func(context.Context, string) (netip.Addr, bool) // of a name of the overlay
}

// outward puts names in place of IPv4 LSIs.
func (t *translator) outward(m message) {
	t.change(m, func(host string) string {
		a, err := netip.ParseAddr(host)
		if err != nil || !a.Is4() {
			return host
		}
		if name := t.nameOf(a); name != "" {
			return name
		}
		return host
	})
}

// inward puts the IPv4 LSIs that names of the overlay have on this host in place of them.
func (t *translator) inward(ctx context.Context, m message) {
	known := map[string]string{}
	t.change(m, func(host string) string {
		name := strings.ToLower(host)
		if !strings.HasSuffix(name, "."+t.domain) {
			return host
		}
		if at, ok := known[name]; ok {
			return at
		}
		if len(known) >= namesMax {
			return host
		}
		known[name] = host
		if a, ok := t.addrOf(ctx, name); ok {
			known[name] = a.String()
		}
		return known[name]
	})
}

// change changes the hosts in the places of a message where its receiver reads addresses
// to send something to.
func (t *translator) change(m message, f func(host string) string) {
	if req, ok := m.(*sip.Request); ok {
		req.Recipient.Host = f(req.Recipient.Host)
	}
	for _, h := range m.Headers() {
		switch h := h.(type) {
		case *sip.ContactHeader:
			h.Address.Host = f(h.Address.Host)
		case *sip.RouteHeader:
			h.Address.Host = f(h.Address.Host)
		case *sip.RecordRouteHeader:
			h.Address.Host = f(h.Address.Host)
		}
	}
	if ct, ok := m.GetHeader("Content-Type").(*sip.ContentTypeHeader); ok && isSDP(string(*ct)) {
		m.SetBody([]byte(changeSDP(string(m.Body()), f)))
	}
}

func isSDP(contentType string) bool {
	kind, _, _ := strings.Cut(contentType, ";")
	return strings.EqualFold(strings.TrimSpace(kind), "application/sdp")
}

// changeSDP changes the IPv4 addresses of a session description (RFC 8866 §5.2, §5.7, RFC
// 3605, RFC 8839 §5.1), or the names in their place. All other bytes stay.
func changeSDP(body string, f func(host string) string) string {
	var out strings.Builder
	out.Grow(len(body) + 64)
	for line := range strings.SplitAfterSeq(body, "\n") {
		text := strings.TrimRight(line, "\r\n")
		out.WriteString(changeLine(text, f))
		out.WriteString(line[len(text):])
	}
	return out.String()
}

func changeLine(line string, f func(host string) string) string {
	words := strings.Split(line, " ")
	if strings.HasPrefix(line, "a=candidate:") {
		// foundation component transport priority address port typ ...
		for i, w := range words {
			if i == 4 || i > 5 && words[i-1] == "raddr" {
				words[i] = f(w)
			}
		}
		return strings.Join(words, " ")
	}
	n := len(words)
	if !strings.HasPrefix(line, "c=") && !strings.HasPrefix(line, "o=") && !strings.HasPrefix(line, "a=rtcp:") ||
		n < 3 || words[n-2] != "IP4" || !strings.HasSuffix(words[n-3], "IN") {
		return line
	}
	words[n-1] = f(words[n-1])
	return strings.Join(words, " ")
}
