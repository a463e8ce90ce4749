package pipe

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/idloc/idloc/internal/pipe/handshake"
	"github.com/idloc/idloc/internal/wire"
)

// What is sealed under the keys of the handshake's vectors are the datagrams that
// stand there, for either side, and the other side opens them.
func TestDatagramVectors(t *testing.T) {
	files, err := filepath.Glob("handshake/testdata/golden/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal("no vectors", err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var v struct{ AEAD, ToResponder, ToInitiator, Chaining, DataPlain, Data, CtrlPlain, CtrlOut string }
		if err := json.Unmarshal(b, &v); err != nil {
			t.Fatal(err)
		}
		un := func(s string) []byte {
			b, err := hex.DecodeString(s)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		aead := wire.AES256GCM
		if v.AEAD == handshake.AEADName(wire.ChaCha20Poly1305) {
			aead = wire.ChaCha20Poly1305
		}
		keys := func() *handshake.Secrets {
			return &handshake.Secrets{
				ToResponder: [32]byte(un(v.ToResponder)), ToInitiator: [32]byte(un(v.ToInitiator)), Chaining: [32]byte(un(v.Chaining)),
			}
		}
		a, r := &keypair{sendIndex: 0x040506}, &keypair{}
		for k, initiator := range map[*keypair]bool{a: true, r: false} {
			s := keys()
			if err := k.setKeys(s, aead, initiator); err != nil {
				t.Fatal(err)
			}
			if *s != (handshake.Secrets{}) || k.chaining != [32]byte(un(v.Chaining)) || k.initiator != initiator {
				t.Errorf("%s: keys of initiator %v", f, initiator)
			}
		}
		var nonce [nonceLen]byte
		for i, c := range []struct {
			typ         uint8
			plain, want []byte
		}{{wire.TypeData4, un(v.DataPlain), un(v.Data)}, {wire.TypeCtrl, un(v.CtrlPlain), un(v.CtrlOut)}} {
			d := make([]byte, wire.HeaderLen+len(c.plain)+wire.TagLen)
			copy(d[wire.HeaderLen:], c.plain)
			if !a.seal(c.typ, d, &nonce) || !bytes.Equal(d, c.want) {
				t.Errorf("%s: datagram %d is %x", f, i, d)
			}
			if plain, ok := r.open(nil, d, uint32(i), &nonce); !ok || !bytes.Equal(plain, c.plain) {
				t.Errorf("%s: datagram %d does not open", f, i)
			}
			if _, ok := r.open(nil, d, uint32(i+1), &nonce); ok || r.failed.Load() != uint64(i+1) {
				t.Errorf("%s: datagram %d opens under another counter", f, i)
			}
			if _, ok := a.open(nil, d, uint32(i), &nonce); ok {
				t.Errorf("%s: the sender opens its own datagram %d", f, i)
			}
		}
	}
}

// A counter is used once and none beyond the last.
func TestCounters(t *testing.T) {
	// Keys that no pipe has, for a pipe sends and gets a keepalive when it likes.
	send, err := handshake.NewAEAD(wire.AES256GCM, new([handshake.KeyLen]byte))
	if err != nil {
		t.Fatal(err)
	}
	k := &keypair{sendIndex: 7}
	k.keys.Store(&aeads{send: send})
	d := make([]byte, wire.HeaderLen+10+wire.TagLen)
	var nonce [nonceLen]byte
	for _, c := range []struct {
		next uint64
		ok   bool
	}{{1<<28 - 1, true}, {1 << 28, false}, {1<<28 + 1, false}} {
		k.next.Store(c.next)
		ok := k.seal(wire.TypeData4, d, &nonce)
		if ok != c.ok {
			t.Errorf("counter %d is sealed: %v", c.next, ok)
		}
		if h, _, _ := wire.ParseHeader(d); ok && (h.Counter != uint32(c.next) || h.Index != k.sendIndex) {
			t.Errorf("counter %d is %+v", c.next, h)
		}
	}
	for _, c := range []struct {
		counter uint32
		newest  bool
		ok      bool
		highest uint64
	}{
		{5, true, true, 6}, {5, false, false, 6}, {4, false, true, 6}, {6, true, true, 7},
		{9000, true, true, 9001}, {7, false, false, 9001}, {1 << 28, true, false, 9001}, {1<<28 - 1, true, true, 1 << 28},
	} {
		if k.newest(c.counter) != c.newest || k.accept(c.counter, false) != c.ok || k.received() != c.highest {
			t.Errorf("counter %d: highest %d", c.counter, k.received())
		}
	}
}
