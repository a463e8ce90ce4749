package membership

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/idloc/idloc/overlay/membership/canon"
)

func hexOf(b []byte) string { return hex.EncodeToString(b) }

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	return must(hex.DecodeString(s))(t)
}

func FuzzParseToken(f *testing.F) {
	f.Add(testToken(f).String())
	f.Add("idloc1")
	f.Add("idloc2abc")
	f.Fuzz(func(t *testing.T, s string) {
		token, err := ParseToken(s)
		if err != nil {
			return
		}
		again, err := ParseToken(token.String())
		if err != nil || again.String() != token.String() {
			t.Fatalf("%q: %v", s, err)
		}
	})
}

// FuzzTokenBody gets behind the checksum.
func FuzzTokenBody(f *testing.F) {
	f.Add(must(testToken(f).append(nil))(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		token, err := parseToken(b)
		if err != nil {
			return
		}
		if again, err := token.append(nil); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("two forms of one token: %x, %x, %v", b, again, err)
		}
	})
}

func FuzzChain(f *testing.F) {
	root := testRoot(f)
	provisional := must(testToken(f).SelfIssue(seedKey(9), "", epoch))(f)
	f.Add(provisional)
	f.Add(must(Confirm(root.Issuer(), provisional, "mars", 7, epoch, nil))(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		ch, err := parseChain(b)
		if err != nil {
			return
		}
		if again := ch.append(nil); !bytes.Equal(again, b) {
			t.Fatalf("two forms of one chain: %x, %x", b, again)
		}
		for _, l := range ch.links {
			if again := l.cert.Append(nil); !bytes.Equal(again, l.payload) {
				t.Fatalf("two forms of one certificate: %x, %x", l.payload, again)
			}
		}
		VerifyChain(b, root.Overlay(), epoch, nil)
	})
}

// FuzzRevocationList reads what stands in lists behind the charter, as no signature but the
// right ones would let a list come so far.
func FuzzRevocationList(f *testing.F) {
	content := func(l *RevocationList) []byte { return l.appendContent(nil) }
	f.Add(content(testList(f)))
	many := make([]Revocation, entriesMax+1)
	for i := range many {
		many[i] = Revocation{Kind: RevokePeer, Key: Key{byte(i), byte(i >> 8)}, Until: epoch.Add(LongestLife)}
	}
	f.Add(content(must(testRoot(f).Revoke(nil, epoch, many...))(f)))
	f.Add(content(must(testRoot(f).SetPolicy(testList(f), "allow all", epoch))(f)))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, r := &RevocationList{}, canon.NewReader(b)
		l.readContent(r)
		if r.Err() != nil {
			return
		}
		if read := b[:len(b)-r.Len()]; !bytes.Equal(content(l), read) {
			t.Fatalf("two forms of one list: %x, %x", read, content(l))
		}
	})
}

// FuzzAssurance reads what members show each other in hellos.
func FuzzAssurance(f *testing.F) {
	root := testRoot(f)
	key := seedKey(5)
	delegate := must(NewDelegate(key, must(root.Delegate(idOf(key), 0, "", epoch.Add(MaxInvitation), epoch))(f), root.Overlay(), epoch, nil))(f)
	for _, i := range []*Issuer{root.Issuer(), delegate} {
		f.Add(must(i.Assure(testList(f), epoch))(f))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, above, err := parseAssurance(b)
		if err != nil {
			return
		}
		again := AppendTime(binary.AppendUvarint([]byte{assuranceVersion}, a.Number), a.At)
		if again = append(canon.AppendLong(again, above), b[len(b)-canon.SignatureSize:]...); !bytes.Equal(again, b) {
			t.Fatalf("two forms of one assurance: %x, %x", b, again)
		}
		OpenAssurance(b, root.Overlay(), epoch, nil)
	})
}

func FuzzRoot(f *testing.F) {
	f.Add(testRoot(f).Marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := ParseRoot(b); err == nil && !bytes.Equal(r.Marshal(), b) {
			t.Fatalf("two forms of one root: %x, %x", b, r.Marshal())
		}
	})
}

func BenchmarkVerifyChain(b *testing.B) {
	root := testRoot(b)
	chain := must(testToken(b).SelfIssue(seedKey(9), "", epoch))(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := VerifyChain(chain, root.Overlay(), epoch, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzTags: there is one form of a set, whatever is said of it.
func FuzzTags(f *testing.F) {
	for _, s := range []string{"", "web", "db,web", "web,db", "a,,b", ",", "tag:web", "A"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		tags, err := NewTags(Tags(s).Words())
		if err != nil {
			return
		}
		again, err := NewTags(tags.Words())
		if err != nil || again != tags || len(tags.Beyond(again)) != 0 {
			t.Fatalf("%q, %q: %v", tags, again, err)
		}
		for w := range tags.All() {
			if !tags.Has(w) || strings.Contains(w, ",") {
				t.Fatalf("%q of %q", w, tags)
			}
		}
	})
}
