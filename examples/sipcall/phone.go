package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/emiago/sipgo"
	"github.com/emiago/sipgo/sip"

	"github.com/idloc/idloc/idloc"
)

// sipgo's logger is one for the process.
func init() { sip.SetDefaultLogger(slog.New(slog.DiscardHandler)) }

// phone is a SIP user agent: sipgo's, on the sockets and the resolver of a
// node. It knows nothing of overlays, and speaks plain client-server SIP.
type phone struct {
	user, host string
	transport  string // "TCP", "TLS" or "UDP"
	port       string
	node       *idloc.Node
	ua         *sipgo.UserAgent
	dialogs    sipgo.DialogUA
	line       *line // nil for UDP
	proxied    bool
	busy       atomic.Bool // who calls is told so
	close      func() error
	wg         sync.WaitGroup

	calls chan *call // those answered
	mu    sync.Mutex
	open  map[string]*call // by dialogue ID, those answered
}

// call is one conversation.
type call struct {
	*stream
	stop context.CancelFunc
	over chan struct{} // closed when the other side has hung up
	once sync.Once

	in  *sipgo.DialogServerSession
	out *sipgo.DialogClientSession
}

// phoneConfig is whose phone one is, and where.
type phoneConfig struct {
	node      *idloc.Node
	user      string
	transport string
	tls       *tls.Config  // of TLS
	wrote     func(string) // told the first line of each message that the phone sends
	// port is that of a phone which has its node's proxy as outbound proxy, "": it has none.
	// Such a phone is as most are: it calls itself by its IPv4 address.
	port string
}

// newPhone makes a phone at the node's own name, or behind its proxy.
func newPhone(c phoneConfig) (*phone, error) {
	node, user, transport, conf, wrote := c.node, c.user, c.transport, c.tls, c.wrote
	p := &phone{user: user, host: node.Name(), transport: transport, node: node, calls: make(chan *call, 1), open: map[string]*call{}}
	p.port = strconv.Itoa(sip.DefaultPort(sip.NetworkToLower(transport)))
	if c.port != "" {
		lsi, _ := node.LSIs()
		p.host, p.port, p.proxied = lsi.String(), c.port, true
	}
	var err error
	p.ua, err = sipgo.NewUA(sipgo.WithUserAgent(user), sipgo.WithUserAgentHostname(p.host), sipgo.WithUserAgentDNSResolver(node.Resolver()))
	if err != nil {
		return nil, err
	}
	server, err := sipgo.NewServer(p.ua)
	if err != nil {
		return nil, err
	}
	server.OnInvite(p.ring)
	server.OnAck(p.ack)
	server.OnBye(p.bye)

	options := []sipgo.ClientOption{sipgo.WithClientHostname(p.host)}
	var serve func() error
	var sock interface{ Close() error }
	switch transport {
	case "UDP":
		pc, err := node.ListenPacket("udp4", net.JoinHostPort(p.host, p.port))
		if err != nil {
			return nil, err
		}
		sock, serve = pc, func() error { return server.ServeUDP(&tappedPackets{pc, wrote}) }
		options = append(options, sipgo.WithClientConnectionAddr(pc.LocalAddr().String()))
	case "TCP":
		conf = nil
		fallthrough
	case "TLS":
		if p.line, err = newLine(node, p.port, conf, wrote); err != nil {
			return nil, err
		}
		sock, serve = p.line, func() error { return server.ServeTCP(p.line) }
		if transport == "TLS" {
			serve = func() error { return server.ServeTLS(p.line) }
		}
	default:
		return nil, fmt.Errorf("transport %q is none of TCP, TLS and UDP", transport)
	}
	client, err := sipgo.NewClient(p.ua, options...)
	if err != nil {
		sock.Close()
		return nil, err
	}
	port, _ := strconv.Atoi(p.port)
	contact := sip.Uri{Scheme: p.scheme(), User: user, Host: p.host, Port: port, UriParams: sip.NewParams()}
	contact.UriParams.Add("transport", sip.NetworkToLower(transport))
	p.dialogs = sipgo.DialogUA{Client: client, ContactHDR: sip.ContactHeader{Address: contact}, RewriteContact: true}
	p.close = sync.OnceValue(func() error {
		err := errors.Join(sock.Close(), p.ua.Close())
		p.wg.Wait()
		return err
	})
	p.wg.Go(func() { serve() }) // until Close
	return p, nil
}

func (p *phone) Close() error { return p.close() }

// scheme is that of the phone's address: sips is for TLS all the way.
func (p *phone) scheme() string {
	if p.transport == "TLS" {
		return "sips"
	}
	return "sip"
}

// sound opens a socket for a call's media.
func (p *phone) sound() (net.PacketConn, []byte, error) {
	pc, err := p.node.ListenPacket("udp4", net.JoinHostPort(p.host, "0"))
	if err != nil {
		return nil, nil, err
	}
	body, err := describe(p.host, pc.LocalAddr().(*net.UDPAddr).Port)
	if err != nil {
		pc.Close()
		return nil, nil, err
	}
	return pc, body, nil
}

// dial calls an address such as sip:fred@mars.example.com. It returns when
// the other has answered. Where it is sent elsewhere it calls there, one after the
// other (RFC 3261 §8.1.3.4).
func (p *phone) dial(ctx context.Context, address string) (*call, error) {
	var to sip.Uri
	if err := sip.ParseUri(address, &to); err != nil {
		return nil, err
	}
	c, err := p.call(ctx, address, to)
	var answer *sipgo.ErrDialogResponse
	if !errors.As(err, &answer) || answer.Res.StatusCode != sip.StatusMovedTemporarily {
		return c, err
	}
	for _, h := range answer.Res.GetHeaders("Contact") {
		if there, ok := h.(*sip.ContactHeader); ok {
			if c, err = p.call(ctx, there.Address.String(), there.Address); err == nil {
				return c, nil
			}
		}
	}
	return nil, err
}

