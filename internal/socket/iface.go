package socket

import (
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"
)

// LinkKind says what an interface leads to.
type LinkKind uint8

const (
	LinkOrdinary LinkKind = iota // a network that others may be on, as far as is known
	LinkBridge                   // containers or virtual machines of this host
	LinkHost                     // this host alone: a dummy, a host-only network
	LinkTunnel                   // a tunnel or another link between two
	LinkLoopback
)

var linkKindNames = [...]string{"ordinary", "bridge", "host", "tunnel", "loopback"}

func (k LinkKind) String() string { return linkKindNames[k] }

// Interface is what is known of the interface that has a local address.
type Interface struct {
	Index int    // 0: not the kernel's
	Name  string // "" if unknown
	Kind  LinkKind
	Net   netip.Prefix // the subnet of the address
	MTU   int          // of IP packets, in bytes; 0 if unknown
}

// linkNames are the names that programs give to their interfaces where the
// system does not say what an interface is.
var linkNames = []struct {
	prefix string
	kind   LinkKind
}{
	{"docker", LinkBridge}, {"br-", LinkBridge}, {"virbr", LinkBridge}, {"cni", LinkBridge}, {"veth", LinkBridge},
	{"podman", LinkBridge}, {"lxc", LinkBridge}, {"lxdbr", LinkBridge}, {"incusbr", LinkBridge}, {"cali", LinkBridge},
	{"flannel", LinkBridge}, {"cilium", LinkBridge}, {"kube", LinkBridge}, {"nerdctl", LinkBridge}, {"vnet", LinkBridge},
	{"bridge1", LinkBridge}, // macOS: bridge100 and above are those of virtual machines
	{"vethernet", LinkBridge}, {"vmnet", LinkHost}, {"vboxnet", LinkHost}, {"virtualbox host-only", LinkHost},
	{"vmware network adapter", LinkHost}, {"dummy", LinkHost},
	{"tun", LinkTunnel}, {"tap", LinkTunnel}, {"utun", LinkTunnel}, {"wg", LinkTunnel}, {"ppp", LinkTunnel},
	{"ipsec", LinkTunnel}, {"gre", LinkTunnel}, {"sit", LinkTunnel}, {"ip6tnl", LinkTunnel}, {"tailscale", LinkTunnel},
	{"zt", LinkTunnel}, {"nordlynx", LinkTunnel},
}

// kindByName is what name and flags tell of an interface. OpenWrt's br-lan is
// a LAN: of the names that begin with "br-" only those with a number behind,
// as Docker gives them, are bridges of containers.
func kindByName(name string, flags net.Flags) LinkKind {
	switch {
	case flags&net.FlagLoopback != 0:
		return LinkLoopback
	case flags&net.FlagPointToPoint != 0:
		return LinkTunnel
	}
	name = strings.ToLower(name)
	for _, l := range linkNames {
		rest, ok := strings.CutPrefix(name, l.prefix)
		if ok && (l.prefix != "br-" || isHex(rest)) {
			return l.kind
		}
	}
	return LinkOrdinary
}

func isHex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdef") == ""
}

// Interface returns what was known of the socket's interface when the
// addresses were last read.
func (c *Conn) Interface() Interface {
	if i := c.iface.Load(); i != nil {
		return *i
	}
	return Interface{Net: c.net}
}

// anywhere are addresses that nobody has (RFC 5737, RFC 3849): the way to them
// is the default route.
var (
	anywhere4 = netip.MustParseAddr("192.0.2.1")
	anywhere6 = netip.MustParseAddr("2001:db8::1")
)

// uplinkCache remembers an answer of Uplink.
type uplinkCache struct{ entry atomic.Pointer[uplinkEntry] }

type uplinkEntry struct {
	uplink bool
	until  time.Time
}

// Uplink says whether what the socket sends to the internet leaves by the
// interface of its own address: the system would send it, but by another one,
// where the answers cannot come back by. What the system does not say follows
// from the interface's kind. The answer is remembered for some seconds.
func (c *Conn) Uplink() bool {
	now := time.Now()
	if e := c.uplink.entry.Load(); e != nil && now.Before(e.until) {
		return e.uplink
	}
	e := &uplinkEntry{c.askUplink(), now.Add(sourceTTL)}
	c.uplink.entry.Store(e)
	return e.uplink
}

func (c *Conn) askUplink() bool {
	i, a := c.Interface(), c.local.Addr()
	if c.port.cfg.Net == nil && i.Index != 0 && !a.IsLoopback() {
		to := anywhere4
		if a.Is6() {
			to = anywhere6
		}
		if out, ok := routeFrom(a, to); ok {
			return out == i.Index
		}
	}
	return i.Kind == LinkOrdinary
}

// Reaches says whether a datagram from the socket's address can get to remote
// and an answer back, as far as this host can tell: both are of one family,
// loopback only among itself, and remote is on the socket's subnet, or the
// system sends from there to it, or the socket is an uplink.
func (c *Conn) Reaches(remote netip.Addr) bool {
	remote = remote.Unmap()
	return c.leads(remote) || fits(c, remote) && c.Chosen(remote)
}

// Chosen says whether the system sends from the socket to remote.
func (c *Conn) Chosen(remote netip.Addr) bool { return c.port.ConnFor(remote) == c }

// leads is Reaches without a question for the one address.
func (c *Conn) leads(remote netip.Addr) bool {
	return fits(c, remote) && (c.local.Addr().IsLoopback() || c.net.Contains(remote) || c.Uplink())
}
