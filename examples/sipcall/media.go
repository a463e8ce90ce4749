package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/pion/rtp"
	"github.com/pion/sdp/v3"

	"github.com/idloc/idloc/idloc"
)

const (
	frame      = 20 * time.Millisecond // of sound in one packet
	frameBytes = 160                   // G.711: 8,000 samples a second, a byte each
	pcmu       = 0                     // its payload type (RFC 3551 §6)
)

// describe is the SDP of a phone. Its addresses are the host's name: an LSI
// would mean another peer, or nobody, where it is read (draft §9.1), while a
// name means the same everywhere; SDP allows it (RFC 8866 §5.7).
func describe(host string, port int) ([]byte, error) {
	where := &sdp.Address{Address: host}
	now := uint64(time.Now().Unix())
	d := sdp.SessionDescription{
		Origin:                sdp.Origin{Username: "-", SessionID: now, SessionVersion: now, NetworkType: "IN", AddressType: "IP4", UnicastAddress: host},
		SessionName:           "-",
		ConnectionInformation: &sdp.ConnectionInformation{NetworkType: "IN", AddressType: "IP4", Address: where},
		TimeDescriptions:      []sdp.TimeDescription{{}},
		MediaDescriptions: []*sdp.MediaDescription{{
			MediaName:  sdp.MediaName{Media: "audio", Port: sdp.RangedPort{Value: port}, Protos: []string{"RTP", "AVP"}, Formats: []string{strconv.Itoa(pcmu)}},
			Attributes: []sdp.Attribute{{Key: "rtpmap", Value: fmt.Sprintf("%d PCMU/8000", pcmu)}, {Key: "ptime", Value: "20"}},
		}},
	}
	return d.Marshal()
}

// mediaAddress reads where the other phone wants its sound, and resolves the
// name as that phone's machine would be looked up by any program.
func mediaAddress(ctx context.Context, node *idloc.Node, body []byte) (*net.UDPAddr, error) {
	var d sdp.SessionDescription
	if err := d.Unmarshal(body); err != nil {
		return nil, fmt.Errorf("SDP: %w", err)
	}
	if len(d.MediaDescriptions) == 0 || d.ConnectionInformation == nil || d.ConnectionInformation.Address == nil {
		return nil, errors.New("SDP: no address for media")
	}
	host, port := d.ConnectionInformation.Address.Address, d.MediaDescriptions[0].MediaName.Port.Value
	if port <= 0 || port > 65535 {
		return nil, fmt.Errorf("SDP: port %d", port)
	}
	at, err := node.Resolver().LookupNetIP(ctx, "ip4", host)
	if err != nil {
		return nil, err
	}
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(at[0].Unmap(), uint16(port))), nil
}

// stream is the sound of one call at one phone: what it sends and what comes.
type stream struct {
	pc net.PacketConn
	to *net.UDPAddr
	wg sync.WaitGroup

	mu      sync.Mutex
	sent    []time.Time // of each sequence number
	arrived []time.Time // by the other's sequence number; zero: not yet
	more    chan struct{}
}

// talk sends a packet every 20 ms and takes what comes, until end.
func talk(ctx context.Context, pc net.PacketConn, to *net.UDPAddr) *stream {
	s := &stream{pc: pc, to: to, more: make(chan struct{})}
	s.wg.Go(func() { s.speak(ctx) })
	s.wg.Go(s.hear)
	return s
}

// end closes the socket and waits for both directions.
func (s *stream) end() {
	s.pc.Close()
	s.wg.Wait()
}

func (s *stream) speak(ctx context.Context) {
	tick := time.NewTicker(frame)
	defer tick.Stop()
	p := rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: pcmu, SSRC: 0x1d10c, Marker: true}, Payload: make([]byte, frameBytes)}
	for {
		for i := range p.Payload {
			p.Payload[i] = byte(int(p.SequenceNumber) + i)
		}
		b, err := p.Marshal()
		if err != nil {
			panic(err) // a constant header
		}
		s.mu.Lock()
		s.sent = append(s.sent, time.Now())
		s.mu.Unlock()
		if _, err := s.pc.WriteTo(b, s.to); errors.Is(err, net.ErrClosed) {
			return
		}
		p.Marker = false
		p.SequenceNumber++
		p.Timestamp += frameBytes
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *stream) hear() {
	b := make([]byte, 2048)
	for {
		n, _, err := s.pc.ReadFrom(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		var p rtp.Packet
		if err != nil || p.Unmarshal(b[:n]) != nil || p.PayloadType != pcmu || len(p.Payload) != frameBytes ||
			p.Payload[0] != byte(p.SequenceNumber) {
			continue
		}
		s.mu.Lock()
		seq := int(p.SequenceNumber)
		for len(s.arrived) <= seq {
			s.arrived = append(s.arrived, time.Time{})
		}
		if s.arrived[seq].IsZero() {
			s.arrived[seq] = time.Now()
			close(s.more)
			s.more = make(chan struct{})
		}
		s.mu.Unlock()
	}
}

// next is the number of the packet that is sent next.
func (s *stream) next() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sent)
}

// heard waits until the n-th packet after number from has come, some of those
// before it or not.
func (s *stream) heard(ctx context.Context, from, n int) error {
	for {
		s.mu.Lock()
		got := 0
		for _, at := range s.arrived[min(from, len(s.arrived)):] {
			if !at.IsZero() {
				got++
			}
		}
		more := s.more
		s.mu.Unlock()
		if got >= n {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d packets came: %w", got, n, ctx.Err())
		}
	}
}

// first is when the first packet with a number from from on came.
func (s *stream) first(from int) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, at := range s.arrived[min(from, len(s.arrived)):] {
		if !at.IsZero() {
			return at
		}
	}
	return time.Time{}
}

// reach is one more than the highest number that came.
func (s *stream) reach() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.arrived)
}

// loss is what became of the packets with the numbers in [from, to).
type loss struct {
	Sent, Lost int
	Silence    time.Duration // the longest that began here
}

func (s *stream) loss(from, to int) loss {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := loss{Sent: to - from}
	var last time.Time
	for seq := from; seq < len(s.arrived); seq++ {
		at := s.arrived[seq]
		if !at.IsZero() && !last.IsZero() {
			l.Silence = max(l.Silence, at.Sub(last))
		}
		if seq >= to {
			if !at.IsZero() {
				break
			}
			continue
		}
		if at.IsZero() {
			l.Lost++
		} else {
			last = at
		}
	}
	l.Lost += max(0, to-max(from, len(s.arrived)))
	return l
}