func (p *phone) call(ctx context.Context, address string, to sip.Uri) (*call, error) {
	pc, offer, err := p.sound()
	if err != nil {
		return nil, err
	}
	c, err := p.invite(ctx, to, pc, offer)
	if err != nil {
		pc.Close()
		return nil, fmt.Errorf("calling %s: %w", address, err)
	}
	return c, nil
}

func (p *phone) invite(ctx context.Context, to sip.Uri, pc net.PacketConn, offer []byte) (*call, error) {
	if p.line != nil {
		if err := p.line.dial(ctx, to.Host, p.port); err != nil {
			return nil, err
		}
	}
	req := sip.NewRequest(sip.INVITE, to)
	req.SetTransport(p.transport)
	req.SetBody(offer)
	req.AppendHeader(sip.NewHeader("Content-Type", "application/sdp"))
	p.route(req)
	dialog, err := p.dialogs.WriteInvite(ctx, req)
	if err != nil {
		return nil, err
	}
	if err := dialog.WaitAnswer(ctx, sipgo.AnswerOptions{}); err != nil {
		return nil, err
	}
	at, err := mediaAddress(ctx, p.node, dialog.InviteResponse.Body())
	if err := errors.Join(err, dialog.Ack(ctx)); err != nil {
		return nil, err
	}
	c := newCall(pc, at)
	c.out = dialog
	return c, nil
}

// route has a request go through the phone's proxy, if it has one.
func (p *phone) route(req *sip.Request) {
	if p.proxied {
		req.AppendHeader(sip.NewHeader("Route", "<sip:"+p.node.Name()+";lr>"))
	}
}

// register tells the phone's proxy that it is sip:user@example.com, or with expires=0 that
// it is no more. params go to its Contact.
func (p *phone) register(ctx context.Context, params string) error {
	return p.registerAs(ctx, p.user, params)
}

func (p *phone) registerAs(ctx context.Context, user, params string) error {
	_, domain, _ := strings.Cut(p.node.Name(), ".")
	req := sip.NewRequest(sip.REGISTER, sip.Uri{Scheme: "sip", Host: domain})
	aor := sip.Uri{Scheme: "sip", User: user, Host: domain}
	from := &sip.FromHeader{Address: aor, Params: sip.NewParams()}
	from.Params.Add("tag", sip.GenerateTagN(8))
	req.AppendHeader(from)
	req.AppendHeader(&sip.ToHeader{Address: aor})
	contact := p.dialogs.ContactHDR.Address
	req.AppendHeader(sip.NewHeader("Contact", "<"+contact.String()+">"+params))
	req.SetTransport(p.transport)
	p.route(req)
	res, err := p.dialogs.Client.Do(ctx, req)
	if err != nil {
		return err
	}
	if !res.IsSuccess() {
		return &sipgo.ErrDialogResponse{Res: res}
	}
	return nil
}

func newCall(pc net.PacketConn, to *net.UDPAddr) *call {
	ctx, stop := context.WithCancel(context.Background())
	return &call{stream: talk(ctx, pc, to), stop: stop, over: make(chan struct{})}
}

// end stops the sound.
func (c *call) end() {
	c.stop()
	c.stream.end()
}

// hangUp ends a call that this phone has made.
func (c *call) hangUp(ctx context.Context) error {
	defer c.out.Close()
	return c.out.Bye(ctx)
}

// ring is an INVITE: the phone rings and its owner answers at once.
func (p *phone) ring(req *sip.Request, tx sip.ServerTransaction) {
	dialog, err := p.dialogs.ReadInvite(req, tx)
	if err != nil {
		tx.Respond(sip.NewResponseFromRequest(req, sip.StatusBadRequest, err.Error(), nil))
		return
	}
	if p.busy.Load() {
		dialog.Respond(sip.StatusBusyHere, "Busy Here", nil)
		return
	}
	fail := func(err error) { dialog.Respond(sip.StatusInternalServerError, err.Error(), nil) }
	if err := dialog.Respond(sip.StatusRinging, "Ringing", nil); err != nil {
		return
	}
	at, err := mediaAddress(dialog.Context(), p.node, req.Body())
	if err != nil {
		fail(err)
		return
	}
	pc, answer, err := p.sound()
	if err != nil {
		fail(err)
		return
	}
	c := newCall(pc, at)
	c.in = dialog
	p.mu.Lock()
	p.open[dialog.ID] = c
	p.mu.Unlock()
	if err := dialog.RespondSDP(answer); err != nil { // returns after the ACK
		c.hungUp()
		c.end()
		return
	}
	p.calls <- c
}

// of finds the call that a request belongs to.
func (p *phone) of(req *sip.Request) *call {
	id, err := sip.DialogIDFromRequestUAS(req)
	if err != nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open[id]
}

func (p *phone) ack(req *sip.Request, tx sip.ServerTransaction) {
	if c := p.of(req); c != nil {
		c.in.ReadAck(req, tx)
	}
}

func (p *phone) bye(req *sip.Request, tx sip.ServerTransaction) {
	c := p.of(req)
	if c == nil {
		tx.Respond(sip.NewResponseFromRequest(req, sip.StatusCallTransactionDoesNotExists, "No such call", nil))
		return
	}
	c.in.ReadBye(req, tx)
	c.hungUp()
}

func (c *call) hungUp() { c.once.Do(func() { close(c.over) }) }
