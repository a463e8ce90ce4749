package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/idloc/idloc/internal/peerid"
)

const samplePwd = "0123456789abcdefghijklmnopqrst+/"

var update = flag.Bool("update", false, "make the golden vectors anew")

func samplePayload(kind Kind) *Payload {
	p := &Payload{
		Kind: kind, Session: [16]byte{1, 2, 3}, Timestamp: 1700000000000000, Start: 42, Index: 0xabcdef,
		MTU: 1472, Encapsulation: OuterUDP, AEADs: AES256GCM | ChaCha20Poly1305 | HasAES,
		Ufrag: Ufrag(samplePwd), Pwd: samplePwd, Relays: []peerid.ID{{7}, {8}},
		Candidates: []Candidate{
			{Type: Host, Priority: 2130706431, Foundation: "1", Addr: netip.MustParseAddrPort("192.0.2.1:4000")},
			{Type: ServerReflexive, Priority: 1, Foundation: "2", Addr: netip.MustParseAddrPort("[2001:db8::1]:5000"),
				Related: netip.MustParseAddrPort("192.0.2.1:4000")},
		},
		KEM: bytes.Repeat([]byte{9}, EncapKeyLen), Chain: []byte("a chain"),
	}
	if kind == Answer {
		p.AEADs, p.KEM = ChaCha20Poly1305, p.KEM[:EncapCtLen]
	}
	return p
}

// sampleFlow is a payload about a flow with null encapsulation.
func sampleFlow(kind Kind) *Payload {
	p := samplePayload(kind)
	p.Encapsulation = Null
	p.Candidates = []Candidate{
		{Type: Host, TCP: Passive, Priority: 1, Foundation: "1", Addr: netip.MustParseAddrPort("192.0.2.1:4000")},
		{Type: ServerReflexive, TCP: SimOpen, Priority: 1, Foundation: "2", Addr: netip.MustParseAddrPort("[2001:db8::1]:5000")},
	}
	p.Flow = Flow{Kind: FlowResume, Protocol: FlowTCP, V6: true, Policy: PolicyTLS, ID: [16]byte{1, 15: 2}, Epoch: 3,
		OpenerPort: 50000, ListenerPort: 80, Taken: 1 << 40, Ended: true, Closed: true, End: 1 << 41, Unread: 3 << 20}
	return p
}

var sampleFrames = []struct {
	name string
	f    Frame
}{
	{"ping", Frame{Type: FramePing, ID: 0x0102030405060708}},
	{"pong", Frame{Type: FramePong, ID: 0x0102030405060708}},
	{"path-challenge", Frame{Type: FramePathChallenge, ID: 1}},
	{"path-response", Frame{Type: FramePathResponse, ID: 1}},
	{"mtu-probe", Frame{Type: FrameMTUProbe, ID: 2, Size: 1472}},
	{"mtu-ack", Frame{Type: FrameMTUAck, ID: 2, Size: 1472}},
	{"confirm", Frame{Type: FrameConfirm, Flag: 1}},
	{"rekey-offer", Frame{Type: FrameRekeyOffer, Number: 3, Message: []byte("noise message 1")}},
	{"rekey-answer", Frame{Type: FrameRekeyAnswer, Number: 3, Message: []byte("noise message 2")}},
	{"close", Frame{Type: FrameClose, Flag: 1}},
	{"closed", Frame{Type: FrameClosed}},
	{"relay-bind", Frame{Type: FrameRelayBind, Peer: [32]byte{1, 31: 2}, Session: [16]byte{3, 15: 4}}},
	{"extension", Frame{Type: FrameExtension, Message: []byte("a later version's")}},
	{"extension-empty", Frame{Type: 0xff, Message: []byte{}}},
	{"relay-channel", Frame{Type: FrameRelayChannel, Session: [16]byte{3, 15: 4}, Flag: RelayBound, Size: 5}},
}

