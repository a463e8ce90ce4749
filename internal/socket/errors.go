package socket

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"
)

// ErrMessageTooLong says that a datagram exceeds what the local interface
// takes. Nothing was sent of it. errors.Is also finds syscall.EMSGSIZE.
var ErrMessageTooLong error = tooLong{}

// ErrBusy says that the system had no room for a datagram for longer than
// writePatience. The datagram is lost, as it would be in a full router.
var ErrBusy = errors.New("socket: send buffer full")

// ErrFamily says that a socket was asked to send to an address of the other
// IP version.
var ErrFamily = errors.New("socket: destination of another address family")

// ErrNoSource says that no socket of ours can reach an address.
var ErrNoSource = errors.New("socket: no local address for this destination")

type tooLong struct{}

func (tooLong) Error() string        { return "socket: datagram too long for the interface" }
func (tooLong) Is(target error) bool { return target == syscall.EMSGSIZE }

// tooLongFor is ErrMessageTooLong for who has only the text of an error, as
// QUIC's users do: it says what did not fit.
type tooLongFor struct{ size int }

func newTooLongFor(payload int, to netip.Addr) tooLongFor {
	if to.Is4() {
		return tooLongFor{20 + 8 + payload}
	}
	return tooLongFor{40 + 8 + payload}
}

func (e tooLongFor) Error() string {
	return fmt.Sprintf("socket: the interface, or the route, takes no IP packets of %d bytes", e.size)
}

func (tooLongFor) Is(target error) bool {
	return target == ErrMessageTooLong || target == syscall.EMSGSIZE
}
