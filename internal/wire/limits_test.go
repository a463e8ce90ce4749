package wire

import (
	"bytes"
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/idloc/idloc/internal/peerid"
)

// What stands on the wire, and what others size their buffers by. A change here
// is a change of the protocol.
func TestConstants(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want int
	}{
		{"TypeData4", TypeData4, 0x80}, {"TypeData6", TypeData6, 0x81}, {"TypeCtrl", TypeCtrl, 0x82},
		{"TypeFrag", TypeFrag, 0x83}, {"TypeRelay", TypeRelay, 0x84},
		{"RelayHeaderLen", RelayHeaderLen, 2}, {"FromRelay", FromRelay, 0x8000}, {"MaxChannel", MaxChannel, 0x7fff},
		{"RelayOverhead", RelayOverhead, 26}, {"HeaderLen", HeaderLen, 8}, {"TagLen", TagLen, 16}, {"Overhead", Overhead, 25},
		{"MinDataLen", MinDataLen, 25}, {"MinLen", MinLen, 25}, {"MaxIndex", MaxIndex, 0xffffff}, {"BaseMTU", BaseMTU, 1200},
		{"RelayBound", int(RelayBound), 0}, {"RelayWaiting", int(RelayWaiting), 1}, {"RelayRefused", int(RelayRefused), 2},
		{"maxRekeyMessage", maxRekeyMessage, 2048},
		{"FragHeaderLen", FragHeaderLen, 4}, {"FragUnit", FragUnit, 8}, {"MaxMessage", MaxMessage, 65535},
		{"FragData4", int(FragData4), 0}, {"FragData6", int(FragData6), 1}, {"FragCtrl", int(FragCtrl), 2},
		{"Offer", int(Offer), 1}, {"Answer", int(Answer), 2}, {"kindRefusal", kindRefusal, 3},
		{"Refused", int(Refused), 1}, {"Glare", int(Glare), 2},
		{"AES256GCM", int(AES256GCM), 1}, {"ChaCha20Poly1305", int(ChaCha20Poly1305), 2}, {"HasAES", int(HasAES), 0x80},
		{"MaxCandidates", MaxCandidates, 16}, {"MaxRelays", MaxRelays, 2}, {"MaxChain", MaxChain, 1024},
		{"EncapKeyLen", EncapKeyLen, 1184}, {"EncapCtLen", EncapCtLen, 1088},
		{"OuterUDP", int(OuterUDP), 0}, {"Null", int(Null), 1},
		{"Host", int(Host), 1}, {"ServerReflexive", int(ServerReflexive), 2}, {"PeerReflexive", int(PeerReflexive), 3}, {"Relayed", int(Relayed), 4},
		{"Active", int(Active), 1}, {"Passive", int(Passive), 2}, {"SimOpen", int(SimOpen), 3}, {"maxFoundation", maxFoundation, 32},
		{"FlowOpen", int(FlowOpen), 1}, {"FlowResume", int(FlowResume), 2}, {"FlowForbidden", int(FlowForbidden), 16},
		{"FlowRefused", int(FlowRefused), 17}, {"FlowUnknown", int(FlowUnknown), 18}, {"FlowNoWay", int(FlowNoWay), 19},
		{"FlowTCP", int(FlowTCP), 6}, {"FlowUDP", int(FlowUDP), 17},
		{"PolicyRefuse", int(PolicyRefuse), 0}, {"PolicyTLS", int(PolicyTLS), 1}, {"PolicyPlain", int(PolicyPlain), 2},
		{"flowV6", flowV6, 1}, {"flowEnded", flowEnded, 2}, {"flowClosed", flowClosed, 4},
		{"FrameExtension", int(FrameExtension), 0x40},
		{"PwdLen", PwdLen, 32}, {"UfragLen", UfragLen, 16},
	} {
		if c.got != c.want {
			t.Errorf("%s is %#x, not %#x", c.name, c.got, c.want)
		}
	}
	for i, f := range []FrameType{framePadding, FramePing, FramePong, FramePathChallenge, FramePathResponse, FrameMTUProbe, FrameMTUAck,
		FrameConfirm, FrameRekeyOffer, FrameRekeyAnswer, FrameClose, FrameRelayBind, FrameRelayChannel, FrameClosed} {
		if int(f) != i {
			t.Errorf("frame type %d is %#x", i, uint8(f))
		}
	}
}

