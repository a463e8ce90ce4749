package pipe

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/idloc/idloc/internal/peerid"
)

// Errors that end a pipe or keep one from being made.
var (
	ErrClosed     = errors.New("pipe: closed")
	ErrPeerClosed = errors.New("pipe: closed by the peer")
	ErrIdle       = errors.New("pipe: idle")
	ErrDead       = errors.New("pipe: peer does not answer")
	ErrNotUp      = errors.New("pipe: not up")
)

type Endpoint struct{}
type Offer struct{}
type Session struct{}
type Pipe struct{}
type Batch struct{}
type Incoming struct {
	Peer    peerid.ID
	Remote  Remote
	Session [16]byte
}

func NewEndpoint(cfg Config) (*Endpoint, error)                                   { panic("") }
func (e *Endpoint) Receive(from Sender, remote netip.AddrPort, b []byte, seg int) {}
func (e *Endpoint) NewOffer(remote peerid.ID, local Local) (*Offer, error)        { panic("") }
func (e *Endpoint) ReadOffer(offer []byte) (*Incoming, error)                     { panic("") }
func (e *Endpoint) Up(s *Session, path Path) (*Pipe, error)                       { panic("") }
func (e *Endpoint) Pipe(peer peerid.ID) *Pipe                                     { panic("") }
func (e *Endpoint) Pipes() []*Pipe                                                { panic("") }
func (e *Endpoint) LastTimestamp() uint64                                         { panic("") }
func (e *Endpoint) AddLocal(s Sender)                                             {}
func (e *Endpoint) RemoveLocal(s Sender)                                          {}
func (e *Endpoint) Close() error                                                  { panic("") }
func (o *Offer) Bytes() []byte                                                    { panic("") }
func (o *Offer) Finish(answer []byte) (*Session, error)                           { panic("") }
func (o *Offer) Cancel()                                                          {}
func (in *Incoming) Accept(local Local) (answer []byte, s *Session, err error)    { panic("") }
func (in *Incoming) Reject()                                                      {}
func (s *Session) Peer() peerid.ID                                                { panic("") }
func (s *Session) Initiator() bool                                                { panic("") }
func (s *Session) Remote() Remote                                                 { panic("") }
func (s *Session) ID() [16]byte                                                   { panic("") }
func (s *Session) Cancel()                                                        {}
func (p *Pipe) Peer() peerid.ID                                                   { panic("") }
func (p *Pipe) Err() error                                                        { panic("") }
func (p *Pipe) Ready() <-chan struct{}                                            { panic("") }
func (p *Pipe) Closed() <-chan struct{}                                           { panic("") }
func (p *Pipe) Chain() []byte                                                     { panic("") }
func (p *Pipe) Close(err error)                                                   {}
func (p *Pipe) AddPath(path Path)                                                 {}
func (p *Pipe) Ping(ctx context.Context) (rtt time.Duration, path Path, err error) {
	panic("")
}
func (p *Pipe) Status() Status                                      { panic("") }
func (p *Pipe) MaxSegment() int                                     { panic("") }
func (p *Pipe) Open(dst, datagram []byte) (plain []byte, err error) { panic("") }
func (p *Pipe) Batch(v6 bool) *Batch                                { panic("") }
func (p *Pipe) SendLarge(v6 bool, plain []byte) error               { panic("") }
func (b *Batch) Room(n int) []byte                                  { panic("") }
func (b *Batch) Seal()                                              {}
func (b *Batch) Flush() error                                       { panic("") }
func (b *Batch) Free()                                              {}
