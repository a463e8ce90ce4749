package wire

import (
	"bytes"
	"testing"
)

// What a parser accepts, Append gives again: the layouts are canonical.

func FuzzPayload(f *testing.F) {
	f.Add(samplePayload(Offer).Append(nil))
	f.Add(samplePayload(Answer).Append(nil))
	f.Add(sampleFlow(Offer).Append(nil))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePayload(b)
		if err != nil {
			return
		}
		if err := p.Check(); err != nil {
			t.Fatal(err)
		}
		if got := p.Append(nil); !bytes.Equal(got, b) {
			t.Fatalf("%x became %x", b, got)
		}
	})
}

func FuzzCandidate(f *testing.F) {
	for _, c := range append(samplePayload(Offer).Candidates, sampleFlow(Offer).Candidates...) {
		f.Add(c.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, rest, err := ParseCandidate(b)
		if err != nil {
			return
		}
		if got := append(c.Append(nil), rest...); !bytes.Equal(got, b) {
			t.Fatalf("%x became %x", b, got)
		}
	})
}

func FuzzFrame(f *testing.F) {
	for _, c := range sampleFrames {
		f.Add(append(c.f.Append(nil), 0, 0))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, rest, err := ParseFrame(b)
		if err != nil || fr.Type == framePadding {
			return
		}
		if got := append(fr.Append(nil), rest...); !bytes.Equal(got, b) {
			t.Fatalf("%x became %x", b, got)
		}
	})
}

func FuzzRekey(f *testing.F) {
	f.Add(Rekey{Kind: Offer, Number: 1, Index: 2}.Append(nil))
	f.Add(Rekey{Kind: Answer, Number: 8, Index: 2, KEM: make([]byte, EncapCtLen)}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRekey(b)
		if err != nil {
			return
		}
		if got := r.Append(nil); !bytes.Equal(got, b) {
			t.Fatalf("%x became %x", b, got)
		}
	})
}

func FuzzDatagram(f *testing.F) {
	f.Add(append(Header{Type: TypeData4, Index: 1}.Append(nil), make([]byte, 20)...))
	f.Add(append(Fragment{Message: 1, More: true}.Append(nil), make([]byte, 24)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, rest, ok := ParseHeader(b); ok {
			if got := append(h.Append(nil), rest...); !bytes.Equal(got, b) {
				t.Fatalf("header: %x became %x", b, got)
			}
		}
		if fr, piece, ok := ParseFragment(b); ok {
			if got := append(fr.Append(nil), piece...); !bytes.Equal(got, b) {
				t.Fatalf("fragment: %x became %x", b, got)
			}
		}
	})
}