// The first failure of a cursor stays, and all reads after it give zero and
// take nothing.
func TestCursor(t *testing.T) {
	b := bytes.Repeat([]byte{0xff}, 100)
	good := cursor{b: b}
	if good.uint8("") != 0xff || good.uint16("") != 0xffff || good.uint24("") != 0xffffff || good.uint32("") != 0xffffffff ||
		good.uint64("") != 1<<64-1 || len(good.b) != 100-1-2-3-4-8 || good.err != nil {
		t.Errorf("%d bytes left, %v", len(good.b), good.err)
	}
	if v := good.take(10, ""); len(v) != 10 || cap(v) != 10 {
		t.Errorf("%d bytes taken, room for %d", len(v), cap(v))
	}
	if err := good.end(); !errors.Is(err, ErrTrailing) || !strings.Contains(err.Error(), "72 bytes") {
		t.Error(err)
	}
	for _, n := range []int{1, 2, 3, 4, 8} {
		c := cursor{b: b[:n-1]}
		v := map[int]func() uint64{
			1: func() uint64 { return uint64(c.uint8("field")) }, 2: func() uint64 { return uint64(c.uint16("field")) },
			3: func() uint64 { return uint64(c.uint24("field")) }, 4: func() uint64 { return uint64(c.uint32("field")) },
			8: func() uint64 { return c.uint64("field") },
		}[n]()
		if v != 0 || !errors.Is(c.err, ErrShort) || !strings.Contains(c.err.Error(), "field") {
			t.Errorf("%d bytes of %d: %d, %v", n-1, n, v, c.err)
		}
	}
	c := cursor{b: b}
	c.fail(ErrInvalid, "first")
	first := c.err
	c.fail(ErrShort, "second")
	if c.take(1, "") != nil || c.uint8("") != 0 || c.uint16("") != 0 || c.uint24("") != 0 || c.uint32("") != 0 || c.uint64("") != 0 ||
		c.bytes8(255, "") != nil || c.bytes16(1<<16, "") != nil || c.count(255, "") != 0 || c.addr("") != (netip.AddrPort{}) {
		t.Error("something was read after a failure")
	}
	if c.err != first || c.end() != first || len(c.b) != 100 {
		t.Errorf("%v, %d bytes left", c.err, len(c.b))
	}
}

// A length or a number beyond its limit is refused as such, before what it
// counts is looked for; one at the limit is not.
func TestLengths(t *testing.T) {
	for name, read := range map[string]func(*cursor, int){
		"bytes8":  func(c *cursor, limit int) { c.bytes8(limit, "field") },
		"bytes16": func(c *cursor, limit int) { c.bytes16(limit, "field") },
		"count":   func(c *cursor, limit int) { c.count(limit, "field") },
	} {
		length := []byte{7}
		if name == "bytes16" {
			length = []byte{0, 7}
		}
		over := cursor{b: length}
		if read(&over, 6); !errors.Is(over.err, ErrInvalid) {
			t.Errorf("%s beyond the limit: %v", name, over.err)
		}
		at := cursor{b: append(length, make([]byte, 7)...)}
		if read(&at, 7); at.err != nil {
			t.Errorf("%s at the limit: %v", name, at.err)
		}
	}
}

