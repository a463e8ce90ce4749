package sipproxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/emiago/sipgo/sip"

	"github.com/idloc/idloc/idloc"
	"github.com/idloc/idloc/idloc/idloctest"
)

// lab is an overlay in which venus, mars and pluto have proxies; mars and pluto may say
// fred, and venus wilma.
type lab struct {
	venus, mars, pluto *idloctest.Node
	proxies            map[string]*Proxy
}

func newLab(t *testing.T) *lab {
	t.Helper()
	sim := idloctest.New(t)
	sim.Node("earth")
	node := func(name string, tags ...string) *idloctest.Node { // as hosts of their own have it, all the same prefix
		return sim.Node(name, idloctest.Invited(idloc.InviteOptions{Name: name, Tags: tags}),
			idloctest.Config(func(c *idloc.Config) { c.LSIPrefix = netip.MustParsePrefix("198.18.0.0/16") }))
	}
	l := &lab{venus: node("venus", "user-wilma"), mars: node("mars", "user-fred"), pluto: node("pluto", "user-fred"), proxies: map[string]*Proxy{}}
	for _, n := range []*idloctest.Node{l.venus, l.mars, l.pluto} {
		p, err := Start(n.Node, Config{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		})
		l.proxies[n.Name()] = p
	}
	return l
}

func waiting(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	t.Cleanup(cancel)
	return ctx
}

// wantCode wants a response with a code.
func wantCode(t *testing.T, what string, res *sip.Response, code int) {
	t.Helper()
	if res.StatusCode != code {
		t.Errorf("%s: %d %s, want %d", what, res.StatusCode, res.Reason, code)
	}
}

// moved are the Contacts of a response.
func moved(res *sip.Response) (out []string) {
	for _, h := range res.GetHeaders("Contact") {
		out = append(out, h.Value())
	}
	return out
}

// TestCall: fred is called by sip:fred@example.com. Both phones speak IPv4, each has the
// address 198.18.0.1 on its own host, and both hear the other; each can end the call.
func TestCall(t *testing.T) {
	t.Parallel()
	l, ctx := newLab(t), waiting(t)
	wilma, fred := newTestPhone(t, l.venus, "wilma", 5070), newTestPhone(t, l.mars, "fred", 5070)
	if wilma.self != fred.self {
		t.Errorf("%v and %v: two hosts have different LSIs, which shows less", wilma.self, fred.self)
	}
	wantCode(t, "fred registers", fred.register(ctx, fred.contact("")), 200)

	res := wilma.ask(ctx, "INVITE", "sip:fred@example.com", "<sip:fred@example.com>", wilma.description(), wilma.contact(""))
	wantCode(t, "the address of record", res, 302)
	if got := moved(res); len(got) != 1 || got[0] != "<sip:fred@mars.example.com>;q=1" {
		t.Fatalf("fred is at %q", got)
	}
	wilma.write(wilma.text("ACK", "sip:fred@example.com", res.To().Value(), ""), wilma.proxy)

	done := make(chan *sip.Response, 1)
	go func() {
		done <- wilma.ask(ctx, "INVITE", "sip:fred@mars.example.com", "<sip:fred@example.com>", wilma.description(), wilma.contact(""))
	}()
	invite := fred.next(ctx, sip.INVITE)
	toWilma := media(t, invite.Body())
	fred.answer(invite)
	res = <-done
	wantCode(t, "fred's phone answers", res, 200)
	toFred := media(t, res.Body())
	wilma.speak(ctx, toFred, fred)
	fred.speak(ctx, toWilma, wilma)
	if toFred.Addr() == wilma.self.Addr() || res.Contact().Address.Host != toFred.Addr().String() || invite.Contact().Address.Host != toWilma.Addr().String() {
		t.Errorf("wilma calls %v, and sends sound to %v; fred calls %v", res.Contact(), toFred, invite.Contact())
	}

	// Each side ends it by what it was told: the Contact, and the routes in its order.
	routes := func(m message, forward bool) (lines []string) {
		for _, h := range m.Headers() {
			if r, ok := h.(*sip.RecordRouteHeader); ok {
				lines = append(lines, "Route: "+r.Value())
			}
		}
		if !forward {
			slices.Reverse(lines)
		}
		return lines
	}
	if got := routes(res, false); len(got) != 2 || !strings.Contains(got[0], wilma.self.Addr().String()+";lr") {
		t.Errorf("wilma's route is %q", got)
	}
	wilma.write(wilma.text("ACK", res.Contact().Address.String(), res.To().Value(), "", routes(res, false)...), wilma.proxy)
	fred.next(ctx, sip.ACK)
	go func() { wilma.ok(wilma.next(ctx, sip.BYE)) }()
	wantCode(t, "fred hangs up", fred.ask(ctx, "BYE", invite.Contact().Address.String(), invite.From().Value(), "", routes(invite, true)...), 200)
	go func() { fred.ok(fred.next(ctx, sip.BYE)) }()
	wantCode(t, "wilma as well", wilma.ask(ctx, "BYE", res.Contact().Address.String(), res.To().Value(), "", routes(res, false)...), 200)
}

