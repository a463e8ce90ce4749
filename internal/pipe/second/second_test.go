package second_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/pipe/second"
	"github.com/idloc/idloc/internal/wire"
)

var overlay = [32]byte{1, 2, 3}

// first is an endpoint of package pipe.
type first struct {
	*pipe.Endpoint
	id    [32]byte
	mu    sync.Mutex
	plain [][]byte // what was opened
	large [][]byte
	gone  int
	whole bool
	out   [][]byte // datagrams that it has sent
}

var (
	here  = netip.MustParseAddrPort("192.0.2.1:1")
	there = netip.MustParseAddrPort("192.0.2.2:2")
)

func (f *first) LocalAddr() netip.AddrPort { return here }

func (f *first) WriteBatch(b []byte, seg int, to netip.AddrPort) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(b) > 0 {
		n := min(seg, len(b))
		f.out = append(f.out, bytes.Clone(b[:n]))
		b = b[n:]
	}
	return nil
}

func (f *first) data(p *pipe.Pipe, b []byte, seg int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(b) > 0 {
		n := min(seg, len(b))
		if plain, err := p.Open(nil, b[:n]); err == nil {
			f.plain = append(f.plain, plain)
		}
		b = b[n:]
	}
}

func (f *first) message(plain []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.large = append(f.large, bytes.Clone(plain))
}

// meeting is an endpoint of package pipe and one of package second, which have a
// pipe.
type meeting struct {
	t    *testing.T
	f    *first
	p    *pipe.Pipe
	keys []*second.Keys // the newest last
	next uint32
}

func begin(t *testing.T, aes bool) (*first, *second.Peer) {
	f := &first{}
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	e, err := pipe.NewEndpoint(pipe.Config{Key: key, Overlay: overlay, Handler: handler{f}, HasAES: &aes})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	f.Endpoint, f.id = e, [32]byte(key.Public().(ed25519.PublicKey))
	other, err := second.NewPeer(bytes.Repeat([]byte{7}, 32), overlay)
	if err != nil {
		t.Fatal(err)
	}
	return f, other
}

const password = "0123456789abcdefghijklmnopqrst+/"

func (m *meeting) index() uint32 { m.next++; return 0x123400 + m.next }

// send has the first get a datagram.
func (m *meeting) send(kind byte, plain []byte) {
	m.f.Receive(m.f, there, m.keys[len(m.keys)-1].Seal(kind, plain), 1500)
	synctest.Wait()
}

// taken opens what the first has sent since.
func (m *meeting) taken() (frames []second.Frame, data [][]byte) {
	m.t.Helper()
	m.f.mu.Lock()
	out := m.f.out
	m.f.out = nil
	m.f.mu.Unlock()
	for _, d := range out {
		var k *second.Keys
		for _, have := range m.keys {
			if have.In() == second.Index(d) {
				k = have
			}
		}
		if k == nil {
			m.t.Fatalf("a datagram for the index %#x", second.Index(d))
		}
		kind, plain, err := k.Open(d)
		if err != nil {
			m.t.Fatalf("a datagram of type %#x: %v", d[0], err)
		}
		if kind != second.Ctrl {
			data = append(data, append([]byte{kind}, plain...))
			continue
		}
		fs, err := second.Frames(plain)
		if err != nil {
			m.t.Fatal(err)
		}
		frames = append(frames, fs...)
	}
	return frames, data
}

// want looks for a frame of that type.
func (m *meeting) want(kind byte) second.Frame {
	m.t.Helper()
	frames, _ := m.taken()
	for _, f := range frames {
		if f.Type == kind {
			return f
		}
	}
	m.t.Fatalf("no frame of type %d in %v", kind, frames)
	return second.Frame{}
}