// What is at its limit goes through, for each limit that a payload has; what is
// one beyond does not, by Check and by the parser.
func TestPayloadLimits(t *testing.T) {
	full := samplePayload(Offer)
	full.Index, full.MTU = MaxIndex, BaseMTU
	full.Relays = make([]peerid.ID, MaxRelays)
	c := full.Candidates[0]
	c.Type, c.Foundation = Relayed, strings.Repeat("f", 32)
	full.Candidates = slicesRepeat(c, MaxCandidates)
	full.Chain = make([]byte, MaxChain)
	for name, p := range map[string]*Payload{
		"all at their limits": full,
		"no MTU":              func() *Payload { p := samplePayload(Offer); p.MTU = 0; return p }(),
		"AES only":            func() *Payload { p := samplePayload(Offer); p.AEADs = AES256GCM; return p }(),
		"ChaCha only":         func() *Payload { p := samplePayload(Offer); p.AEADs = ChaCha20Poly1305 | HasAES; return p }(),
		"answer of AES":       func() *Payload { p := samplePayload(Answer); p.AEADs = AES256GCM; return p }(),
		"no checks":           func() *Payload { p := samplePayload(Offer); p.Ufrag, p.Pwd = "", ""; return p }(),
		"index 1":             func() *Payload { p := samplePayload(Offer); p.Index = 1; return p }(),
	} {
		if err := p.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		got, err := ParsePayload(p.Append(nil))
		if err != nil || !reflect.DeepEqual(got, p) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, change := range map[string]func(*Payload){
		"no choice":         func(p *Payload) { p.AEADs = 0 },
		"two choices":       func(p *Payload) { p.AEADs = AES256GCM | ChaCha20Poly1305 },
		"choice and AES":    func(p *Payload) { p.AEADs = AES256GCM | HasAES },
		"an offer's KEM":    func(p *Payload) { p.KEM = make([]byte, EncapKeyLen) },
		"KEM one short":     func(p *Payload) { p.KEM = p.KEM[1:] },
		"KEM one more":      func(p *Payload) { p.KEM = append(p.KEM, 0) },
		"no KEM":            func(p *Payload) { p.KEM = nil },
		"flow without null": func(p *Payload) { p.Flow = sampleFlow(Answer).Flow },
	} {
		p := samplePayload(Answer)
		p.KEM = bytes.Clone(p.KEM)
		change(p)
		if err := p.Check(); !errors.Is(err, ErrInvalid) {
			t.Errorf("answer, %s: %v", name, err)
		}
		if name == "flow without null" { // nothing of it is sent
			continue
		}
		if _, err := ParsePayload(p.Append(nil)); !errors.Is(err, ErrInvalid) {
			t.Errorf("answer, %s: parsed: %v", name, err)
		}
	}
	over := samplePayload(Offer)
	over.Index = MaxIndex + 1
	if over.Check() == nil {
		t.Error("an index of 25 bits")
	}
}

// Each field of a candidate is refused by the parser that late candidates go
// through, and its neighbours at the limit are not.
func TestCandidateLimits(t *testing.T) {
	good := Candidate{Type: Relayed, TCP: SimOpen, Priority: 1<<32 - 1, Foundation: strings.Repeat("f", 32),
		Addr: netip.MustParseAddrPort("[2001:db8::1]:65535"), Related: netip.MustParseAddrPort("192.0.2.1:0")}
	if got, rest, err := ParseCandidate(good.Append(nil)); err != nil || got != good || len(rest) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	for name, change := range map[string]func(*Candidate){
		"type 0":            func(c *Candidate) { c.Type = 0 },
		"type 5":            func(c *Candidate) { c.Type = 5 },
		"TCP 4":             func(c *Candidate) { c.TCP = 4 },
		"foundation":        func(c *Candidate) { c.Foundation += "f" },
		"no address":        func(c *Candidate) { c.Addr = netip.AddrPort{} },
		"v4-mapped":         func(c *Candidate) { c.Addr = netip.MustParseAddrPort("[::ffff:192.0.2.1]:1") },
		"related v4-mapped": func(c *Candidate) { c.Related = netip.MustParseAddrPort("[::ffff:192.0.2.1]:1") },
	} {
		c := good
		change(&c)
		if c.valid() {
			t.Errorf("%s: valid", name)
		}
		if got, rest, err := ParseCandidate(c.Append(nil)); !errors.Is(err, ErrInvalid) || got != (Candidate{}) || rest != nil {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	zone := good
	zone.Addr = netip.AddrPortFrom(netip.MustParseAddr("fe80::1%eth0"), 1)
	if zone.valid() {
		t.Error("an address with a zone")
	}
	portOnly := good
	portOnly.Related = netip.AddrPortFrom(netip.Addr{}, 9)
	if portOnly.valid() {
		t.Error("a port without an address")
	}
	family := good.Append(nil)
	family[1+4+1+32] = 5
	if _, _, err := ParseCandidate(family); !errors.Is(err, ErrInvalid) {
		t.Errorf("an address of family 5: %v", err)
	}
	for typ, want := range map[TCPType]string{Active: "active", Passive: "passive", SimOpen: "so", 0: "TCPType(0)", 4: "TCPType(4)"} {
		if typ.String() != want {
			t.Errorf("%d: %q", typ, typ)
		}
	}
}

// Both sides of each bound of a frame.
func TestFrameLimits(t *testing.T) {
	if f, rest, err := ParseFrame(nil); !reflect.DeepEqual(f, Frame{}) || rest != nil || err != nil {
		t.Errorf("nothing: %+v, %v", f, err)
	}
	message := func(n int) Frame { return Frame{Type: FrameRekeyOffer, Number: 1, Message: make([]byte, n)} }
	channel := func(flag uint8, size uint16) Frame { return Frame{Type: FrameRelayChannel, Flag: flag, Size: size} }
	for _, c := range []struct {
		f  Frame
		ok bool
	}{
		{message(0), true}, {message(2048), true}, {message(2049), false},
		{Frame{Type: FrameConfirm, Flag: 0}, true}, {Frame{Type: FrameConfirm, Flag: 1}, true}, {Frame{Type: FrameConfirm, Flag: 2}, false},
		{Frame{Type: FrameClose, Flag: 255}, true},
		{channel(RelayBound, 1), true}, {channel(RelayBound, MaxChannel), true}, {channel(RelayBound, MaxChannel+1), false},
		{channel(RelayBound, 0), false}, {channel(RelayWaiting, 0), true}, {channel(RelayWaiting, 1), false},
		{channel(RelayRefused, 0), true}, {channel(RelayRefused, 1), false}, {channel(3, 0), false},
		{Frame{Type: 0x0e}, false},
	} {
		f, rest, err := ParseFrame(append(c.f.Append(nil), 1))
		if (err == nil) != c.ok || c.ok && (f.Type != c.f.Type || len(rest) != 1) || !c.ok && (!errors.Is(err, ErrInvalid) || !reflect.DeepEqual(f, Frame{}) || rest != nil) {
			t.Errorf("%#x, flag %d, size %d, message of %d: %v", uint8(c.f.Type), c.f.Flag, c.f.Size, len(c.f.Message), err)
		}
	}
}

// Both sides of each bound of a rekey, a fragment and a flow.
func TestOtherLimits(t *testing.T) {
	for _, c := range []struct {
		r  Rekey
		ok bool
	}{
		{Rekey{Kind: Offer, Index: 1}, true}, {Rekey{Kind: Answer, Index: 1}, true}, {Rekey{Kind: 0, Index: 1}, false}, {Rekey{Kind: 3, Index: 1}, false},
		{Rekey{Kind: Offer, Index: 0}, false},
		{Rekey{Kind: Offer, Index: 1, KEM: make([]byte, EncapKeyLen)}, true}, {Rekey{Kind: Offer, Index: 1, KEM: make([]byte, EncapKeyLen-1)}, false},
		{Rekey{Kind: Offer, Index: 1, KEM: make([]byte, EncapKeyLen+1)}, false}, {Rekey{Kind: Answer, Index: 1, KEM: make([]byte, EncapKeyLen)}, false},
		{Rekey{Kind: Answer, Index: 1, KEM: make([]byte, EncapCtLen)}, true}, {Rekey{Kind: Answer, Index: 1, KEM: make([]byte, EncapCtLen+1)}, false},
		{Rekey{Kind: Offer, Index: 1, KEM: make([]byte, EncapCtLen)}, false}, {Rekey{Kind: Offer, Index: 1, KEM: []byte{1}}, false},
	} {
		if got, err := ParseRekey(c.r.Append(nil)); (err == nil) != c.ok || err != nil && (!errors.Is(err, ErrInvalid) || got.Kind != 0) {
			t.Errorf("rekey of kind %d with %d bytes: %v", c.r.Kind, len(c.r.KEM), err)
		}
	}
	if _, err := ParseRekey(append(Rekey{Kind: Offer, Index: 1}.Append(nil), 0)); !errors.Is(err, ErrTrailing) {
		t.Errorf("a byte more: %v", err)
	}
	for _, c := range []struct {
		f  Fragment
		n  int
		ok bool
	}{
		{Fragment{Kind: FragCtrl}, 1, true}, {Fragment{Kind: FragCtrl + 1}, 1, false},
		{Fragment{Offset: 65528}, 7, true}, {Fragment{Offset: 65528}, 8, false}, {Fragment{Offset: 65520, More: true}, 8, true},
		{Fragment{Offset: 8, More: true}, 16, true}, {Fragment{More: true}, 9, false}, {Fragment{}, 0, false},
	} {
		f, piece, ok := ParseFragment(append(c.f.Append(nil), make([]byte, c.n)...))
		if ok != c.ok || ok && (f != c.f || len(piece) != c.n) || !ok && (f != Fragment{} || piece != nil) {
			t.Errorf("%+v of %d bytes: %+v, %v", c.f, c.n, f, ok)
		}
	}
	good := sampleFlow(Offer).Flow
	if got, rest, err := parseFlow(append(good.Append(nil), 1)); err != nil || got != good || len(rest) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	for name, change := range map[string]func(*Flow){
		"kind 0": func(f *Flow) { f.Kind = 0 }, "kind 3": func(f *Flow) { f.Kind = 3 }, "kind 15": func(f *Flow) { f.Kind = 15 }, "kind 20": func(f *Flow) { f.Kind = 20 },
		"protocol": func(f *Flow) { f.Protocol = 132 }, "policy": func(f *Flow) { f.Policy = 3 }, "end of none": func(f *Flow) { f.Closed = false },
	} {
		f := good
		change(&f)
		if got, rest, err := parseFlow(f.Append(nil)); !errors.Is(err, ErrInvalid) || got != (Flow{}) || rest != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, kind := range []FlowKind{FlowOpen, FlowResume, FlowForbidden, FlowRefused, FlowUnknown, FlowNoWay} {
		for _, protocol := range []uint8{FlowTCP, FlowUDP} {
			for _, policy := range []uint8{PolicyRefuse, PolicyTLS, PolicyPlain} {
				f := Flow{Kind: kind, Protocol: protocol, Policy: policy}
				if got, _, err := parseFlow(f.Append(nil)); err != nil || got != f {
					t.Errorf("%+v: %v", f, err)
				}
			}
		}
	}
	for _, flags := range []byte{8, 0x80} {
		b := good.Append(nil)
		b[3] |= flags
		if _, _, err := parseFlow(b); !errors.Is(err, ErrInvalid) {
			t.Errorf("flag %#x: %v", flags, err)
		}
	}
}

// A number beyond its limit is refused as such also when the message ends there.
func TestPayloadNumbers(t *testing.T) {
	b := samplePayload(Offer).Append(nil)
	const ufrag = 1 + 16 + 8 + 8 + 3 + 2 + 1 + 1
	const pwd, relays = ufrag + 1 + UfragLen, ufrag + 1 + UfragLen + 1 + PwdLen
	candidates := relays + 1 + 2*peerid.Size
	for name, c := range map[string]struct {
		at    int
		limit byte
	}{"ufrag": {ufrag, UfragLen}, "password": {pwd, PwdLen}, "relays": {relays, MaxRelays}, "candidates": {candidates, MaxCandidates}} {
		for n, want := range map[byte]error{c.limit: ErrShort, c.limit + 1: ErrInvalid, 255: ErrInvalid} {
			cut := append(bytes.Clone(b[:c.at]), n)
			if _, err := ParsePayload(cut); !errors.Is(err, want) {
				t.Errorf("%d as the number of %s: %v", n, name, err)
			}
		}
	}
}
