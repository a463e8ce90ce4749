package membership

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"
	"time"
)

// What a tag is.
func TestTag(t *testing.T) {
	// printf 'idloc-folded/1 \x01' ; 32 bytes 07 | sha256sum
	e := Revocation{Kind: RevokePeer, Key: Key(bytes.Repeat([]byte{7}, 32))}
	if got := e.tag(); hex.EncodeToString(got[:]) != "7e33fe7964fb0f9aad" {
		t.Errorf("%x", got)
	}
	if (Revocation{Kind: RevokeInvited, Key: e.Key}).tag() == e.tag() {
		t.Error("the kind is not in it")
	}
}

// Each thing that is wrong with the form of what is folded.
func TestFoldedForm(t *testing.T) {
	root := testRoot(t)
	tags := func(first ...byte) (b []byte) {
		for _, c := range first {
			b = append(b, c, 1, 2, 3, 4, 5, 6, 7, 8)
		}
		return b
	}
	parse := func(weeks ...folded) error {
		l := &RevocationList{charter: founded(root.Overlay()), seq: 1, issued: epoch.Truncate(time.Second).UTC(), folded: weeks,
			entries: []Revocation{{Kind: RevokePeer, Key: Key{1}}}}
		_, err := OpenRevocationList(signList(t, root, l), root.Overlay())
		return err
	}
	if err := parse(folded{1, tags(1, 2, 3)}, folded{2, tags(1)}, folded{1 << 16, tags(0)}); err != nil {
		t.Fatal(err)
	}
	most := make([]folded, weeksMax+1)
	for i := range most {
		most[i] = folded{uint64(i), tags(1)}
	}
	if err := parse(most[1:]...); err != nil {
		t.Errorf("%d weeks: %v", weeksMax, err)
	}
	for what, weeks := range map[string][]folded{
		"tags out of order": {{1, tags(2, 1)}}, "a tag twice": {{1, tags(1, 1)}}, "no tags": {{1, nil}},
		"weeks out of order": {{2, tags(1)}, {1, tags(1)}}, "a week twice": {{1, tags(1)}, {1, tags(2)}},
		"too many weeks": most, "a week that no clock has": {{maxUnix/(7*24*3600) + 1, tags(1)}},
		"too many tags": {{1, make([]byte, (MaxRevocations+1)*tagSize)}},
	} {
		if err := parse(weeks...); !errors.Is(err, ErrNonCanonical) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := parse(); err != nil {
		t.Errorf("nothing folded: %v", err)
	}
}

// What is folded first ends first; what cannot be folded is not, and a tag ends no
// sooner than its entry and at most a week later.
func TestFold(t *testing.T) {
	root := testRoot(t)
	var entries []Revocation
	for i := range entriesMax {
		entries = append(entries, Revocation{Kind: RevokeInvitation, Key: Key{byte(i)}, Until: epoch.Add(time.Duration(i+1) * 24 * time.Hour)})
	}
	if l := must(root.Revoke(nil, epoch, entries...))(t); len(l.folded) != 0 {
		t.Errorf("%d weeks are folded of a list that is short enough", len(l.folded))
	}
	entries = append(entries, Revocation{Kind: RevokeDelegate, Key: Key{9}, Until: epoch}, Revocation{Kind: RevokeInvited, Key: Key{10}})
	l := must(root.Revoke(nil, epoch, entries...))(t)
	if l.Len() != entriesMax+2 || len(l.Entries()) != entriesKept {
		t.Errorf("%d entries, %d not folded", l.Len(), len(l.Entries()))
	}
	for _, e := range l.Entries() {
		if e.Kind == RevokeInvitation && e.Until.Before(epoch.Add(128*24*time.Hour)) {
			t.Errorf("one that ends %v is not folded", e.Until)
		}
	}
	if !l.Has(RevokeDelegate, Key{9}) || !l.Has(RevokeInvited, Key{10}) || l.Has(RevokeDelegate, Key{5}) {
		t.Error("what cannot be folded")
	}
	for day := 0; day < 130; day++ {
		at := epoch.Add(time.Duration(day)*24*time.Hour + Tolerance)
		next := follow(t, root, l, at)
		for i := range 120 {
			end := epoch.Add(time.Duration(i+1) * 24 * time.Hour)
			has := next.Has(RevokeInvitation, Key{byte(i)})
			if end.After(at) && !has {
				t.Fatalf("on day %d: one that ends %v later is gone", day, end.Sub(at))
			}
			if has && at.Sub(end) > week+Tolerance {
				t.Fatalf("on day %d: one that has ended %v before is there", day, at.Sub(end))
			}
		}
	}
	never := make([]Revocation, 2*entriesMax)
	for i := range never {
		never[i] = Revocation{Kind: RevokeInvited, Key: Key{byte(i), byte(i >> 8)}}
	}
	if l := must(root.Revoke(nil, epoch, never...))(t); len(l.Entries()) != len(never) {
		t.Errorf("%d of %d that never end", len(l.Entries()), len(never))
	}
}
