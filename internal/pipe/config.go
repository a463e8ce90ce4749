package pipe

import (
	"crypto/ed25519"
	"log/slog"
	"net/netip"
	"time"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/wire"
)

// Sender is one local real address: a socket. Implementations are comparable
// (a pointer) and safe for concurrent use.
type Sender interface {
	// WriteBatch sends datagrams of seg bytes that stand back to back in b;
	// the last may be shorter. b is borrowed for the call.
	WriteBatch(b []byte, seg int, to netip.AddrPort) error
	LocalAddr() netip.AddrPort
}

// ClassSender is a Sender that can send datagrams with a traffic class (RFC
// 2474): WriteClass is WriteBatch of class, the lower two bits of which are ECN's (RFC 3168). Others
// send them without.
type ClassSender interface {
	Sender
	WriteClass(b []byte, seg int, to netip.AddrPort, class uint8) error
}

// Path is a pair of addresses over which datagrams of a pipe can travel.
type Path struct {
	Local  Sender
	Remote netip.AddrPort
}

// Handler is who uses the pipes: the shim. Its methods are called without a
// lock of this package held and may call back. Up and Down of one pipe are
// called one after the other, in order; Data and Large may overlap them. They
// must not call Endpoint.Close, which waits for them.
type Handler interface {
	// Data gets a run of DATA datagrams of p as they were received: sealed,
	// of one type and receiver index, seg bytes each, the last perhaps
	// shorter. b is borrowed for the call; p.Open opens each, within the
	// call. It is called on the socket's read goroutine.
	Data(p *Pipe, b []byte, seg int)
	// Large gets a plaintext that came in pieces, as it was given to
	// SendLarge: next header first. plain is borrowed for the call.
	Large(p *Pipe, v6 bool, plain []byte)
	// Up says that p can carry data now.
	Up(p *Pipe)
	// Down says that p no longer can; err says why. If p is not Closed, it
	// may come up again.
	Down(p *Pipe, err error)
	// Gone says that the peer's process of before has ended, or that one of
	// the two has put the other out: all that was open with it is over. With
	// ErrPeerDelivered for err all that the peer had written has come. It is
	// called before Down if there was a pipe. What the peer's next process sends is
	// handed on when it has returned, and not before: so it must be quick, as it is
	// called where packets are received.
	Gone(peer peerid.ID, err error)
}

// Config says how an Endpoint works. Zero values are defaults.
type Config struct {
	Key     ed25519.PrivateKey // the peer's key; required
	Overlay [32]byte           // overlay ID, bound into every handshake
	Handler Handler            // required
	Events  event.Sink         // nil = silent
	Logger  *slog.Logger       // nil = silent
	HasAES  *bool              // nil = what the processor has

	// LastTimestamp is the highest offer timestamp that this peer has used
	// before, from Endpoint.LastTimestamp; offers go on above it even if
	// the clock went back.
	LastTimestamp uint64

	// Offers keeps which offers this peer has read, so that one that somebody has
	// recorded is not answered again after a restart. nil: the key lives no longer
	// than the process.
	Offers Journal

	// Relay says whether this peer forwards datagrams between two others,
	// and to whom, besides from, that is charged. It is called for each side,
	// without a lock held. nil relays nothing.
	Relay     func(from, to peerid.ID) (account.Account, bool)
	RelayRate int // bytes a second relayed for one member, four times that for an invitation; 0 = 8 MiB

	// Account is to whom, besides a peer itself, an offer of its is charged from
	// Incoming.Charge or Accept on until its keys are confirmed. It is called without a
	// lock held. nil charges nobody else.
	Account func(p peerid.ID) account.Account

	// Dead is called when a pipe went silent because its peer does not answer,
	// or moved from a path that does not: perhaps it is this side's network's
	// fault. wanted says that p is silent and had data a moment ago. It is
	// called without a lock held and must not block. nil is fine.
	Dead func(p *Pipe, wanted bool)

	// Spare returns paths to a peer that are used only when others do not work, as far as
	// is known: carriers. It is called when the peer does not answer. It is called without
	// a lock held and must not block. nil is fine.
	Spare func(peer peerid.ID) []Path

	// Locals are the local ends that are open now. A peer is told of the end of its pipe
	// from them as well: the one that its path has may have gone with the network a moment
	// ago. It is called without a lock held. nil: a pipe's paths are all that there is.
	Locals func() []Sender

	// Moved is called when p's data takes another path than before. It is
	// called without a lock held and must not block. nil is fine.
	Moved func(p *Pipe)

	IdleTimeout time.Duration // a pipe without data closes; 0 = 5 min

	// NoRepair has nothing kept and sent again, neither by this side nor, of what
	// comes here, by the peer: for a stack above that wants each segment as the path
	// brings it.
	NoRepair bool
	// Cubic bounds what is under way by CUBIC (RFC 9438) and not by BBR.
	Cubic bool
	// RepairBudget is how many bytes all pipes together keep until the peers have
	// acknowledged them; 0 = 64 MiB.
	RepairBudget int64
}

// Local is what this side says of itself in an offer or an answer.
type Local struct {
	Chain         []byte // membership chain, ≤wire.MaxChain bytes; borrowed
	Ufrag, Pwd    string // ICE credentials
	Candidates    []wire.Candidate
	MTU           uint16 // largest UDP payload that is received; 0 = 65507
	Relays        []peerid.ID
	Encapsulation uint8
	Flow          wire.Flow // with wire.Null: the flow that the exchange is about
}

// Remote is what the other side said of itself. Its slices are owned by the
// receiver of the value and must not be changed.
type Remote struct {
	Chain         []byte
	Ufrag, Pwd    string
	Candidates    []wire.Candidate
	MTU           uint16 // ≥1200
	Relays        []peerid.ID
	Encapsulation uint8
	Flow          wire.Flow
	Start         uint64 // names the run of the peer's process
}
