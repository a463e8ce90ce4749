package naming

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership"
)

// The vectors pin the formats: a change of a layout is a new version.
func TestVectors(t *testing.T) {
	secret := append([]byte("\x01\x0bexample.com"), bytes.Repeat([]byte{1}, 32)...)
	root := must(membership.ParseRoot(secret))(t)
	w := &world{root: root, o: root.Overlay(), now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	mk := seedKey(9)
	chain := w.confirmed(t, mk, "mars", false, 7)
	hint := Contact{Members: []peerid.ID{idOf(seedKey(2))}, Relays: []peerid.ID{idOf(seedKey(3))}}
	r := w.record(chain, "mars")
	r.Contact = hint
	c := &ContactRecord{Seq: 5, Issued: w.now, Expires: w.now.Add(MaxContactLife), Contact: hint, Chain: chain,
		Addrs: []string{"/ip4/192.0.2.1/udp/4001/quic-v1"}}
	u := &UserRecord{User: "sip:fred", Slot: 2, Seq: 7, Issued: w.now, Expires: w.now.Add(MaxUserLife), Info: "q=0.7", Chain: chain}
	vectors := map[string]string{
		"name.hex":    hex.EncodeToString(w.sign(t, mk, r)),
		"contact.hex": hex.EncodeToString(must(c.Sign(mk, w.o))(t)),
		"user.hex":    hex.EncodeToString(must(u.Sign(mk, w.o))(t)),
		"keys.txt": strings.Join([]string{Key(w.o.ID, "mars", 0), Key(w.o.ID, "mars", 1), Key(w.o.ID, "mars", 2),
			ContactKey(w.o.ID, idOf(mk)), RevocationKey(w.o.ID), UserKey(w.o.ID, "sip:fred", 2)}, "\n"),
	}
	for name, got := range vectors {
		file := filepath.Join("testdata", name)
		if os.Getenv("UPDATE_VECTORS") != "" {
			if err := os.WriteFile(file, []byte(got+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.TrimSpace(string(want)) != got {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, want)
		}
	}
	if found, _ := filepath.Glob("testdata/*.*"); len(found) != len(vectors) {
		t.Errorf("%d vectors, want %d", len(found), len(vectors))
	}
}
