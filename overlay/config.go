package overlay

import (
	"time"

	"crypto/ed25519"
	"errors"
	"log/slog"
	"net/netip"

	"github.com/pion/transport/v3"

	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/internal/state"
	"github.com/idloc/idloc/overlay/admission"
	"github.com/idloc/idloc/overlay/carry"
	"github.com/idloc/idloc/overlay/directory"
	"github.com/idloc/idloc/overlay/establish"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/mesh"
	"github.com/idloc/idloc/overlay/nat"
	"github.com/idloc/idloc/overlay/nullflow"
	"github.com/idloc/idloc/overlay/offers"
	"github.com/idloc/idloc/overlay/pki"
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
	NoLAN   bool   // announce nothing on local networks, and look for nobody there
	Paths   PathPolicy

	Events event.Sink
	Logger *slog.Logger // nil is silent

	ICEServers    []string       // STUN and TURN servers beyond the members, see nat.ICEServer
	LSIPrefixes   []netip.Prefix // never a peer's real address
	AllowLoopback bool           // take a peer's loopback candidates even if we have other addresses
	Net           transport.Net  // nil is the kernel's

	Carriers carry.Config // those of Socket, and how others reach it

	Certificates *pki.Keeper // attached when the peer runs, and answers others then; nil: no TLS

	MaxListAge time.Duration                  // how old what is known of who was revoked may get before there are no new pipes; 0: as it likes
	ListAged   func(asOf time.Time, old bool) // told now and then; nil: nobody

	Proposed      func() // told when a proposal, or a signature under one, has come; may be nil
	PolicyChanged func() // told when the policy, or what this peer is by its certificate, is another one; required
	// Tags returns which tags a member has, whom this peer may never have met; nil: those
	// of certificates count. It is called from any goroutine.
	Tags func(*membership.Member) []string

	Null nullflow.Handler // the zero one refuses null encapsulation

	servers []nat.ICEServer  // of ICEServers
	clock   func() time.Time // what certificates and records are judged by; nil is wallclock.Now, which tests of several processes shift
}

// The stages at which Connect can fail, as in a Dial's error.
const (
	StageName      = offers.StageName
	StageOffer     = offers.StageOffer
	StageCheck     = offers.StageCheck
	StageHandshake = offers.StageHandshake
)

// StageError says at which stage a connection failed and to whom.
type StageError = offers.StageError

// OfflineError says that a peer is not in the overlay now, as far as its members
// can tell.
type OfflineError = offers.OfflineError

// Errors of this package, found by errors.Is.
var (
	// ErrNoState: there is nothing to resume in the state directory.
	ErrNoState = errors.New("no saved overlay")
	// ErrNotFound: enough of the servers that would keep the name's record
	// have answered that there is none.
	ErrNotFound = directory.ErrNotFound
	// ErrRevoked is an ErrNotFound: the member that had the name was put out.
	ErrRevoked = directory.ErrRevoked
	// ErrUnavailable: too few servers answered to say whether a name exists.
	ErrUnavailable = directory.ErrUnavailable
	// ErrClosed: the Overlay was closed.
	ErrClosed = offers.ErrClosed
	// ErrNotIssuer: only authorities and delegates can do this.
	ErrNotIssuer = admission.ErrNotIssuer
	// ErrNotFounder: only an authority can do this: the founder, until it has promoted others.
	ErrNotFounder = admission.ErrNotFounder
	// ErrNameTaken is wrapped by Join's error when a named token's label belongs
	// to another peer.
	ErrNameTaken = admission.ErrLabelTaken
)

// Found is what a name stands for.
type Found = directory.Found

// PeerInfo is a connected member.
type PeerInfo = mesh.PeerInfo

// PathPolicy restricts the paths of pipes.
type PathPolicy = establish.Policy

// The policies.
const (
	PathAny        = establish.AnyPath
	PathDirectOnly = establish.DirectOnly // name no relay, use none
	PathRelayOnly  = establish.RelayOnly  // name no address, run no checks; pipes to relays themselves are direct
)

// InviteOptions says what a token admits.
type InviteOptions struct {
	Name     string        // "" is any label
	Expires  time.Duration // 0 is 24 h
	Relay    bool
	Delegate bool
	Tags     membership.Tags // what the member is for
	Reuse    bool            // with a Name: again and again, who came last has it
	Uses     int             // members that it makes, at most membership.MaxUses; 0 is one; membership.AnyNumber
}

// Invitation is what an issuer knows of one that it has made.
type Invitation = admission.Invitation