// asInitiator has the second offer.
func asInitiator(t *testing.T, aes bool) *meeting {
	f, other := begin(t, aes)
	m := &meeting{t: t, f: f}
	o, err := other.Offer(f.id, second.Payload{Session: [16]byte{9}, Timestamp: uint64(time.Now().UnixMicro()), Start: 5, Index: m.index(), MTU: 1472, AEADs: 0x83, Password: password, Chain: []byte("a chain")})
	if err != nil {
		t.Fatal(err)
	}
	in, err := f.ReadOffer(o.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if string(in.Remote.Chain) != "a chain" || in.Remote.Pwd != password || in.Remote.Start != 5 || in.Remote.MTU != 1472 || [32]byte(in.Peer) != other.ID {
		t.Errorf("the offer was read as %+v", in)
	}
	answer, s, err := in.Accept(pipe.Local{Chain: []byte("another"), Ufrag: wire.Ufrag(password), Pwd: password, MTU: 1400})
	if err != nil {
		t.Fatal(err)
	}
	said, k, err := o.Finish(answer)
	if err != nil {
		t.Fatal(err)
	}
	if string(said.Chain) != "another" || said.Password != password || said.MTU != 1400 || said.Start != f.Start() {
		t.Errorf("the answer was read as %+v", said)
	}
	m.keys = []*second.Keys{k}
	if m.p, err = f.Endpoint.Up(s, pipe.Path{Local: f, Remote: there}); err != nil {
		t.Fatal(err)
	}
	m.send(second.Ctrl, []byte{second.Confirm, 0})
	if got := m.want(second.Confirm); got.Body[0] != 1 {
		t.Errorf("CONFIRM(0) was answered by CONFIRM(%d)", got.Body[0])
	}
	return m
}

// asResponder has the second answer.
func asResponder(t *testing.T, aes bool) *meeting {
	f, other := begin(t, aes)
	m := &meeting{t: t, f: f}
	o, err := f.NewOffer(other.ID, pipe.Local{Chain: []byte("a chain"), Ufrag: wire.Ufrag(password), Pwd: password,
		Candidates: []wire.Candidate{{Type: wire.Host, Priority: 9, Foundation: "1", Addr: here}}})
	if err != nil {
		t.Fatal(err)
	}
	answer, said, k, err := other.Answer(o.Bytes(), second.Payload{Start: 5, Index: m.index(), MTU: 1472, Chain: []byte("another")})
	if err != nil {
		t.Fatal(err)
	}
	if string(said.Chain) != "a chain" || said.Password != password || said.Start != f.Start() {
		t.Errorf("the offer was read as %+v", said)
	}
	s, err := o.Finish(answer)
	if err != nil {
		t.Fatal(err)
	}
	if string(s.Remote().Chain) != "another" || s.Remote().Start != 5 {
		t.Errorf("the answer was read as %+v", s.Remote())
	}
	m.keys = []*second.Keys{k}
	if m.p, err = f.Endpoint.Up(s, pipe.Path{Local: f, Remote: there}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	synctest.Wait()
	if got := m.want(second.Confirm); got.Body[0] != 0 {
		t.Errorf("the initiator confirms by CONFIRM(%d)", got.Body[0])
	}
	m.send(second.Ctrl, []byte{second.Confirm, 1})
	return m
}

// data goes both ways, whole and in pieces.
func (m *meeting) data() {
	m.t.Helper()
	m.send(second.Data4, []byte("\x06to the first"))
	m.send(second.Data6, []byte("\x11over IPv6"))
	m.f.mu.Lock()
	got := m.f.plain
	m.f.plain = nil
	m.f.mu.Unlock()
	if len(got) != 2 || string(got[0]) != "\x06to the first" || string(got[1]) != "\x11over IPv6" {
		m.t.Errorf("the first got %q", got)
	}
	// A message in two pieces, the later one first.
	whole := append([]byte{17}, bytes.Repeat([]byte("x"), 1999)...)
	m.send(second.Frag, append([]byte{0, 1, 0, 125 << 1}, whole[1000:]...))
	m.send(second.Frag, append([]byte{0, 1, 0, 1}, whole[:1000]...))
	m.f.mu.Lock()
	large := m.f.large
	m.f.large = nil
	m.f.mu.Unlock()
	if len(large) != 1 || !bytes.Equal(large[0], whole) {
		m.t.Errorf("the first made %d messages of two pieces", len(large))
	}

	m.taken()
	b := m.p.Batch(true)
	copy(b.Room(5), "\x06back")
	b.Seal()
	if err := b.Flush(); err != nil {
		m.t.Error(err)
	}
	b.Free()
	if err := m.p.SendLarge(false, whole, 0); err != nil {
		m.t.Error(err)
	}
	_, sent := m.taken()
	if len(sent) < 3 || string(sent[0]) != "\x81\x06back" {
		m.t.Fatalf("the second got %d datagrams", len(sent))
	}
	pieces := make([]byte, len(whole))
	have := 0
	for _, d := range sent[1:] {
		v := binary.BigEndian.Uint16(d[3:])
		if d[0] != second.Frag || v>>14 != 0 {
			m.t.Fatalf("a piece of kind %#x", d[:5])
		}
		have += copy(pieces[int(v>>1&0x1fff)*8:], d[5:])
	}
	if have != len(whole) || !bytes.Equal(pieces, whole) {
		m.t.Errorf("%d bytes in pieces", have)
	}
}

func (m *meeting) frames() {
	m.t.Helper()
	id := binary.BigEndian.AppendUint64(nil, 77)
	// What the first does not know it skips.
	m.send(second.Ctrl, slices.Concat([]byte{0x40, 0, 3, 1, 2, 3}, []byte{0xff, 0, 0}, []byte{second.Ping}, id))
	if got := m.want(second.Pong); !bytes.Equal(got.Body, id) {
		m.t.Errorf("PONG %x", got.Body)
	}
	m.send(second.Ctrl, append([]byte{second.PathChallenge}, id...))
	if got := m.want(second.PathResponse); !bytes.Equal(got.Body, id) {
		m.t.Errorf("PATH_RESPONSE %x", got.Body)
	}
	probe := append(append([]byte{second.MTUProbe}, id...), 5, 0)
	m.send(second.Ctrl, append(probe, make([]byte, 1280-24-len(probe))...))
	if got := m.want(second.MTUAck); !bytes.Equal(got.Body, append(id, 5, 0)) {
		m.t.Errorf("MTU_ACK %x", got.Body)
	}
}

// rekey makes new keys; the second begins, or waits until the first does.
func (m *meeting) rekey(mine bool) {
	m.t.Helper()
	newest := m.keys[len(m.keys)-1]
	if mine {
		m.taken()
		r, err := newest.Rekey(m.index())
		if err != nil {
			m.t.Fatal(err)
		}
		m.send(second.Ctrl, r.Bytes)
		n, err := r.Finish(m.want(second.RekeyAnswer))
		if err != nil {
			m.t.Fatal(err)
		}
		m.keys = append(m.keys, n)
		m.send(second.Ctrl, []byte{second.Confirm, 0})
		m.want(second.Confirm)
		return
	}
	for range 150 {
		time.Sleep(time.Second)
		synctest.Wait()
		frames, _ := m.taken()
		for _, f := range frames {
			switch f.Type {
			case second.Ping:
				m.send(second.Ctrl, append([]byte{second.Pong}, f.Body...))
			case second.RekeyOffer:
				answer, n, err := newest.AnswerRekey(f, m.index())
				if err != nil {
					m.t.Fatal(err)
				}
				m.send(second.Ctrl, answer)
				m.keys = append(m.keys, n)
				m.send(second.Ctrl, []byte{second.Confirm, 1})
				return
			}
		}
	}
	m.t.Fatal("the first began no rekey")
}

// TestSecond: whatever side the second takes, and whatever AEAD is chosen, the two
// understand each other, through more rekeys than there are without ML-KEM, to the
// end.
func TestSecond(t *testing.T) {
	for name, with := range map[string]struct {
		meet   func(*testing.T, bool) *meeting
		aes    bool
		reason byte // it ends with
		whole  bool // which says that all was delivered
	}{
		"initiator, AES": {asInitiator, true, 2, false}, "initiator, ChaCha20": {asInitiator, false, 3, false},
		"responder, AES": {asResponder, true, 4, true}, "responder, ChaCha20": {asResponder, false, 5, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := with.meet(t, with.aes)
				m.data()
				m.frames()
				for range 9 {
					time.Sleep(time.Second) // at the rate at which they are answered
					m.rekey(true)
					m.data()
				}
				m.rekey(false)
				m.data()
				if n := m.keys[len(m.keys)-1].Number; n != 10 {
					t.Errorf("%d rekeys", n)
				}
				m.send(second.Ctrl, []byte{second.Close, with.reason})
				m.want(second.Closed)
				if m.f.gone != 1 || m.f.whole != with.whole {
					t.Errorf("Gone was said %d times; that all was delivered: %v", m.f.gone, m.f.whole)
				}
			})
		})
	}
}

// TestSecondRefused: the second learns a refusal.
func TestSecondRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, other := begin(t, true)
		o, err := other.Offer(f.id, second.Payload{Session: [16]byte{9}, Timestamp: uint64(time.Now().UnixMicro()), Start: 5, Index: 1, AEADs: 3})
		if err != nil {
			t.Fatal(err)
		}
		in, err := f.ReadOffer(o.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := o.Finish(in.Refuse(wire.Refused)); err == nil || err.Error() != "refused: 1" {
			t.Errorf("a refusal reads as %v", err)
		}
	})
}

// handler passes on what the endpoint says: Up of a Handler is not that of the
// Endpoint.
type handler struct{ f *first }

func (h handler) Data(p *pipe.Pipe, b []byte, seg int)     { h.f.data(p, b, seg) }
func (h handler) Large(_ *pipe.Pipe, _ bool, plain []byte) { h.f.message(plain) }
func (h handler) Up(*pipe.Pipe)                            {}
func (h handler) Down(*pipe.Pipe, error)                   {}
func (h handler) Gone(_ peerid.ID, err error) {
	h.f.mu.Lock()
	defer h.f.mu.Unlock()
	h.f.gone++
	h.f.whole = errors.Is(err, pipe.ErrPeerDelivered)
}
