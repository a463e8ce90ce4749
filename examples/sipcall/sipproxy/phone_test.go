package sipproxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emiago/sipgo/sip"
	"github.com/pion/sdp/v3"

	"github.com/idloc/idloc/idloc/idloctest"
)

// patient bounds a test's waits, on a machine that does a lot else.
const patient = time.Minute

// testPhone is a phone as most are: it knows its own IPv4 address, puts that into all that
// it says, and believes the addresses that it is told.
type testPhone struct {
	t     *testing.T
	user  string
	proxy net.Addr
	self  netip.AddrPort // where it listens
	pc    net.PacketConn
	sound net.PacketConn

	requests  chan *sip.Request
	responses chan *sip.Response
	wg        sync.WaitGroup
	n         int // requests sent
}

// newTestPhone is a phone on a node's host, at a port.
func newTestPhone(t *testing.T, node *idloctest.Node, user string, port uint16) *testPhone {
	t.Helper()
	lsi, _ := node.LSIs()
	p := &testPhone{
		t: t, user: user, self: netip.AddrPortFrom(lsi, port), proxy: net.UDPAddrFromAddrPort(netip.AddrPortFrom(lsi, defaultPort)),
		requests: make(chan *sip.Request, 100), responses: make(chan *sip.Response, 100),
	}
	var err error
	if p.pc, err = node.ListenPacket("udp4", p.self.String()); err != nil {
		t.Fatal(err)
	}
	if p.sound, err = node.ListenPacket("udp4", netip.AddrPortFrom(lsi, port+1000).String()); err != nil {
		t.Fatal(err)
	}
	p.wg.Go(p.read)
	t.Cleanup(func() {
		p.pc.Close()
		p.sound.Close()
		p.wg.Wait()
	})
	return p
}

func (p *testPhone) read() {
	b := make([]byte, maxDatagram)
	for {
		n, _, err := p.pc.ReadFrom(b)
		if err != nil {
			return
		}
		m, err := sip.ParseMessage(b[:n])
		if err != nil {
			p.t.Errorf("%s reads %q: %v", p.user, b[:n], err)
			return
		}
		switch m := m.(type) {
		case *sip.Request:
			p.requests <- m
		case *sip.Response:
			if m.StatusCode >= 200 {
				p.responses <- m
			}
		}
	}
}

func (p *testPhone) write(m string, to net.Addr) {
	p.t.Helper()
	if _, err := p.pc.WriteTo([]byte(m), to); err != nil {
		p.t.Fatal(err)
	}
}

// uri is the phone's own Contact.
func (p *testPhone) uri() string { return fmt.Sprintf("<sip:%s@%v>", p.user, p.self) }

// text is a request; more are whole lines.
func (p *testPhone) text(method, uri, to, body string, more ...string) string {
	p.n++
	lines := []string{
		fmt.Sprintf("%s %s SIP/2.0", method, uri),
		fmt.Sprintf("Via: SIP/2.0/UDP %v;branch=z9hG4bK%s%d;rport", p.self, p.user, p.n),
		fmt.Sprintf("From: <sip:%s@example.com>;tag=%s", p.user, p.user), "To: " + to,
		"Call-ID: call-of-" + p.user, fmt.Sprintf("CSeq: %d %s", p.n, method), "Max-Forwards: 70",
	}
	lines = append(lines, more...)
	if body != "" {
		lines = append(lines, "Content-Type: application/sdp")
	}
	return strings.Join(append(lines, fmt.Sprintf("Content-Length: %d", len(body)), "", body), "\r\n")
}

// ask sends a request to the proxy and returns the final answer.
func (p *testPhone) ask(ctx context.Context, method, uri, to, body string, more ...string) *sip.Response {
	p.t.Helper()
	return p.exchange(ctx, p.text(method, uri, to, body, more...), p.proxy)
}

// exchange sends a request until there is an answer: the first packet to another member
// may be lost.
func (p *testPhone) exchange(ctx context.Context, text string, to net.Addr) *sip.Response {
	p.t.Helper()
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for {
		p.write(text, to)
		select {
		case res := <-p.responses:
			if !strings.Contains(text, "branch="+param(res.Via().Params, "branch")) {
				continue // to an earlier one, again
			}
			return res
		case <-again.C:
		case <-ctx.Done():
			p.t.Fatalf("%s has no answer to %q", p.user, text)
		}
	}
}

