package idloc

import (
	"context"
	"errors"
	"net"
	"os"

	"github.com/idloc/idloc/internal/peerid"
)

// Errors that errors.Is finds inside what the methods of Node return. Dial,
// Listen and ListenPacket return *net.OpError outside, as package net does,
// and net.ErrClosed, os.ErrDeadlineExceeded, context errors,
// syscall.ECONNREFUSED and *net.DNSError inside where those apply.
var (
	// ErrNoState: Open found no overlay in Config.Dir.
	ErrNoState = errors.New("idloc: no saved overlay in this directory")
	// ErrUnreachable: no pipe to the peer could be opened. The *StageError
	// around it says where it ended.
	ErrUnreachable = errors.New("idloc: peer unreachable")
	// ErrRefusedByPolicy: this node or the other forbids what was asked.
	ErrRefusedByPolicy = errors.New("idloc: refused by policy")
	// ErrLSIExhausted: every locally significant identifier of
	// Config.LSIPrefix stands for a peer that is in use (draft §4.1).
	ErrLSIExhausted = errors.New("idloc: no free LSI")

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

func (e *StageError) Error() string {
	if e.Peer.IsZero() {
		return e.Stage + ": " + e.Err.Error()
	}
	return e.Stage + " (peer " + e.Peer.String() + "): " + e.Err.Error()
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

// PeerID is a peer's identity: its Ed25519 public key. It is comparable; the
// zero PeerID is no peer. String is the libp2p text form ("12D3KooW…"), Label
// the base36 DNS label under which every member can be dialled without the
// database ("k51….example.com").
type PeerID = peerid.ID

// ParsePeerID reads either text form of a peer ID.
func ParsePeerID(s string) (PeerID, error) { return peerid.Parse(s) }
