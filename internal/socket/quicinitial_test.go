package socket

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

// The client's Initial packet of RFC 9001, appendix A.2.
func TestInitialVector(t *testing.T) {
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	k, err := newInitialKeys(unhex("8394c8f03e515708"))
	if err != nil {
		t.Fatal(err)
	}
	if want := unhex("fa044b2f42a3fd3b46fb255c"); !bytes.Equal(k.iv, want) {
		t.Errorf("iv %x, want %x", k.iv, want)
	}
	if m := k.mask(unhex("d1b1c98dd7689fb8ec11d242b123dc9b")); !bytes.Equal(m[:5], unhex("437b9aec36")) {
		t.Errorf("mask %x", m[:5])
	}
	const header = "c300000001088394c8f03e5157080000449e00000002"
	const crypto = `060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e868
		04fe3a47f06a2b69484c00000413011302010000c000000010000e00000b6578
		616d706c652e636f6dff01000100000a00080006001d00170018001000070005
		04616c706e000500050100000000003300260024001d00209370b2c9caa47fba
		baf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b000302030400
		0d0010000e0403050306030203080408050806002d00020101001c0002400100
		3900320408ffffffffffffffff05048000ffff07048000ffff08011001048000
		75300901100f088394c8f03e51570806048000ffff`
	p := append(unhex(header), unhex(crypto)...)
	p = append(p, make([]byte, 1200-len(p))...)
	protect(p, 18)
	if want := unhex("c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11d242b123dc9b"); !bytes.HasPrefix(p, want) {
		t.Errorf("sealed %x…, want %x…", p[:len(want)], want)
	}
	if want := unhex("e221af44860018ab0856972e194cd934"); !bytes.HasSuffix(p, want) {
		t.Errorf("sealed …%x, want …%x", p[len(p)-16:], want)
	}
	opens := func(b []byte) bool {
		h, bad := parseLong(b)
		return bad == dropReasons && opensInitial(b, h)
	}
	if !opens(p) {
		t.Error("it does not open")
	}
	for i := range p {
		p[i] ^= 1
		if opens(p) {
			t.Errorf("it opens with another byte %d", i)
		}
		p[i] ^= 1
	}
	for n := range p {
		if opens(p[:n]) {
			t.Errorf("%d bytes of it open", n)
		}
	}
}

func BenchmarkOpensInitial(b *testing.B) {
	p := longPacket(longInitial, 1, 8, 4, 1200)
	h, _ := parseLong(p)
	b.ReportAllocs()
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		if !opensInitial(p, h) {
			b.Fatal("it does not open")
		}
	}
}