func param(p sip.HeaderParams, name string) string {
	v, _ := p.Get(name)
	return v
}

func (p *testPhone) register(ctx context.Context, more ...string) *sip.Response {
	p.t.Helper()
	aor := fmt.Sprintf("<sip:%s@example.com>", p.user)
	return p.ask(ctx, "REGISTER", "sip:example.com", aor, "", more...)
}

// contact is the Contact line of a REGISTER.
func (p *testPhone) contact(params string) string { return "Contact: " + p.uri() + params }

// description is the phone's SDP.
func (p *testPhone) description() string {
	port := netip.MustParseAddrPort(p.sound.LocalAddr().String()).Port()
	return fmt.Sprintf("v=0\r\no=- 1 1 IN IP4 %[1]v\r\ns=-\r\nc=IN IP4 %[1]v\r\nt=0 0\r\nm=audio %[2]d RTP/AVP 0\r\na=rtcp:%[2]d IN IP4 %[1]v\r\n", p.self.Addr(), port)
}

// next is the next request that comes, of a method; others are left out.
func (p *testPhone) next(ctx context.Context, method sip.RequestMethod) *sip.Request {
	p.t.Helper()
	for {
		select {
		case req := <-p.requests:
			if req.Method == method {
				return req
			}
		case <-ctx.Done():
			p.t.Fatalf("no %s comes to %s", method, p.user)
		}
	}
}

// answer accepts a call.
func (p *testPhone) answer(req *sip.Request) {
	p.t.Helper()
	res := sip.NewResponseFromRequest(req, 200, "OK", []byte(p.description()))
	res.To().Params.Add("tag", p.user)
	var contact sip.ContactHeader
	if _, err := sip.ParseAddressValue(p.uri(), &contact.Address, &contact.Params); err != nil {
		p.t.Fatal(err)
	}
	res.AppendHeader(&contact)
	res.AppendHeader(sip.NewHeader("Content-Type", "application/sdp"))
	p.write(res.String(), p.proxy)
}

// ok answers a request within a call.
func (p *testPhone) ok(req *sip.Request) {
	p.t.Helper()
	p.write(sip.NewResponseFromRequest(req, 200, "OK", nil).String(), p.proxy)
}

// media is where a phone that has read a description sends its sound.
func media(t *testing.T, body []byte) netip.AddrPort {
	t.Helper()
	var d sdp.SessionDescription
	if err := d.Unmarshal(body); err != nil {
		t.Fatal(err)
	}
	a, err := netip.ParseAddr(d.ConnectionInformation.Address.Address)
	if err != nil {
		t.Fatalf("a phone that speaks IPv4 gets %v: %v", d.ConnectionInformation.Address, err)
	}
	if d.Origin.UnicastAddress != a.String() || !strings.Contains(string(body), "IN IP4 "+a.String()+"\r\n") {
		t.Errorf("other addresses in %q", body)
	}
	return netip.AddrPortFrom(a, uint16(d.MediaDescriptions[0].MediaName.Port.Value))
}

// speak sends a word to where the other said it listens, until the other has heard it.
func (p *testPhone) speak(ctx context.Context, to netip.AddrPort, other *testPhone) {
	p.t.Helper()
	word := "sound of " + p.user
	heard := make(chan string, 1)
	go func() {
		b := make([]byte, 100)
		n, _, _ := other.sound.ReadFrom(b)
		heard <- string(b[:n])
	}()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		if _, err := p.sound.WriteTo([]byte(word), net.UDPAddrFromAddrPort(to)); err != nil {
			p.t.Fatal(err)
		}
		select {
		case got := <-heard:
			if got != word {
				p.t.Errorf("%s hears %q", other.user, got)
			}
			return
		case <-again.C:
		case <-ctx.Done():
			other.sound.Close()
			p.t.Fatalf("%s does not hear %s at %v", other.user, p.user, to)
		}
	}
}
