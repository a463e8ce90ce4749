package mesh

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/overlay/field"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/naming"
)

// A hello, in both directions (DESIGN §8, §14.1):
//
//	0      0 welcome: a hello follows; 1 refused: the reason follows; 2 renewed: a
//	       new membership follows
//	1      version, 1
//	2      flags
//	3..10  rank of the newest revocation list known, big endian
//	11..18 the sender's time, seconds since 1970, big endian
//	19..26 start number of the sender's process, as its offers have it
//	27..28 length of the chain, big endian
//	29..   the sender's membership chain
//	then   length of the record, 2 bytes, big endian; at most 2,048
//	       the sender's name record as it stands in the database; none while
//	       its name is not decided
//	then   number of addresses, 1 byte, at most 8
//	       { length 1 | multiaddr }: the sender's own, those of its LAN too
//	then   length of the assurance, 2 bytes, big endian; at most 512
//	       an issuer's word that it knew of no newer revocation list, at a time
//	then   length of the charter, 2 bytes, big endian; at most 49,152
//	       all changes of who rules the overlay, so that who has not heard of them
//	       yet can tell that the chain is an authority's
//
// A hello may end before each of the last two. What follows the last one is for later
// versions, and not read.
//
// A refusal says what time it is there too: a clock may be the reason.
//
//	0      1
//	1      1: for good, no other answer will come; 2: and because the invitation is
//	       used up; 0: it may pass
//	2..9   the sender's time
//	10..11 length of the reason, big endian
//	12..   the reason, as text
//
// A new membership is for somebody whose old one has ended. It is the answer of the
// confirm protocol (package admission), and the peer says hello again with it.
//
//	0      2
//	1..2   length, big endian
//	3..    the answer
const (
	helloWelcome = 0
	helloRefused = 1
	helloRenewed = 2

	helloVersion = 1
	maxReason    = 512
	maxRenewal   = 4096
	// HelloAddrs is how many addresses a hello can hold.
	HelloAddrs = 8

	// Flags of a hello.
	flagServer  = 1 << 0
	flagNoRelay = 1 << 1
	flagIssuer  = 1 << 2
	flagKeep    = 1 << 3
	flagYoung   = 1 << 4
	flagTwin    = 1 << 5
)

var errHello = errors.New("malformed hello")

// Hello is what a peer says about itself before anything else.
type Hello struct {
	Roles
	Keep       bool           // the sender is found through this connection (keep.go)
	Young      bool           // a server that has only just begun: records may be missing
	Twin       bool           // the sender has met two nodes that have the receiver's key
	Revocation uint64         // rank of the newest revocation list it knows
	Seconds    uint64         // the sender's time, since 1970
	Start      uint64         // names the run of the sender's process
	Chain      []byte         // its membership
	Record     []byte         // its name record; empty: none
	Addrs      []ma.Multiaddr // its own, at most HelloAddrs
	Assurance  []byte         // that there is no newer revocation list; empty: none
	Charter    []byte         // all changes of who rules the overlay; empty: none
}

// Roles is what a member does for others.
type Roles struct {
	Server  bool // keeps a part of the distributed database
	NoRelay bool // forwards nothing for others
	Issuer  bool // can confirm memberships: the founder, or a delegate
}

func (h Hello) flags() (out byte) {
	for _, f := range []struct {
		is  bool
		bit byte
	}{{h.Server, flagServer}, {h.NoRelay, flagNoRelay}, {h.Issuer, flagIssuer}, {h.Keep, flagKeep}, {h.Young, flagYoung}, {h.Twin, flagTwin}} {
		if f.is {
			out |= f.bit
		}
	}
	return out
}

// appendTo appends the hello without the byte that says that it is one.
func (h Hello) appendTo(b []byte) []byte {
	b = append(b, helloVersion, h.flags())
	b = binary.BigEndian.AppendUint64(b, h.Revocation)
	b = binary.BigEndian.AppendUint64(b, h.Seconds)
	b = binary.BigEndian.AppendUint64(b, h.Start)
	b = field.Append16(field.Append16(b, h.Chain), h.Record)
	b = append(b, byte(len(h.Addrs)))
	for _, a := range h.Addrs {
		b = field.Append8(b, a.Bytes())
	}
	return field.Append16(field.Append16(b, h.Assurance), h.Charter)
}

