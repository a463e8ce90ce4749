package idloc

import (
	"log/slog"
	"net/netip"
	"time"

	"github.com/pion/transport/v3"

	"github.com/idloc/idloc/internal/carrier"
)

// Config configures a Node. The zero Config joins with the machine's name,
// keeps its state in memory, uses any UDP port on every usable address and
// accepts flows from every member. A Config is read once and not kept.
//
// A value that no node can run with, or that can only be a mistake, is a
// *ConfigError; one that is only doubtful is a warning, in Status().Self.Warnings and
// in the log. A node that starts again with a Dir from an earlier version is warned
// of what that version accepted, and not stopped.
type Config struct {
	// Name is this peer's host label, "mars": a to z, 0 to 9 and inner hyphens,
	// 59 at most. "" is the machine's name, in which each other character becomes a
	// hyphen. A token made for one name overrides it, and so does the name that is in
	// Dir; if Name is another one, that is a warning (Status). When another member holds
	// the label the node takes mars-2 and so on (draft §5, "some scheme to
	// break ties"): Node.Name tells which.
	Name string
	// Dir keeps the key and the certificate, the founder's root key, the authorities and
	// the proposals, the port, LSIs, known peers and names. It is created with mode 0700
	// and locked while the node runs. "" keeps everything in memory: every start is then
	// a new peer. A folder that other users can list is a warning (Status); one in which
	// they could replace files is an error.
	//
	// Only the key (identity.json) and the membership with the root key
	// (overlay.json) stop a start if they are damaged: they are what to back up.
	// All else is made anew; what is damaged is put aside as
	// <name>.json.damaged, and said once at Warn. A disk that is full or cannot
	// be written is a warning too, for a node that runs and for one that starts
	// with a key.
	Dir string
	// Port is the one UDP port of the node: pipes, STUN and the peer
	// protocol share it. 0 takes any at the first start, and later the one of the
	// last start, which members remember and tokens name. If another program has
	// it by then the node takes a free one, with a warning: members hear of it once
	// the node has reached one of them; tokens made before do not. If the port that is
	// given here is in use, that is an error.
	Port uint16
	// Addrs are the local addresses to use; nil is all usable ones.
	// Loopback is used when it is listed or when there is nothing else. While this host
	// lacks some of those listed there is a warning (Status); if it has none of them at
	// the start, that is an error.
	Addrs []netip.Addr
	// LSIPrefix is where IPv4 LSIs come from (draft §4.1), /29 to /8; the
	// zero prefix is a /16 of 198.18.0.0/15. It must lie in a range that the
	// internet does not use: that one, 100.64.0.0/10, 240.0.0.0/4, or a private or
	// documentation one. Without TUN it may be in use on the host; with TUN that is
	// a *PrefixError.
	LSIPrefix netip.Prefix
	// DNSNoIPv4: programs that ask this node's DNS get members' IPv6 LSIs alone, as AAAA. For
	// a host whose programs all speak IPv6 and tell others the addresses that they use, such as SIP
	// phones: an IPv4 LSI means something on its own host only (draft §9.1), an IPv6 one
	// everywhere. Resolver and Dial have both families as before.
	DNSNoIPv4 bool
	// TUN names a TUN device that the node makes, "idloc0"; "idloc%d" has the
	// kernel number it. Then the host's kernel stands above the shim in place
	// of the TCP/IP in the process (draft §2, Figure 1): every program of the
	// host reaches members by their LSIs, and members reach whatever listens on
	// the host, as Admit allows. Dial, Listen and the node's DNS use kernel
	// sockets at the LSIs. It needs Linux and the right CAP_NET_ADMIN, and for
	// the DNS server CAP_NET_BIND_SERVICE; else starting fails with an error
	// that is fs.ErrPermission or errors.ErrUnsupported. While the node is down
	// after a crash, LSIs are unreachable on the host; netstack/tun says what a
	// host does that never runs a node again. "" makes no device. Null must be
	// NullRefuse with it.
	TUN string
	// ICEServers are extra servers, as URLs of RFC 7064 and RFC 7065:
	//
	//	stun:host[:port]
	//	turn:user:password@host[:port][?transport=udp|tcp]
	//	turns:user:password@host[:port]
	//
	// None is needed: public members answer STUN and forward. A STUN server
	// tells this node's mapped addresses. A TURN server lends the node an
	// address that its peers reach it at, whatever is between them; the node
	// keeps one from its start, on a socket of its own, and uses it for pipes
	// that find no direct path, before members that relay. Paths of kind
	// "turn" are end-to-end encrypted as all others. What is not a letter,
	// digit, "-", ".", "_" or "~" in user and password is percent-encoded;
	// ?username=…&credential=… is taken too. turns: speaks TLS. A host that cannot
	// be resolved is a warning (Status), and tried again.
	ICEServers []string
	// Carrier is a TCP address, ":443", at which this node serves carriers over TLS: for
	// members in networks that let no UDP out (package internal/carrier). What such a
	// member sends to others this node passes on as far as its invitation says so. Its
	// certificate is made in memory and says nothing: what is carried is encrypted and
	// authenticated as over UDP. "" serves none; Node.CarrierHandler serves carriers in a
	// web server. If the address is in use, that is an error. There are no carriers on a
	// simulated network.
	Carrier string
	// Reached is how others reach this node, where it cannot find that out itself: host
	// names, and ports that are forwarded by hand.
	//
	//	tls://host[:port]       the listener of Carrier
	//	wss://host[:port]/path  CarrierHandler, behind a web server whose certificate is the host's
	//	udp://host[:port]       the UDP port, as it is seen from outside
	//
	// Ports that are left out are 443. The host of a udp is looked up by this node, every five
	// minutes, those of the others by who connects. Tokens, records and what this node says of itself
	// name them. Without a tls or wss among them they name Carrier's port at this host's
	// own addresses.
	Reached []string
	// Null is the policy for null encapsulation (draft §4.3), for flows that
	// others open as for this node's own: Dialer.Encapsulation asks for it. A
	// node that allows it also listens on a TCP port, with the number of its
	// UDP port if that is free, and its flows have UDP sockets of their own.
	Null NullPolicy
	// Paths restricts which paths pipes may take.
	Paths PathPolicy
	// Repair says whether pipes make good what their paths lose.
	Repair Repair
	// NoRelay: do not forward offers and pipe datagrams for others. Pipe
	// datagrams are forwarded only by members whose invitation says so
	// (InviteOptions.Relay), and by authorities.
	NoRelay bool
	// NoLAN: do not announce this node on local networks by multicast DNS, nor look
	// for members there. If it is false members find each other on a network without
	// internet, and when all addresses that they remember, or that a token names, are
	// stale. Others on that network see that a node is there, at which port, and which
	// nodes are of one overlay; they see neither names nor IDs. Nothing is announced on
	// tunnels, bridges of containers and the like, nor anywhere with PathRelayOnly.
	NoLAN bool
	// MaxListAge is how old this node's knowledge of who was revoked may get. Authorities
	// and delegates say now and then that there is no newer revocation list; a node that
	// hears nothing of the kind may be cut off from a newer one by an attacker. Beyond
	// MaxListAge it makes no new pipes, nor flows with null encapsulation: its Dials give
	// ErrRefusedByPolicy, and those of others to it are refused. Pipes that are up stay.
	// At least 30 min; 0 refuses nothing. Status().Self.RevokedAt says as of when the node
	// knows; a warning says that it is too old, with a MaxListAge of 0 after a week.
	MaxListAge time.Duration
	// Admit is asked before an inbound flow is answered; nil admits all
	// members. It is called from the packet path of the peer's pipe and
	// must return quickly; it may be called concurrently.
	Admit func(Flow) bool
	// Logger receives the node's log; nil is silent.
	Logger *slog.Logger
	// Net is the network below: nil is the kernel's. Tests pass a simulated
	// one.
	Net transport.Net

	reached reached         // Reached, read by withDefaults
	carry   *carrier.Config // tests: there are carriers in spite of Net, made like that
}

