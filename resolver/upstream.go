package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// tryTimeout is how long one upstream server has before the next is asked.
const tryTimeout = 1500 * time.Millisecond

var errMismatch = errors.New("answer does not match the question")

// Static is a Config.Upstream of fixed servers.
func Static(servers ...netip.AddrPort) func() []netip.AddrPort {
	return func() []netip.AddrPort { return servers }
}

// upstreams returns the servers to ask, without ourselves: the host may have
// been told to ask this very server, at its LSI or at a socket of it.
func (s *Server) upstreams() []netip.AddrPort {
	all := s.cfg.Upstream()
	out := make([]netip.AddrPort, 0, len(all))
	for _, ap := range all {
		if ap.IsValid() && ap.Port() != 0 && !s.isLSI(ap.Addr()) && !s.isSelf(ap) {
			out = append(out, ap)
		}
	}
	return out
}

// isLSI says whether ip lies in a prefix of LSIs.
func (s *Server) isLSI(ip netip.Addr) bool {
	ip = ip.Unmap().WithZone("")
	for _, p := range s.cfg.Prefixes {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

// isSelf says whether ap is a socket that we read from.
func (s *Server) isSelf(ap netip.AddrPort) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.socks {
		var own netip.AddrPort
		switch a := a.(type) {
		case *net.UDPAddr:
			own = a.AddrPort()
		case *net.TCPAddr:
			own = a.AddrPort()
		}
		if own.Port() == ap.Port() && (own.Addr().Unmap() == ap.Addr().Unmap() ||
			own.Addr().IsUnspecified() && ap.Addr().Unmap().IsLoopback()) {
			return true
		}
	}
	return false
}

// forward answers from upstream.
func (s *Server) forward(ctx context.Context, a, q *dns.Msg) *dns.Msg {
	servers := s.upstreams()
	if len(servers) == 0 {
		a.Rcode = dns.RcodeRefused
		addEDNS(a, q, &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeNotAuthoritative, ExtraText: "no DNS server for names outside the overlay"})
		return a
	}
	in, err := s.outside.ask(ctx, s, servers, q)
	if err != nil {
		s.cfg.Logger.Debug("upstream DNS failed", "err", err)
		a.Rcode = dns.RcodeServerFailure
		addEDNS(a, q, &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeNetworkError, ExtraText: "no DNS server outside answers: " + clip(err.Error())})
		return a
	}
	s.accept(a, in)
	addEDNS(a, q, nil)
	return a
}

// inquiries are the questions that upstream is being asked. Who asks for the
// same at the same time shares the answer: guessing it does not get easier
// (RFC 5452 §5), and where the host's own DNS server asks us in turn, for
// names outside the overlay too, a question goes round once and not for ever.
type inquiries struct {
	mu   sync.Mutex
	open map[question]*inquiry
}

// question is what makes the answers of upstream the same.
type question struct {
	dns.Question          // with the name in lower case
	do, checking, ad bool // EDNS's DO, and the bits CD and AD
}

// inquiry is one of them. The results are set before done is closed, and not
// changed afterwards.
type inquiry struct {
	done chan struct{}
	in   *dns.Msg
	err  error
}