// RefusedError is the other side's reason to refuse us. It is a stranger's
// text: shown, never acted on. But whoever this peer was told to enter by, and
// has proved to have its key, need not be asked again if it refuses for good.
type RefusedError struct {
	Reason  string
	Final   bool   // for good: no other answer will come
	Used    bool   // it is Final because the invitation is used up
	seconds uint64 // the other side's time
}

func (e *RefusedError) Error() string { return fmt.Sprintf("refused by the peer: %q", e.Reason) }

// Unwrap returns membership.ErrUsed if that is why.
func (e *RefusedError) Unwrap() error {
	if e.Used {
		return membership.ErrUsed
	}
	return nil
}

func (e *RefusedError) appendTo(b []byte) []byte {
	final := byte(0)
	switch {
	case e.Used:
		final = 2
	case e.Final:
		final = 1
	}
	b = binary.BigEndian.AppendUint64(append(b, helloRefused, final), e.seconds)
	return field.Append16(b, []byte(e.Reason[:min(len(e.Reason), maxReason)]))
}

// renewal is a new membership in place of a hello.
type renewal struct{ answer []byte }

func (r *renewal) Error() string { return "a new membership in place of a hello" }

func (r *renewal) appendTo(b []byte) []byte { return field.Append16(append(b, helloRenewed), r.answer) }

// readHello reads one hello, or a refusal, which is a *RefusedError, or a *renewal.
func readHello(r io.Reader) (Hello, error) {
	f := field.NewReader(r)
	status := f.Uint8()
	if f.Err() != nil {
		return Hello{}, f.Err()
	}
	switch status {
	case helloWelcome:
		h, err := readWelcome(f)
		if err == nil {
			err = readTail(r, &h)
		}
		return h, err
	case helloRefused:
		why := f.Uint8()
		e := &RefusedError{Final: why == 1 || why == 2, Used: why == 2, seconds: f.Uint64()}
		if e.Reason = string(f.Short16(maxReason)); f.Err() != nil {
			return Hello{}, fmt.Errorf("%w: refusal: %w", errHello, f.Err())
		}
		return Hello{}, e
	case helloRenewed:
		r := &renewal{f.Short16(maxRenewal)}
		if f.Err() != nil {
			return Hello{}, fmt.Errorf("%w: renewal: %w", errHello, f.Err())
		}
		return Hello{}, r
	}
	return Hello{}, errHello
}

func readWelcome(f *field.Reader) (Hello, error) {
	if v := f.Uint8(); f.Err() == nil && v != helloVersion {
		return Hello{}, fmt.Errorf("%w: version %d", errHello, v)
	}
	flags := f.Uint8()
	h := Hello{
		Roles: Roles{Server: flags&flagServer != 0, NoRelay: flags&flagNoRelay != 0, Issuer: flags&flagIssuer != 0},
		Keep:  flags&flagKeep != 0, Young: flags&flagYoung != 0, Twin: flags&flagTwin != 0,
		Revocation: f.Uint64(), Seconds: f.Uint64(), Start: f.Uint64(),
		Chain: f.Short16(membership.MaxChain), Record: f.Short16(naming.MaxRecord),
	}
	n := int(f.Uint8())
	if n > HelloAddrs {
		f.Fail(fmt.Errorf("%d addresses", n))
	}
	for range n {
		b := f.Short8()
		if f.Err() != nil {
			break
		}
		m, err := ma.NewMultiaddrBytes(b)
		if err != nil {
			f.Fail(fmt.Errorf("address: %w", err))
		}
		h.Addrs = append(h.Addrs, m)
	}
	if f.Err() != nil {
		return Hello{}, fmt.Errorf("%w: %w", errHello, f.Err())
	}
	return h, nil
}

// readTail reads the end of a hello, which earlier versions do not have.
func readTail(r io.Reader, h *Hello) error {
	f := field.NewReader(r)
	n := int(f.Uint16())
	if f.Err() == io.EOF {
		return nil
	}
	if n > membership.MaxAssurance {
		f.Fail(fmt.Errorf("assurance of %d bytes", n))
	}
	h.Assurance = f.Bytes(n)
	if f.Err() == nil {
		n := int(f.Uint16())
		if f.Err() == io.EOF {
			return nil
		}
		if n > membership.MaxCharter {
			f.Fail(fmt.Errorf("charter of %d bytes", n))
		}
		h.Charter = f.Bytes(n)
	}
	if f.Err() != nil {
		return fmt.Errorf("%w: %w", errHello, f.Err())
	}
	return nil
}
