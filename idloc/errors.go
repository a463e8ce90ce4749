package idloc

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/lsi"
	"github.com/idloc/idloc/netstack"
	"github.com/idloc/idloc/netstack/tun"
	"github.com/idloc/idloc/overlay"
)

// Errors that errors.Is finds inside what the methods of Node return. Dial,
// Listen and ListenPacket return *net.OpError outside, as package net does,
// and net.ErrClosed, os.ErrDeadlineExceeded, context errors,
// syscall.ECONNREFUSED and *net.DNSError inside where those apply.
var (
	// ErrNoState: Open found no overlay in Config.Dir.
	ErrNoState = errors.New("no saved overlay in this directory")
	// ErrUnreachable: no pipe to the peer could be opened. The *StageError
	// around it says where it ended.
	ErrUnreachable = errors.New("peer unreachable")
	// ErrRefusedByPolicy: this node or the other forbids what was asked.
	ErrRefusedByPolicy = errors.New("refused by policy")
	// ErrLSIExhausted: every locally significant identifier of
	// Config.LSIPrefix stands for a peer that is in use (draft §4.1).
	ErrLSIExhausted = lsi.ErrExhausted

	errMissingAddress = errors.New("missing address") // package net's
	errCapturing      = errors.New("idloc: a capture is running already")
)

// The stages of a Dial, in order. A failed Dial names one in its *StageError.
const (
	StageName      = "name"               // the distributed database (draft §5)
	StageOffer     = "offer"              // offer and answer through the overlay (draft §4.2)
	StageCheck     = "connectivity check" // ICE (RFC 8445)
	StageHandshake = "handshake"          // keys of the pipe
	StageConnect   = "connect"            // TCP's own handshake inside the pipe
)

// StageError says at which stage a Dial failed and for which peer.
// errors.Is(err, ErrUnreachable) holds for the stages from StageOffer to
// StageHandshake.
type StageError struct {
	Stage string
	Peer  PeerID // zero if the name was never resolved
	Err   error  // never nil
}

// Error says the stage, unless the error inside does so itself: "lookup
// mars.example.com", "connect: connection refused".
func (e *StageError) Error() string {
	text := e.Err.Error()
	var dns *net.DNSError
	if e.Stage == StageName && errors.As(e.Err, &dns) || strings.HasPrefix(text, e.Stage+": ") {
		return text
	}
	return e.Stage + ": " + text
}

func (e *StageError) Unwrap() error { return e.Err }

// Is makes ErrUnreachable match every stage between the name and TCP.
func (e *StageError) Is(target error) bool {
	if target != ErrUnreachable {
		return false
	}
	return e.Stage == StageOffer || e.Stage == StageCheck || e.Stage == StageHandshake
}

// Timeout implements net.Error.
func (e *StageError) Timeout() bool {
	if errors.Is(e.Err, context.DeadlineExceeded) || errors.Is(e.Err, os.ErrDeadlineExceeded) {
		return true
	}
	var t interface{ Timeout() bool }
	return errors.As(e.Err, &t) && t.Timeout()
}

// Temporary implements net.Error.
func (e *StageError) Temporary() bool { return e.Timeout() }

var _ net.Error = (*StageError)(nil)

// offline is an overlay.OfflineError with the peer's name.
type offline struct {
	name string
	err  *overlay.OfflineError
}

func (e *offline) Error() string { return e.name + " is " + e.err.Error() }
func (e *offline) Unwrap() error { return e.err }

// notOurs is an error in which something was closed that is not this node: a member's
// connection, or one through which an offer went. To errors.Is it is all that it was but
// net.ErrClosed, which says to whoever has dialled that the node is closed.
type notOurs struct{ err error }

func (e notOurs) Error() string        { return e.err.Error() }
func (e notOurs) Is(target error) bool { return target != net.ErrClosed && errors.Is(e.err, target) }
func (e notOurs) As(target any) bool   { return errors.As(e.err, target) }

// dialedAddr is the Addr of a failed Dial's *net.OpError: what was dialled, and
// the LSI that it led to. The address inside is a *net.TCPAddr or *net.UDPAddr.
type dialedAddr struct {
	net.Addr
	dialed string // "mars.example.com:80"
}

func (a dialedAddr) String() string {
	lsi, err := addrOf(a.Addr)
	if err != nil {
		return a.dialed
	}
	return a.dialed + " (" + lsi.String() + ")"
}

// dialError is the *net.OpError of a failed Dial. As in package net it has no
// address if none was found; the error inside says of which name then.
func dialError(network, address string, err error) error {
	var op *net.OpError
	if !errors.As(err, &op) || op != err {
		return opError("dial", network, address, err)
	}
	host, _, _ := net.SplitHostPort(address)
	if _, err := netip.ParseAddr(host); err == nil || host == "" {
		return op
	}
	named := *op
	named.Addr = dialedAddr{op.Addr, address}
	return &named
}

// opErrorAt is the *net.OpError of a call at an LSI and port, or nil.
func opErrorAt(op, network string, at netip.AddrPort, err error) error {
	if _, ok := err.(*net.OpError); ok || err == nil {
		return err
	}
	var addr net.Addr = net.TCPAddrFromAddrPort(at)
	if strings.HasPrefix(network, "udp") {
		addr = net.UDPAddrFromAddrPort(at)
	}
	return &net.OpError{Op: op, Net: network, Addr: addr, Err: err}
}

// opError is the *net.OpError of a call that names an address.
func opError(op, network, address string, err error) error {
	if o, ok := err.(*net.OpError); ok {
		return o
	}
	if sayItself(err) {
		return &net.OpError{Op: op, Net: network, Err: err}
	}
	return &net.OpError{Op: op, Net: network, Addr: textAddr{network, address}, Err: err}
}

// sayItself says whether an error's text has the address that it is about.
func sayItself(err error) bool {
	var dns *net.DNSError
	var addr *net.AddrError
	var network net.UnknownNetworkError
	return errors.As(err, &dns) || errors.As(err, &addr) || errors.As(err, &network) || err == errMissingAddress
}

// textAddr is an address that was never resolved.
type textAddr struct{ network, text string }

func (a textAddr) Network() string { return a.network }
func (a textAddr) String() string  { return a.text }

// PrefixError says that with Config.TUN the node's LSIs would hide a network or
// an address of the host, and which Config.LSIPrefix is free.
type PrefixError = tun.PrefixError

// CutError is what Close and Shutdown return if peers have not acknowledged all
// that was written to them: how much it was and to whom, and why there was no
// more time for it.
type CutError = netstack.CutError

// PeerID is a peer's identity: its Ed25519 public key. It is comparable; the
// zero PeerID is no peer. String is the libp2p text form ("12D3KooW…"), Label
// the base36 DNS label under which every member can be dialled without the
// database ("k51….example.com").
type PeerID = peerid.ID

// ParsePeerID reads either text form of a peer ID.
func ParsePeerID(s string) (PeerID, error) { return peerid.Parse(s) }