// ask asks the servers, or waits for who asks them already. The answer is
// shared: not to be changed. The caller holds s.work.
func (is *inquiries) ask(ctx context.Context, s *Server, servers []netip.AddrPort, q *dns.Msg) (*dns.Msg, error) {
	key := question{Question: q.Question[0], checking: q.CheckingDisabled, ad: q.AuthenticatedData}
	key.Name = dns.CanonicalName(key.Name)
	if opt := q.IsEdns0(); opt != nil {
		key.do = opt.Do()
	}
	is.mu.Lock()
	i := is.open[key]
	if i == nil {
		if len(is.open) >= maxFlights {
			is.mu.Unlock()
			return nil, errBusy
		}
		if is.open == nil {
			is.open = make(map[question]*inquiry)
		}
		q = q.Copy() // the caller may give up before the servers do
		i = &inquiry{done: make(chan struct{})}
		is.open[key] = i
		s.work.Add(1) // the caller's own keeps it above zero
		go func() {
			defer s.work.Done()
			ctx, cancel := context.WithTimeout(s.context, s.cfg.Timeout)
			defer cancel()
			i.in, i.err = s.askEach(ctx, servers, q)
			is.mu.Lock()
			delete(is.open, key)
			is.mu.Unlock()
			close(i.done)
		}()
	}
	is.mu.Unlock()
	select {
	case <-i.done:
		return i.in, i.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// askEach asks each server in turn until one gives an answer that is about
// the name, not about the server.
func (s *Server) askEach(ctx context.Context, servers []netip.AddrPort, q *dns.Msg) (*dns.Msg, error) {
	var last error
	for _, server := range servers {
		in, err := s.exchange(ctx, server, q)
		if err == nil && in.Rcode != dns.RcodeSuccess && in.Rcode != dns.RcodeNameError {
			err = fmt.Errorf("%v: %s", server, dns.RcodeToString[in.Rcode])
		}
		if err != nil {
			last = err
			if ctx.Err() != nil {
				break
			}
			continue
		}
		return in, nil
	}
	return nil, last
}

// exchange asks one server, by UDP and, if the answer was cut, by TCP.
func (s *Server) exchange(ctx context.Context, server netip.AddrPort, q *dns.Msg) (*dns.Msg, error) {
	// A message of our own: a random ID, and nothing of the client's but the
	// question and whether it wants DNSSEC.
	m := new(dns.Msg)
	m.Id = dns.Id()
	m.RecursionDesired = true
	m.CheckingDisabled = q.CheckingDisabled
	m.AuthenticatedData = q.AuthenticatedData
	m.Question = append([]dns.Question(nil), q.Question...)
	opt := q.IsEdns0()
	m.SetEdns0(udpSize, opt != nil && opt.Do())
	raw, err := m.Pack()
	if err != nil {
		return nil, err
	}
	in, err := s.exchangeOn(ctx, "udp", server, m, raw)
	if err == nil && in.Truncated {
		if full, err := s.exchangeOn(ctx, "tcp", server, m, raw); err == nil {
			return full, nil
		}
	}
	return in, err
}

// exchangeOn sends m, packed as raw, and waits for the answer to it.
func (s *Server) exchangeOn(ctx context.Context, network string, server netip.AddrPort, m *dns.Msg, raw []byte) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	// The socket is new for each question, so that its port is random too
	// (RFC 5452 §9.2), and connected, so that only the server can answer.
	c, err := s.cfg.Dial(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if network == "tcp" {
		raw = frame(raw)
	}
	if _, err := c.Write(raw); err != nil {
		return nil, err
	}
	b := make([]byte, dns.MaxMsgSize)
	for {
		n, err := readMessage(c, network, b)
		if err != nil {
			return nil, err
		}
		in := new(dns.Msg)
		if err := in.Unpack(b[:n]); err == nil && matches(m, in) {
			return in, nil
		}
		if network == "tcp" {
			return nil, fmt.Errorf("%v: %w", server, errMismatch)
		}
		// Over UDP it may be somebody's guess: the true one may yet come.
	}
}

func readMessage(c net.Conn, network string, b []byte) (int, error) {
	if network != "tcp" {
		return c.Read(b)
	}
	if _, err := io.ReadFull(c, b[:2]); err != nil {
		return 0, err
	}
	return io.ReadFull(c, b[:binary.BigEndian.Uint16(b)])
}

// matches says whether in answers m (RFC 5452 §9.1).
func matches(m, in *dns.Msg) bool {
	return in.Response && in.Id == m.Id && in.Opcode == m.Opcode && len(in.Question) == 1 &&
		in.Question[0].Qtype == m.Question[0].Qtype &&
		in.Question[0].Qclass == m.Question[0].Qclass &&
		strings.EqualFold(in.Question[0].Name, m.Question[0].Name)
}
