package stun

import (
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/idloc/idloc/internal/yardstick"
)

const vectorPwd = "VOkJxbRl1RmTxUk/WvJxBt"

// vector reads a file of hexadecimal bytes; lines that begin with # are comments.
func vector(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var digits strings.Builder
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "#") {
			digits.WriteString(strings.Join(strings.Fields(line), ""))
		}
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return b
}

// The messages of RFC 5769 say what it says that they say.
func TestVectors(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.hex")
	if err != nil || len(files) != 3 {
		t.Fatalf("%v, %v", files, err)
	}
	id := TransactionID{0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae}
	for name, want := range map[string]struct {
		kind   Kind
		mapped string
	}{
		"rfc5769-2.1-request.hex": {kind: Request},
		"rfc5769-2.2-ipv4.hex":    {Response, "192.0.2.1:32853"},
		"rfc5769-2.3-ipv6.hex":    {Response, "[2001:db8:1234:5678:11:2233:4455:6677]:32853"},
	} {
		b := vector(t, name)
		kind, got := Classify(b)
		if kind != want.kind || got != id {
			t.Errorf("%s: kind %v, transaction %x", name, kind, got)
		}
		m, err := Parse(b)
		if err != nil || m.ID() != id || m.IsRequest() != (kind == Request) || m.IsSuccess() != (kind == Response) {
			t.Fatalf("%s: %+v, %v", name, m, err)
		}
		if !m.Verify(vectorPwd) || m.Verify(vectorPwd+"x") || m.Verify("") {
			t.Errorf("%s: the integrity is not that of the password", name)
		}
		if a, ok := m.Mapped(); ok != (want.mapped != "") || ok && a != netip.MustParseAddrPort(want.mapped) {
			t.Errorf("%s: mapped %v, %v", name, a, ok)
		}
		if IsAnswer(b, vectorPwd) != (kind == Response) || IsAnswer(b, "x") {
			t.Errorf("%s: is it an answer?", name)
		}
	}
	request := vector(t, "rfc5769-2.1-request.hex")
	m, err := Parse(request)
	if err != nil {
		t.Fatal(err)
	}
	if receiver, sender, ok := m.Users(); !ok || receiver != "evtj" || sender != "h6vY" {
		t.Errorf("users %q and %q, %v", receiver, sender, ok)
	}
	if m.Role() != Controlled || RoleOf(request) != Controlled || m.Nominates() || Nominates(request) {
		t.Errorf("role %v, nominates %v", m.Role(), m.Nominates())
	}
	if got := string(Username(request)); got != "evtj" {
		t.Errorf("fragment %q", got)
	}
}

// A message that is cut or damaged anywhere is none, and nothing panics.
func TestVectorsDamaged(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"rfc5769-2.1-request.hex", "rfc5769-2.2-ipv4.hex", "rfc5769-2.3-ipv6.hex"} {
		b := vector(t, name)
		for i := range b {
			if kind, _ := Classify(b[:i]); kind != Other {
				t.Errorf("%s: %d of %d bytes are a message", name, i, len(b))
			}
			for _, bit := range []byte{1, 0x80} {
				b[i] ^= bit
				// A response whose FINGERPRINT is another attribute has none.
				unmarked := !strings.Contains(name, "request") && i >= len(b)-8 && i < len(b)-4
				if kind, _ := Classify(b); kind != Other && !unmarked {
					t.Errorf("%s: with another byte %d it is a message", name, i)
				}
				if m, err := Parse(b); err == nil && i < len(b)-8 && m.Verify(vectorPwd) {
					t.Errorf("%s: with another byte %d its integrity holds", name, i)
				}
				b[i] ^= bit
			}
		}
		if kind, _ := Classify(append(b, 0, 0, 0, 0)); kind != Other {
			t.Errorf("%s: a longer one is a message", name)
		}
	}
}

// What looks at each datagram that comes in costs no memory.
func TestClassifyAllocatesNothing(t *testing.T) {
	b := vector(t, "rfc5769-2.1-request.hex")
	if n := yardstick.Allocs(100, func() {
		if kind, _ := Classify(b); kind != Request || len(Username(b)) != 4 {
			t.Fatal("not a request")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkClassify(b *testing.B) {
	m := vector(b, "rfc5769-2.1-request.hex")
	b.SetBytes(int64(len(m)))
	b.ReportAllocs()
	for b.Loop() {
		Classify(m)
		Username(m)
	}
}