// TestMoves: the next call goes to where fred has registered last, or is; several phones
// are told by their q; and when he is nowhere that is said.
func TestMoves(t *testing.T) {
	t.Parallel()
	l, ctx := newLab(t), waiting(t)
	wilma, atMars, atPluto := newTestPhone(t, l.venus, "wilma", 5070), newTestPhone(t, l.mars, "fred", 5070), newTestPhone(t, l.pluto, "fred", 5080)
	second := newTestPhone(t, l.mars, "fred", 5090)
	where := func(what string, want ...string) {
		t.Helper()
		res := wilma.ask(ctx, "INVITE", "sip:fred@example.com", "<sip:fred@example.com>", wilma.description(), wilma.contact(""))
		if len(want) == 0 {
			wantCode(t, what, res, 404)
			return
		}
		wantCode(t, what, res, 302)
		if got := moved(res); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	register := func(p *testPhone, params string) {
		t.Helper()
		wantCode(t, "register "+params, p.register(ctx, p.contact(params)), 200)
	}
	const mars, pluto = "<sip:fred@mars.example.com>", "<sip:fred@pluto.example.com>"
	where("before he registers")
	register(atMars, "")
	where("at mars", mars+";q=1")
	register(atPluto, "")
	where("two phones: the newest first", pluto+";q=1", mars+";q=1")
	register(atMars, ";expires=0")
	where("moved to pluto", pluto+";q=1")
	register(atMars, ";q=0.7")
	register(atPluto, ";q=0.25;expires=600")
	where("by q", mars+";q=0.7", pluto+";q=0.25")
	register(second, ";q=0.9")
	where("two at mars", mars+";q=0.9", pluto+";q=0.25")
	if b, ok := l.proxies["mars.example.com"].registrar.find("fred"); !ok || b.at != second.self {
		t.Errorf("%v rings", b)
	}
	res := atMars.register(ctx)
	wantCode(t, "asking who has registered", res, 200)
	if got := moved(res); len(got) != 2 || !strings.Contains(got[0], ":5070>;expires=3600;q=0.7") {
		t.Errorf("registered at mars are %q", got)
	}
	wantCode(t, "all at mars", atMars.register(ctx, "Contact: *", "Expires: 0"), 200)
	where("none at mars", pluto+";q=0.25")
	register(atPluto, ";expires=0")
	where("unregistered")

	_, srv, err := l.mars.Resolver().LookupSRV(ctx, "sip", "udp", "example.com")
	if err != nil || fmt.Sprint(srv[0].Target, srv[0].Port) != "mars.example.com.5060" {
		t.Errorf("the server of example.com is %v, %v", srv, err)
	}
}

// TestAttacks: what a phone may not, and what another member may not ask of a node.
func TestAttacks(t *testing.T) {
	t.Parallel()
	l, ctx := newLab(t), waiting(t)
	wilma, fred := newTestPhone(t, l.venus, "wilma", 5070), newTestPhone(t, l.mars, "fred", 5070)
	wantCode(t, "fred registers", fred.register(ctx, fred.contact("")), 200)
	thief := newTestPhone(t, l.venus, "fred", 5099)
	wantCode(t, "somebody else's name", thief.register(ctx, thief.contact("")), 403)
	wantCode(t, "a name that is none", newTestPhone(t, l.mars, "Fred", 5098).register(ctx, "Contact: <sip:x@192.0.2.1>"), 403)
	wantCode(t, "of another domain", fred.ask(ctx, "REGISTER", "sip:example.com", "<sip:fred@example.org>", ""), 404)
	wantCode(t, "called all the same", wilma.ask(ctx, "INVITE", "sip:fred@example.com", "<sip:fred@example.com>", "", wilma.contact("")), 302)

	// Venus asks mars' proxy itself.
	at, err := l.venus.Resolver().LookupNetIP(ctx, "ip4", "mars.example.com")
	if err != nil {
		t.Fatal(err)
	}
	mars := net.UDPAddrFromAddrPort(netip.AddrPortFrom(at[0].Unmap(), defaultPort))
	direct := func(method, uri string, more ...string) *sip.Response {
		t.Helper()
		return wilma.exchange(ctx, wilma.text(method, uri, "<sip:fred@example.com>", "", more...), mars)
	}
	wantCode(t, "registers there", direct("REGISTER", "sip:example.com", wilma.contact("")), 403)
	wantCode(t, "is passed on to a third", direct("OPTIONS", "sip:fred@pluto.example.com"), 404)
	wantCode(t, "by a route", direct("OPTIONS", "sip:fred@mars.example.com", "Route: <sip:pluto.example.com;lr>"), 403)
	wantCode(t, "to another program of the host", direct("OPTIONS", "sip:fred@mars.example.com:22"), 404)
	wantCode(t, "to nobody", direct("OPTIONS", "sip:barney@mars.example.com"), 480)
	wantCode(t, "without end", direct("OPTIONS", "sip:fred@mars.example.com", "Max-Forwards: 0"), 483)
	// A response that nobody has asked for, to another program and to a third member.
	for _, to := range []string{"198.18.0.1;received=198.18.0.1;rport=22", "198.18.0.9;received=198.18.0.9;rport=5060"} {
		forged := strings.Replace(wilma.text("OPTIONS", "x", "<sip:fred@example.com>", ""), "OPTIONS x SIP/2.0\r\n",
			"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP mars.example.com;branch=z9hG4bKx\r\nVia: SIP/2.0/UDP "+to+"\r\n", 1)
		wilma.write(forged, mars)
	}
	for _, garbage := range []string{"", "\r\n\r\n", "\x00\x01", "INVITE sip:fred@mars.example.com SIP/2.0\r\n\r\n", "SIP/2.0 200 OK\r\nVia: x\r\n\r\n"} {
		wilma.write(garbage, mars)
	}
	go func() { fred.ok(fred.next(ctx, sip.OPTIONS)) }()
	wantCode(t, "and what it may", direct("OPTIONS", "sip:fred@mars.example.com"), 200)
}