// NullPolicy says whether flows may run without a pipe (draft §4.3, null
// encapsulation). The stricter policy of two peers counts.
type NullPolicy uint8

const (
	NullRefuse NullPolicy = iota // only encrypted pipes
	NullTLS                      // null TCP under TLS 1.3 with the peers' identities; no null UDP
	NullPlain                    // the draft as written, for applications that protect themselves
)

// Repair says whether pipes make good what their paths lose, so that TCP over a path
// with loss has the path's rate. It is done between two nodes that both can, on paths
// with a round trip of 2 ms or more, and never with TUN, where the host's kernel sees
// to loss. UDP is never sent again.
type Repair uint8

const (
	// RepairBBR is the default: what may be under way follows the rate at which
	// packets arrive (draft-ietf-ccwg-bbr). Loss alone does not slow it down.
	RepairBBR Repair = iota
	// RepairCubic takes each loss for congestion (RFC 9438), as most of the internet's
	// TCP does: for a path where others must not notice.
	RepairCubic
	// RepairOff leaves it to TCP.
	RepairOff
)

// PathPolicy restricts the paths of pipes.
type PathPolicy uint8

const (
	PathAny        PathPolicy = iota // direct if possible, else relayed
	PathDirectOnly                   // never through a relay or a TURN server
	// PathRelayOnly names no real address in offers and answers, runs no
	// connectivity checks and sends data through relays only. Members that
	// relay for this node still see its addresses, as do those that it is
	// connected to on the peer protocol and those that look up its contact
	// record: it hides the node from who calls, not from the overlay. Such
	// a node relays for nobody, since that would show its addresses, and who
	// takes direct paths only cannot call it. A TURN server counts as a
	// relay.
	PathRelayOnly
)

// Encapsulation is how a flow travels between two peers (draft §4.3).
type Encapsulation uint8

const (
	OuterUDP Encapsulation = iota // inside the peers' encrypted pipe
	Null                          // on real sockets of its own, with no byte added
)

