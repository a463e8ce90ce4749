package carrier

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// The forms of a carrier.
const (
	TLS = "tls" // TLS 1.3 over TCP
	WSS = "wss" // WebSocket over HTTPS
)

// Prefix is where the addresses of carriers are (RFC 6666): no datagram gets there.
var Prefix = netip.MustParsePrefix("100::/64")

// Local is the address of this node as the near end of all its carriers.
var Local = netip.MustParseAddr("100::1")

const (
	dialledBit  = 1 << 62 // in the last 64 bits of the far end of a carrier that this node opens
	acceptedBit = 1 << 63 // of one that was opened to it

	// remotePort is the port of every far end; it means nothing.
	remotePort = 443
	maxHost    = 253
	maxPath    = 128
)

// Address is where a carrier is served: "tls://host:443", "wss://host/path". It is
// comparable; the zero one is none. The host is a name in lower case, or an IP address.
type Address struct {
	Form string // TLS or WSS
	Host string
	Port uint16
	Path string // of WSS, with its slash; "" of TLS
}

var errAddress = errors.New("not tls://host:port or wss://host:port/path")

// ParseAddress reads an address. The port may be left out: it is 443 then.
func ParseAddress(s string) (Address, error) {
	bad := func(why error) (Address, error) { return Address{}, fmt.Errorf("carrier %q: %w", s, why) }
	u, err := url.Parse(s)
	if err != nil {
		return bad(errAddress)
	}
	a := Address{Form: u.Scheme, Host: strings.ToLower(strings.TrimSuffix(u.Hostname(), ".")), Port: 443, Path: u.EscapedPath()}
	if u.Opaque != "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return bad(errAddress)
	}
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return bad(errors.New("the port is not 1 to 65535"))
		}
		a.Port = uint16(n)
	}
	if ip, err := netip.ParseAddr(a.Host); err == nil {
		a.Host = ip.Unmap().WithZone("").String()
	}
	if a.Form == WSS && a.Path == "" {
		a.Path = "/"
	}
	if err := a.check(); err != nil {
		return bad(err)
	}
	return a, nil
}

// check says what is wrong with an address.
func (a Address) check() error {
	switch {
	case a.Form != TLS && a.Form != WSS, a.Port == 0:
		return errAddress
	case a.Form == TLS && a.Path != "" && a.Path != "/", a.Form == WSS && !strings.HasPrefix(a.Path, "/"):
		return errAddress
	case len(a.Path) > maxPath:
		return errors.New("the path is too long")
	}
	if ip, err := netip.ParseAddr(a.Host); err == nil {
		if ip.IsUnspecified() || ip.IsMulticast() || ip.IsLinkLocalUnicast() || ip.Zone() != "" || Prefix.Contains(ip) {
			return errors.New("not the address of a host")
		}
		return nil
	}
	return checkHost(a.Host)
}

// checkHost says what is wrong with the name of a host, in lower case.
func checkHost(host string) error {
	if host == "" || len(host) > maxHost {
		return errors.New("not the name of a host")
	}
	if isNumber(host[strings.LastIndexByte(host, '.')+1:]) {
		return errors.New("neither an IP address nor the name of a host")
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return errors.New("not the name of a host")
		}
	}
	return nil
}

// isNumber says whether the last label of a name is a number: some resolvers, and
// proxies, read "2130706433", "0x7f.1" or "127.1" as IP addresses.
func isNumber(label string) bool {
	hex, ok := strings.CutPrefix(label, "0x")
	if !ok {
		return label != "" && strings.Trim(label, "0123456789") == ""
	}
	return strings.Trim(hex, "0123456789abcdef") == ""
}

// HostPort is what is connected to.
func (a Address) HostPort() string { return net.JoinHostPort(a.Host, strconv.Itoa(int(a.Port))) }

// String returns the address as ParseAddress reads it; "" is the zero one.
func (a Address) String() string {
	switch {
	case a == Address{}:
		return ""
	case a.Form == TLS:
		return a.Form + "://" + a.HostPort()
	case a.Port == 443:
		host := a.Host
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		return a.Form + "://" + host + a.Path
	}
	return a.Form + "://" + a.HostPort() + a.Path
}

// seed keeps others from working out far ends: nobody can look for two addresses that
// share one.
var seed = sha256.Sum256([]byte(rand.Text()))

// Remote is the address of its far end, for as long as this process runs.
func (a Address) Remote() netip.AddrPort {
	sum := sha256.Sum256(append(seed[:len(seed):len(seed)], a.String()...))
	return farEnd(binary.BigEndian.Uint64(sum[:])&^acceptedBit | dialledBit)
}

func farEnd(id uint64) netip.AddrPort {
	b := Prefix.Addr().As16()
	binary.BigEndian.PutUint64(b[8:], id)
	return netip.AddrPortFrom(netip.AddrFrom16(b), remotePort)
}

// Accepted says whether an address is the far end of a carrier that was opened to
// this node: nobody can be told of it.
func Accepted(a netip.Addr) bool {
	b := a.As16()
	return Prefix.Contains(a) && binary.BigEndian.Uint64(b[8:])&acceptedBit != 0
}
