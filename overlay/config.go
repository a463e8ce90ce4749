package overlay

import (
	"time"

	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/pion/transport/v3"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/internal/state"
)

// Config configures a peer's part in the overlay. It is read once.
type Config struct {
	Key    ed25519.PrivateKey // the peer's identity; required
	Socket *socket.Port       // the shared port; required; it outlives the Overlay
	// Pipes makes the endpoint of the pipes. It is called once, as soon as
	// the overlay's ID is known (a founder has none before), and before
	// anything is sent. Of o only ID, Domain and HandleSTUN may be used
	// then. The endpoint outlives the Overlay. Required.
	Pipes func(o *Overlay) (*pipe.Endpoint, error)
	State *state.Dir // nil keeps nothing

	Name    string // the label wanted; a named token overrides it
	NoRelay bool   // forward nothing for others
	Paths   PathPolicy

	Events event.Sink
	Logger *slog.Logger // nil is silent

	ICEServers    []string       // STUN and TURN servers beyond the members, see ICEServer
	LSIPrefixes   []netip.Prefix // never a peer's real address
	AllowLoopback bool           // take a peer's loopback candidates even if we have other addresses
	Net           transport.Net  // nil is the kernel's

	Null NullConfig // the zero one refuses null encapsulation

	clock func() time.Time // what certificates and records are judged by; nil is time.Now
}

// The stages at which Connect can fail, as in a Dial's error.
const (
	StageName      = "name"
	StageOffer     = "offer"
	StageCheck     = "connectivity check"
	StageHandshake = "handshake"
)

// StageError says at which stage a connection failed and to whom.
type StageError struct {
	Stage string
	Peer  peerid.ID
	Err   error // never nil
}

func (e *StageError) Error() string { return fmt.Sprintf("%s (peer %s): %v", e.Stage, e.Peer, e.Err) }
func (e *StageError) Unwrap() error { return e.Err }

// Errors of this package, found by errors.Is.
var (
	// ErrNoState: there is nothing to resume in the state directory.
	ErrNoState = errors.New("overlay: no saved overlay")
	// ErrNotFound: enough of the servers that would keep the name's record
	// have answered that there is none.
	ErrNotFound = errors.New("overlay: no such name")
	// ErrRevoked is an ErrNotFound: the member that had the name was put out.
	ErrRevoked = fmt.Errorf("%w: its membership was revoked", ErrNotFound)
	// ErrUnavailable: too few servers answered to say whether a name exists.
	ErrUnavailable = errors.New("overlay: name database not reached")
	// ErrClosed: the Overlay was closed.
	ErrClosed = errors.New("overlay: closed")
	// ErrNotIssuer: only the founder and delegates can do this.
	ErrNotIssuer = errors.New("overlay: only the founder and delegates can do this")
	// ErrNotFounder: only the founder can do this.
	ErrNotFounder = errors.New("overlay: only the founder can do this")
)

// temporaryError marks errors that may go away by themselves, for net.Error.
type temporaryError struct{ error }

func (e temporaryError) Temporary() bool { return true }
func (e temporaryError) Timeout() bool   { return false }
func (e temporaryError) Unwrap() error   { return e.error }

// Found is what a name stands for.
type Found struct {
	Peer  peerid.ID
	Label string
	// Via is the member that gave the record; this peer itself if it was in
	// its own part of the database or cache.
	Via peerid.ID
}

// PeerInfo is a connected member.
type PeerInfo struct {
	Peer   peerid.ID      `json:"peer"`
	Label  string         `json:"label,omitempty"`
	Remote netip.AddrPort `json:"remote,omitzero"`
	Server bool           `json:"server"` // keeps a part of the database
}

// InviteOptions says what a token admits.
type InviteOptions struct {
	Name     string        // "" is any label
	Expires  time.Duration // 0 is 24 h
	Relay    bool
	Delegate bool
}