// golden compares b with the hex in testdata, or writes it.
func golden(t *testing.T, name string, b []byte) {
	t.Helper()
	file := filepath.Join("testdata", "golden", name+".hex")
	if *update {
		os.MkdirAll(filepath.Dir(file), 0o755)
		if err := os.WriteFile(file, []byte(hex.EncodeToString(b)+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if hex.EncodeToString(b) != strings.TrimSpace(string(want)) {
		t.Errorf("%s: %x", name, b)
	}
}

func TestGoldenComplete(t *testing.T) {
	files, err := filepath.Glob("testdata/golden/*.hex")
	if err != nil || len(files) < len(sampleFrames)+5 {
		t.Errorf("%d vectors, %v", len(files), err)
	}
}

func TestHeader(t *testing.T) {
	for _, typ := range []uint8{TypeData4, TypeData6, TypeCtrl, TypeFrag, TypeRelay} {
		h := Header{Type: typ, Index: 0x123456, Counter: 0x89abcdef}
		b := h.Append(nil)
		put := make([]byte, HeaderLen)
		if h.Put(put); !bytes.Equal(put, b) {
			t.Error("Put and Append differ")
		}
		if typ == TypeData4 {
			golden(t, "header", b)
		}
		d := append(b, make([]byte, TagLen+1)...)
		got, rest, ok := ParseHeader(d)
		if !ok || got != h || len(rest) != TagLen+1 {
			t.Errorf("%+v, %v", got, ok)
		}
		for n := range len(d) {
			if _, _, ok := ParseHeader(d[:n]); ok {
				t.Errorf("%d bytes are a datagram", n)
			}
		}
	}
	for typ := range 256 {
		d := append(Header{Type: uint8(typ), Index: 1}.Append(nil), make([]byte, 100)...)
		if _, _, ok := ParseHeader(d); ok != (typ >= TypeData4 && typ <= TypeRelay) {
			t.Errorf("type %#x: %v", typ, ok)
		}
	}
	if Overhead != 25 {
		t.Error("the overhead of a datagram is 25 bytes (DESIGN §6)")
	}
}

func TestPayload(t *testing.T) {
	for name, p := range map[string]*Payload{
		"offer": samplePayload(Offer), "answer": samplePayload(Answer), "flow-offer": sampleFlow(Offer), "flow-answer": sampleFlow(Answer),
	} {
		b := p.Append(nil)
		golden(t, name, b)
		got, err := ParsePayload(b)
		if err != nil || !reflect.DeepEqual(got, p) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		for n := range len(b) {
			if _, err := ParsePayload(b[:n]); !errors.Is(err, ErrShort) {
				t.Fatalf("%s of %d bytes: %v", name, n, err)
			}
		}
		if _, err := ParsePayload(append(b, 0)); !errors.Is(err, ErrTrailing) {
			t.Errorf("%s with a byte more: %v", name, err)
		}
	}
}

func TestPayloadRefused(t *testing.T) {
	for name, change := range map[string]func(*Payload){
		"kind":            func(p *Payload) { p.Kind = 3 },
		"index zero":      func(p *Payload) { p.Index = 0 },
		"MTU":             func(p *Payload) { p.MTU = 1199 },
		"encapsulation":   func(p *Payload) { p.Encapsulation = 2 },
		"null, no flow":   func(p *Payload) { p.Encapsulation = Null },
		"flow kind":       func(p *Payload) { *p = *sampleFlow(Offer); p.Flow.Kind = 3 },
		"flow protocol":   func(p *Payload) { *p = *sampleFlow(Offer); p.Flow.Protocol = 1 },
		"flow policy":     func(p *Payload) { *p = *sampleFlow(Offer); p.Flow.Policy = 3 },
		"flow's end":      func(p *Payload) { *p = *sampleFlow(Offer); p.Flow.Closed = false },
		"TCP type":        func(p *Payload) { p.Candidates[0].TCP = 4 },
		"no AEAD":         func(p *Payload) { p.AEADs = HasAES },
		"unknown AEAD":    func(p *Payload) { p.AEADs |= 4 },
		"long ufrag":      func(p *Payload) { p.Ufrag += "u" },
		"long password":   func(p *Payload) { p.Pwd += "p" },
		"short password":  func(p *Payload) { p.Pwd = p.Pwd[1:]; p.Ufrag = Ufrag(p.Pwd) },
		"password's text": func(p *Payload) { p.Pwd = "\n" + p.Pwd[1:]; p.Ufrag = Ufrag(p.Pwd) },
		"no ufrag":        func(p *Payload) { p.Ufrag = "" },
		"no password":     func(p *Payload) { p.Pwd = "" },
		// What reads as a command somewhere: for statsd, for redis, and in the
		// alphabet and length of a ufrag.
		"statsd's ufrag":  func(p *Payload) { p.Ufrag = "payments.failed:1000|c" },
		"redis' ufrag":    func(p *Payload) { p.Ufrag = "\r\nFLUSHALL\r\n" },
		"chosen ufrag":    func(p *Payload) { p.Ufrag = "FLUSHALL/0000000" },
		"relays":          func(p *Payload) { p.Relays = make([]peerid.ID, MaxRelays+1) },
		"candidates":      func(p *Payload) { p.Candidates = slicesRepeat(p.Candidates[0], MaxCandidates+1) },
		"candidate type":  func(p *Payload) { p.Candidates[0].Type = 5 },
		"no address":      func(p *Payload) { p.Candidates[0].Addr = netip.AddrPort{} },
		"foundation":      func(p *Payload) { p.Candidates[0].Foundation = strings.Repeat("f", 33) },
		"v4-mapped":       func(p *Payload) { p.Candidates[0].Addr = netip.MustParseAddrPort("[::ffff:192.0.2.1]:1") },
		"no ML-KEM key":   func(p *Payload) { p.KEM = nil },
		"ML-KEM length":   func(p *Payload) { p.KEM = p.KEM[1:] },
		"chain":           func(p *Payload) { p.Chain = make([]byte, MaxChain+1) },
		"answer's choice": func(p *Payload) { p.Kind, p.KEM = Answer, p.KEM[:EncapCtLen] },
	} {
		p := samplePayload(Offer)
		change(p)
		if p.Check() == nil {
			t.Errorf("%s: Check accepts it", name)
		}
		if _, err := ParsePayload(p.Append(nil)); err == nil {
			t.Errorf("%s: ParsePayload accepts it", name)
		}
	}
}

func slicesRepeat(c Candidate, n int) (cs []Candidate) {
	for range n {
		cs = append(cs, c)
	}
	return cs
}

func TestRefusal(t *testing.T) {
	for _, r := range []Refusal{Refused, Glare} {
		b := r.Append(nil)
		if got, ok := ParseRefusal(b); !ok || got != r || len(b) != 2 || b[0] != 3 {
			t.Errorf("%v: %x is read as %v, %v", r, b, got, ok)
		}
		if _, err := ParsePayload(b); err == nil {
			t.Errorf("%v is an answer", r)
		}
	}
	for _, b := range [][]byte{nil, {3}, {3, 0}, {3, 3}, {2, 1}, {3, 1, 0}, samplePayload(Answer).Append(nil)} {
		if r, ok := ParseRefusal(b); ok {
			t.Errorf("%.8x is read as %v", b, r)
		}
	}
	if s := fmt.Sprint(Refused, Glare, Refusal(9)); s != "refused the peer's own offer stands Refusal(9)" {
		t.Error(s)
	}
}

func TestCandidate(t *testing.T) {
	for _, c := range samplePayload(Offer).Candidates {
		b := c.Append(nil)
		got, rest, err := ParseCandidate(append(b, 1, 2))
		if err != nil || got != c || len(rest) != 2 {
			t.Errorf("%+v, %v", got, err)
		}
		golden(t, "candidate-"+c.Type.String(), b)
		for n := range len(b) {
			if _, _, err := ParseCandidate(b[:n]); !errors.Is(err, ErrShort) {
				t.Errorf("%d bytes: %v", n, err)
			}
		}
	}
	if s := fmt.Sprint(Host, ServerReflexive, PeerReflexive, Relayed, CandidateType(9)); s != "host srflx prflx relay CandidateType(9)" {
		t.Error(s)
	}
}

func TestFrames(t *testing.T) {
	var all []byte
	for _, c := range sampleFrames {
		b := c.f.Append(nil)
		golden(t, "frame-"+c.name, b)
		got, rest, err := ParseFrame(b)
		if err != nil || len(rest) != 0 || !reflect.DeepEqual(got, c.f) {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
		for n := 1; n < len(b); n++ {
			if _, _, err := ParseFrame(b[:n]); !errors.Is(err, ErrShort) {
				t.Errorf("%s of %d bytes: %v", c.name, n, err)
			}
		}
		all = append(all, b...)
	}
	rest := append(all, 0, 0, 0)
	for _, c := range sampleFrames {
		var got Frame
		var err error
		if got, rest, err = ParseFrame(rest); err != nil || !reflect.DeepEqual(got, c.f) {
			t.Fatalf("%s among others: %+v, %v", c.name, got, err)
		}
	}
	if f, rest, err := ParseFrame(rest); f.Type != framePadding || rest != nil || err != nil {
		t.Errorf("padding: %+v, %v, %v", f, rest, err)
	}
	for _, b := range [][]byte{{0, 0, 1}, {0x3f}, {0x0e, 0}, {byte(FrameConfirm), 2},
		append([]byte{byte(FrameRelayChannel), 15: 0}, 0, 0, 0, 0), // bound without a channel
	} {
		if _, _, err := ParseFrame(b); !errors.Is(err, ErrInvalid) {
			t.Errorf("% x: %v", b, err)
		}
	}
}

func TestRekey(t *testing.T) {
	for i, r := range []Rekey{
		{Kind: Offer, Number: 1, Index: 5},
		{Kind: Answer, Number: 8, Index: 5, KEM: make([]byte, EncapCtLen)},
		{Kind: Offer, Number: 8, Index: 5, KEM: make([]byte, EncapKeyLen)},
	} {
		b := r.Append(nil)
		if i == 0 {
			golden(t, "rekey", b)
			r.KEM = []byte{}
		}
		got, err := ParseRekey(b)
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("%+v, %v", got, err)
		}
		for n := range len(b) {
			if _, err := ParseRekey(b[:n]); err == nil {
				t.Errorf("%d bytes of %d were read", n, len(b))
			}
		}
	}
	for _, r := range []Rekey{
		{Kind: 3, Index: 5}, {Kind: Offer}, {Kind: Offer, Index: 1, KEM: make([]byte, EncapCtLen)},
	} {
		if _, err := ParseRekey(r.Append(nil)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", r.Kind, err)
		}
	}
}

func TestFragment(t *testing.T) {
	f := Fragment{Message: 0x1234, Kind: FragCtrl, Offset: 1464, More: true}
	b := f.Append(nil)
	golden(t, "fragment", b)
	got, piece, ok := ParseFragment(append(b, make([]byte, 16)...))
	if !ok || got != f || len(piece) != 16 {
		t.Errorf("%+v, %v", got, ok)
	}
	for _, c := range []struct {
		f  Fragment
		n  int
		ok bool
	}{
		{Fragment{}, 0, false},
		{Fragment{}, 1, true},
		{Fragment{More: true}, 7, false},
		{Fragment{More: true}, 8, true},
		{Fragment{Kind: 3}, 8, false},
		{Fragment{Offset: 65528}, 7, true},
		{Fragment{Offset: 65528}, 8, false},
	} {
		b := append(c.f.Append(nil), make([]byte, c.n)...)
		if got, _, ok := ParseFragment(b); ok != c.ok || ok && got != c.f {
			t.Errorf("%+v with %d bytes: %+v, %v", c.f, c.n, got, ok)
		}
	}
	for n := range FragHeaderLen {
		if _, _, ok := ParseFragment(make([]byte, n)); ok {
			t.Errorf("%d bytes are a fragment", n)
		}
	}
}