// String returns the draft's term.
func (e Encapsulation) String() string {
	if e == Null {
		return "null"
	}
	return "outer-UDP"
}

// Peer is a member of the overlay as this node sees it. The LSIs are of local
// significance: another node has others for the same peer (draft §9.1).
type Peer struct {
	ID   PeerID     `json:"id"`
	Name string     `json:"name,omitempty"` // "mars.example.com"; "" if it has none
	LSI4 netip.Addr `json:"lsi4,omitzero"`
	LSI6 netip.Addr `json:"lsi6,omitzero"`
	// Tags say what it is for: as SetGrants says, or else its invitation (InviteOptions.Tags).
	// In order; not to be changed.
	Tags []string `json:"tags,omitempty"`
}

// Flow is an inbound flow, as Config.Admit is asked about it.
type Flow struct {
	Peer          Peer   // authenticated by the pipe
	Network       string // "tcp" or "udp"
	Local, Remote netip.AddrPort
	Encapsulation Encapsulation
}

// InviteOptions says what a token admits.
type InviteOptions struct {
	Name     string        // the one label it admits; "" = any
	Expires  time.Duration // 0 = 24 h; the token admits until then, give or take 30 s for clocks that differ
	Relay    bool          // the member may forward pipe datagrams for others
	Delegate bool          // the member may invite
	// Tags are words that say what the member is for, such as "web" or "db": at most 16, each
	// of a-z, 0-9 and inner hyphens. They stand in its certificate, and Peer has them, for
	// Config.Admit and whoever else decides. A delegate hands on those only that it has.
	Tags []string
	// Uses is how many members the token admits: 0 is one, AnyNumber is as many as come
	// by it, else at most 64. A token with a Name is for one, or with Reuse for one at a time.
	Uses int
	// Reuse is for a token with a Name that is used again and again, by a container, say,
	// that has no Dir and comes with another key each time: whoever came last has the name, and
	// the key that had it before is revoked, up to 48 times a day, and 64 times for all such
	// tokens and calls of Rotate of the overlay together: beyond, Join fails until the next
	// day. An authority sees to that, and
	// the name stays with who had it while none is there. Where more than one authority has
	// to agree (SetThreshold) each such change of key is a proposal, and Join fails until
	// it was approved. Whoever has the token can
	// take the name as long as it has not expired. Not with Uses.
	Reuse bool
	// Replaces is the name of a member whose device was lost, or is given away: it is
	// revoked before Invite returns, as by Revoke, and the token is for its name. Whoever
	// knew the name finds the new member under it. Only authorities can; where more than one
	// has to agree Invite returns the token with ErrPending, and who comes by it is refused
	// until the others have approved. What a delegate
	// has signed ends with it.
	Replaces string
}

// AnyNumber is InviteOptions.Uses of a token for as many members as come by it.
const AnyNumber = -1

// Invitation is one that this node has made, and who came by it.
type Invitation struct {
	ID        string          `json:"id"`             // for Node.Withdraw; PeerStatus has it too
	Name      string          `json:"name,omitempty"` // the one label that it admits; "" is any
	Made      time.Time       `json:"made"`
	Expires   time.Time       `json:"expires"`
	Uses      int             `json:"uses"` // members that it admits; AnyNumber: with a Name one at a time, InviteOptions.Reuse
	Relay     bool            `json:"relay,omitzero"`
	Tags      []string        `json:"tags,omitempty"`
	Delegate  bool            `json:"delegate,omitzero"`
	Withdrawn bool            `json:"withdrawn,omitzero"`
	Members   []InvitedMember `json:"members,omitempty"` // as far as this node knows
}

// InvitedMember is one that came by an invitation.
type InvitedMember struct {
	Peer
	Confirmed bool `json:"confirmed,omitzero"` // by an authority or a delegate; one that is not may have lost to those that are
}

// PingResult is the answer to a Ping.
type PingResult struct {
	Peer Peer          `json:"peer"`
	RTT  time.Duration `json:"rtt"` // of the pipe, in nanoseconds
	Path PathStatus    `json:"path"`
}

// PathStatus is one path of a pipe.
type PathStatus struct {
	Kind   string         `json:"kind"`   // "direct", "relayed", "turn", "tcp" (over a carrier)
	Local  netip.AddrPort `json:"local"`  // real address of this node
	Remote netip.AddrPort `json:"remote"` // real address of the peer, as seen from here
	// Carrier is the carrier of a path of kind "tcp": its address if this node has opened
	// it, else where it was opened from. Local and Remote mean nothing then.
	Carrier string        `json:"carrier,omitempty"`
	Via     PeerID        `json:"via,omitzero"`    // the forwarding member, if relayed
	RTT     time.Duration `json:"rtt,omitempty"`   // smoothed, in nanoseconds; 0 if not measured yet
	MTU     int           `json:"mtu,omitempty"`   // largest UDP payload that has come through, bytes
	Active  bool          `json:"active,omitzero"` // data is sent here
}
