package nat

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// ICEServer is a STUN or TURN server beyond the members, as Config.ICEServers
// names it (RFC 7064, RFC 7065):
//
//	stun:host[:port]
//	turn:[user:password@]host[:port][?transport=udp|tcp][&username=…&credential=…]
//	turns:…                                        the same over TLS
//
// The RFCs leave credentials out; here they stand before the host or in the
// query, percent-encoded where they contain a character that means something.
// An IPv6 address stands in brackets. Ports are 3478, with TLS 5349.
type ICEServer struct {
	TURN           bool // else STUN
	TCP, TLS       bool // how the server is reached: over UDP if neither
	Host           string
	Port           uint16
	User, Password string
}

const (
	stunPort  = 3478
	stunsPort = 5349
)

// ErrSlashes is what ParseICEServer says of a URL that has // behind its scheme.
var ErrSlashes = errors.New("no // stands in such a URL (RFC 7064, RFC 7065)")

// ParseICEServer reads one element of Config.ICEServers. Errors do not repeat
// the password. stuns: is errors.ErrUnsupported: over TLS a server sees the
// mapping of a TCP connection, and all that is asked of it here is that of the
// UDP port.
func ParseICEServer(text string) (ICEServer, error) {
	scheme, rest, _ := strings.Cut(text, ":")
	scheme = strings.ToLower(scheme)
	var s ICEServer
	fail := func(err error) (ICEServer, error) {
		return ICEServer{}, fmt.Errorf("ICE server %q: %w", redact(text), err)
	}
	switch scheme {
	case "stun":
		s.Port = stunPort
	case "turn":
		s.TURN, s.Port = true, stunPort
	case "turns":
		s.TURN, s.TCP, s.TLS, s.Port = true, true, true, stunsPort
	case "stuns":
		return fail(fmt.Errorf("STUN over TLS cannot see what a UDP port is mapped to: %w", errors.ErrUnsupported))
	default:
		return fail(errors.New("want stun:host:port, turn:user:password@host:port or turns:…"))
	}
	if strings.HasPrefix(rest, "//") {
		return fail(fmt.Errorf("%w: write %s", ErrSlashes, redact(scheme+":"+strings.TrimLeft(rest, "/"))))
	}
	rest, query, _ := strings.Cut(rest, "?")
	q, err := url.ParseQuery(query)
	if err != nil {
		return fail(errors.New("malformed query"))
	}
	if rest, err = s.userInfo(rest); err != nil {
		return fail(err)
	}
	for key, values := range q {
		if err := s.parameter(key, values[len(values)-1]); err != nil {
			return fail(err)
		}
	}
	if s.Host, err = s.hostPort(rest); err != nil {
		return fail(err)
	}
	switch {
	case s.TURN && (s.User == "" || s.Password == ""):
		return fail(errors.New("a TURN server wants a user and a password: turn:user:password@host:port"))
	case !s.TURN && (s.User != "" || s.Password != ""):
		return fail(errors.New("a STUN server takes no credentials"))
	}
	return s, nil
}

// userInfo reads "user:password@" and returns the rest.
func (s *ICEServer) userInfo(text string) (rest string, err error) {
	i := strings.LastIndexByte(text, '@')
	if i < 0 {
		return text, nil
	}
	user, password, _ := strings.Cut(text[:i], ":")
	var errs [2]error
	s.User, errs[0] = url.PathUnescape(user)
	s.Password, errs[1] = url.PathUnescape(password)
	if errors.Join(errs[:]...) != nil {
		return "", errors.New("malformed percent-encoding in the credentials")
	}
	return text[i+1:], nil
}

// parameter takes one of the query.
func (s *ICEServer) parameter(key, value string) error {
	switch key {
	case "username":
		s.User = value
	case "credential", "password":
		s.Password = value
	case "transport":
		switch {
		case value == "udp" && s.TLS:
			return fmt.Errorf("TURN over DTLS: %w", errors.ErrUnsupported)
		case value == "tcp" && s.TURN:
			s.TCP = true
		case value != "udp":
			return fmt.Errorf("transport %q", value)
		}
	default:
		return fmt.Errorf("unknown parameter %q", key)
	}
	return nil
}

// hostPort reads "host", "host:port" or "[v6]:port" and returns the host.
func (s *ICEServer) hostPort(text string) (host string, err error) {
	host = text
	if n := len(text); n > 2 && text[0] == '[' && text[n-1] == ']' {
		host = text[1 : n-1]
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return host, nil
	}
	host = text
	if strings.Contains(text, ":") {
		var port string
		if host, port, err = net.SplitHostPort(text); err != nil {
			return "", errors.New("malformed host and port")
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return "", fmt.Errorf("port %q", port)
		}
		s.Port = uint16(n)
	}
	if _, err := netip.ParseAddr(host); err != nil && (host == "" || strings.ContainsAny(host, "/ @:[]%?#")) {
		return "", errors.New("no host")
	}
	return host, nil
}

// redact leaves the credentials out of a URL.
func redact(text string) string {
	head, query, asked := strings.Cut(text, "?")
	if scheme, rest, ok := strings.Cut(head, ":"); ok {
		if i := strings.LastIndexByte(rest, '@'); i >= 0 {
			head = scheme + ":…@" + rest[i+1:]
		}
	}
	if asked && strings.Contains(query, "credential") || strings.Contains(query, "password") || strings.Contains(query, "username") {
		return head + "?…"
	}
	if asked {
		head += "?" + query
	}
	return head
}

// String is the URL without credentials.
func (s ICEServer) String() string {
	scheme, tail := "stun", ""
	if s.TURN {
		scheme = "turn"
	}
	switch {
	case s.TLS:
		scheme = "turns"
	case s.TCP:
		tail = "?transport=tcp"
	}
	return scheme + ":" + net.JoinHostPort(s.Host, strconv.Itoa(int(s.Port))) + tail
}

// resolve returns the server's addresses. A host that is a name is looked up
// in the system's DNS, each time: the user has named a server outside of the
// overlay, and its address may change.
func (s ICEServer) resolve(ctx context.Context) ([]netip.AddrPort, error) {
	if ip, err := netip.ParseAddr(s.Host); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(ip.Unmap(), s.Port)}, nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", s.Host)
	if err != nil {
		return nil, err
	}
	var out []netip.AddrPort
	for _, ip := range ips {
		out = append(out, netip.AddrPortFrom(ip.Unmap(), s.Port))
	}
	return out, nil
}

// ParseICEServers reads all of Config.ICEServers.
func ParseICEServers(texts []string) ([]ICEServer, error) {
	var out []ICEServer
	for _, t := range texts {
		s, err := ParseICEServer(t)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// STUNServers are the addresses of all servers that answer STUN over UDP:
// TURN servers do (RFC 8656 §1). What cannot be looked up is left out.
func STUNServers(ctx context.Context, servers []ICEServer) []netip.AddrPort {
	var out []netip.AddrPort
	for _, s := range servers {
		if s.TCP {
			continue
		}
		if addrs, err := s.resolve(ctx); err == nil {
			out = append(out, addrs...)
		}
	}
	return out
}
