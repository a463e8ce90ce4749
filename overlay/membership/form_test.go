package membership

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/idloc/idloc/overlay/membership/canon"
)

// Each thing that is wrong with a certificate's fields, by itself.
func TestCertificateForm(t *testing.T) {
	subject, inv := KeyOf(idOf(seedKey(40))), KeyOf(idOf(seedKey(41)))
	from := epoch.Truncate(time.Second).UTC()
	delegate := Certificate{Subject: subject, Kind: KindDelegate, Roles: RoleDelegate, NotBefore: from, NotAfter: from.Add(MaxInvitation)}
	invitation := Certificate{Subject: subject, Kind: KindInvitation, Label: "*", NotBefore: from, NotAfter: from.Add(MaxInvitation)}
	confirmed := Certificate{Subject: subject, Kind: KindMember, Confirmed: true, Wildcard: true, Serial: 1 << 40, Invitation: inv, Label: "mars",
		Roles: RoleRelay, NotBefore: from, NotAfter: from.Add(MaxMember)}
	provisional := Certificate{Subject: subject, Kind: KindMember, Label: "*", NotBefore: from, NotAfter: from.Add(MaxMember), Proof: make([]byte, 64)}
	for what, c := range map[string]Certificate{"delegate": delegate, "invitation": invitation, "confirmed": confirmed, "provisional": provisional,
		"named invitation": func() Certificate { c := invitation; c.Label, c.Uses = "mars", 1; return c }(),
		"sixty-four":       func() Certificate { c := invitation; c.Uses = MaxUses; return c }(),
		"no label":         func() Certificate { c := confirmed; c.Label = ""; return c }(),
		"no roles":         func() Certificate { c := confirmed; c.Roles = 0; return c }(),
		"no invitation":    func() Certificate { c := confirmed; c.Invitation = Key{}; return c }(),
		"a delegate's":     func() Certificate { c := confirmed; c.Inviter = subject; return c }(),
		"a second":         func() Certificate { c := confirmed; c.NotAfter = from.Add(time.Second); return c }(),
	} {
		got, err := ParseCertificate(c.Append(nil))
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if got.Subject != c.Subject || got.Kind != c.Kind || got.Roles != c.Roles || got.Label != c.Label || got.Confirmed != c.Confirmed ||
			got.Wildcard != c.Wildcard || got.Serial != c.Serial || got.Uses != c.Uses || got.Invitation != c.Invitation || got.Inviter != c.Inviter || !got.NotBefore.Equal(c.NotBefore) ||
			!got.NotAfter.Equal(c.NotAfter) || !bytes.Equal(got.Proof, c.Proof) {
			t.Errorf("%s: %+v", what, got)
		}
		for n := range c.Append(nil) {
			if _, err := ParseCertificate(c.Append(nil)[:n]); err == nil {
				t.Errorf("%s: %d bytes are read", what, n)
			}
		}
	}
	for what, c := range map[string]struct {
		from Certificate
		f    func(*Certificate)
		want error
	}{
		"kind 0":                {delegate, func(c *Certificate) { c.Kind = 0 }, ErrKind},
		"kind 4":                {delegate, func(c *Certificate) { c.Kind = 4 }, ErrKind},
		"delegate's label":      {delegate, func(c *Certificate) { c.Label = "mars" }, ErrNonCanonical},
		"delegate without role": {delegate, func(c *Certificate) { c.Roles = RoleRelay }, ErrNonCanonical},
		"invitation's label":    {invitation, func(c *Certificate) { c.Label = "-" }, ErrBadLabel},
		"named for two":         {invitation, func(c *Certificate) { c.Label, c.Uses = "mars", 2 }, ErrUses},
		"sixty-five":            {invitation, func(c *Certificate) { c.Uses = MaxUses + 1 }, ErrNonCanonical},
		"invitation, no label":  {invitation, func(c *Certificate) { c.Label = "" }, ErrBadLabel},
		"confirmed, any label":  {confirmed, func(c *Certificate) { c.Label = "*" }, ErrBadLabel},
		"confirmed delegate":    {delegate, func(c *Certificate) { c.Confirmed = true }, ErrNonCanonical},
		"wildcard delegate":     {delegate, func(c *Certificate) { c.Wildcard = true }, ErrNonCanonical},
		"confirmed invitation":  {invitation, func(c *Certificate) { c.Confirmed = true }, ErrNonCanonical},
		"wildcard provisional":  {provisional, func(c *Certificate) { c.Wildcard = true }, ErrNonCanonical},
		"ends as it begins":     {confirmed, func(c *Certificate) { c.NotAfter = c.NotBefore }, ErrNonCanonical},
		"member too long":       {confirmed, func(c *Certificate) { c.NotAfter = c.NotAfter.Add(time.Second) }, ErrLifetime},
		"delegate too long":     {delegate, func(c *Certificate) { c.NotAfter = c.NotAfter.Add(time.Second) }, ErrLifetime},
		"invitation too long":   {invitation, func(c *Certificate) { c.NotAfter = c.NotAfter.Add(time.Second) }, ErrLifetime},
		"begins never":          {confirmed, func(c *Certificate) { c.NotBefore = time.Unix(0, 0) }, ErrNonCanonical},
		"ends too late":         {confirmed, func(c *Certificate) { c.NotAfter = time.Unix(1<<36+1, 0) }, ErrNonCanonical},
		"no proof":              {provisional, func(c *Certificate) { c.Proof = nil }, ErrNonCanonical},
		"a proof too many":      {confirmed, func(c *Certificate) { c.Proof = make([]byte, 64) }, ErrNonCanonical},
		"small order":           {confirmed, func(c *Certificate) { c.Subject = Key{1} }, ErrKey},
		"no key":                {confirmed, func(c *Certificate) { c.Subject = Key{2} }, ErrKey},
	} {
		cert := c.from
		c.f(&cert)
		if got, err := ParseCertificate(cert.Append(nil)); !errors.Is(err, c.want) || got != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	const flagsAt = 32 + 2
	for what, c := range map[string]struct {
		from Certificate
		flag byte
	}{"an unknown flag": {confirmed, 64}, "an unknown flag, the last": {confirmed, 128}, "an invitation of a provisional": {provisional, flagInvited}, "an inviter of a provisional": {provisional, flagInviter}} {
		b := c.from.Append(nil)
		b[flagsAt] |= c.flag
		if _, err := ParseCertificate(b); !errors.Is(err, ErrNonCanonical) {
			t.Errorf("%s: %v", what, err)
		}
	}
	empty := confirmed
	empty.Invitation = Key{}
	b := empty.Append(nil)
	b[flagsAt] |= flagInvited
	if _, err := ParseCertificate(append(b, make([]byte, 32)...)); !errors.Is(err, ErrNonCanonical) {
		t.Errorf("an invitation by the key of none: %v", err)
	}
	b = empty.Append(nil)
	b[flagsAt] |= flagInviter
	if _, err := ParseCertificate(append(b, make([]byte, 32)...)); !errors.Is(err, ErrNonCanonical) {
		t.Errorf("an inviter without a key: %v", err)
	}
	for _, v := range []byte{0, 2} {
		b := confirmed.Append(nil)
		b[32] = v
		if _, err := ParseCertificate(b); !errors.Is(err, ErrVersion) {
			t.Errorf("version %d: %v", v, err)
		}
	}
	for s, ok := range map[uint64]bool{0: false, 1: true, 1 << 36: true, 1<<36 + 1: false} {
		r := canon.NewReader(binary.AppendUvarint(nil, s))
		got := ReadTime(r)
		if (r.Err() == nil) != ok || ok && got != time.Unix(int64(s), 0).UTC() || !ok && !got.IsZero() {
			t.Errorf("time %d: %v, %v", s, got, r.Err())
		}
	}
	for what, want := range map[*Certificate]string{&delegate: "delegate certificate", &invitation: "invitation certificate",
		&confirmed: "confirmed member certificate", &provisional: "provisional member certificate"} {
		if what.what() != want {
			t.Errorf("%q", what.what())
		}
	}
}

// Times, both sides of the tolerance.
func TestCheckTimesBounds(t *testing.T) {
	for _, c := range []struct {
		from, to time.Duration
		want     error
	}{
		{10 * time.Minute, time.Hour, nil}, {10*time.Minute + 1, time.Hour, ErrNotYetValid},
		{-time.Hour, -10 * time.Minute, nil}, {-time.Hour, -10*time.Minute - 1, ErrExpired},
	} {
		if err := CheckTimes("x", epoch.Add(c.from), epoch.Add(c.to), epoch); !errors.Is(err, c.want) {
			t.Errorf("%v to %v: %v", c.from, c.to, err)
		}
	}
	if err := CheckTimes("x", time.Time{}, time.Time{}, epoch); err != nil {
		t.Errorf("no times: %v", err)
	}
	for _, c := range []struct{ a, b, want time.Time }{
		{time.Time{}, time.Time{}, time.Time{}}, {epoch, time.Time{}, epoch}, {time.Time{}, epoch, epoch},
		{epoch, epoch.Add(1), epoch}, {epoch.Add(1), epoch, epoch},
	} {
		if got := earlier(c.a, c.b); !got.Equal(c.want) {
			t.Errorf("the earlier of %v and %v is %v", c.a, c.b, got)
		}
	}
}

// Each thing that is wrong with a token's text, by its own error, and both sides
// of each bound.
func TestTokenBounds(t *testing.T) {
	good := testToken(t).String()
	body := strings.TrimPrefix(good, "idloc1")
	spaced := " \t" + good[:3] + "\n" + strings.ToUpper(good[3:]) + "\u00a0"
	for what, c := range map[string]struct {
		text string
		want error
	}{
		"as it is": {good, nil}, "with spaces, in capitals": {spaced, nil}, "as long as may be": {good + strings.Repeat(" ", 2*maxToken-len(good)), nil},
		"too long": {good + strings.Repeat(" ", 2*maxToken-len(good)+1), ErrNotToken}, "nothing": {"", ErrNotToken}, "the prefix": {"idloc", ErrNotToken},
		"no version": {"idloc" + body, ErrNotToken}, "version :": {"idloc:" + body, ErrNotToken}, "version /": {"idloc/" + body, ErrNotToken},
		"version 0": {"idloc0" + body, ErrTokenVersion}, "version 2": {"idloc2" + body, ErrTokenVersion}, "version 9": {"idloc9" + body, ErrTokenVersion},
		"no body": {"idloc1", ErrTokenDamaged}, "3 bytes": {"idloc1aaaaa", ErrTokenDamaged}, "a sum of nothing": {"idloc1aaaaaaa", ErrNonCanonical}, "cut": {good[:len(good)-1], ErrTokenDamaged},
		"more": {good + "a", ErrTokenDamaged}, "1": {good[:20] + "1" + good[21:], ErrTokenDamaged}, "8": {good[:20] + "8" + good[21:], ErrTokenDamaged},
		"{": {good[:20] + "{" + good[21:], ErrTokenDamaged}, "`": {good[:20] + "`" + good[21:], ErrTokenDamaged},
	} {
		if _, err := ParseToken(c.text); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := ParseToken("idloc1ab!"); err == nil || !strings.Contains(err.Error(), "character 9") {
		t.Errorf("where the character stands: %v", err)
	}
	sum := func(b []byte) string {
		b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, tokenSum))
		return "idloc1" + tokenText.EncodeToString(b)
	}
	if _, err := ParseToken(sum(nil)); !errors.Is(err, ErrNonCanonical) {
		t.Errorf("a body of nothing: %v", err)
	}
	tok := testToken(t)
	raw := must(tok.append(nil))(t)
	if _, err := ParseToken(sum(append(raw, 0))); !errors.Is(err, ErrNonCanonical) {
		t.Errorf("a byte more: %v", err)
	}
	at := 1 + len(tok.overlay.Domain) + 64
	for n, want := range map[byte]error{0: ErrTooDeep, 3: ErrTooDeep, 255: ErrTooDeep} {
		b := bytes.Clone(raw)
		b[at] = n
		if _, err := ParseToken(sum(b)); !errors.Is(err, want) {
			t.Errorf("%d certificates: %v", n, err)
		}
	}
	id := idOf(seedKey(3))
	p2p := "/p2p/" + id.String()
	long := func(n int) string { // an address of n bytes
		return "/dns4/" + strings.Repeat("a", n-2-3) + "/udp/1"
	}
	for what, c := range map[string]struct {
		addr string
		ok   bool
	}{
		"an address": {"/ip4/192.0.2.1/udp/1" + p2p, true}, "no peer": {"/ip4/192.0.2.1/udp/1", false}, "a peer only": {p2p, false}, "none": {"x", false},
		"another key": {"/ip4/192.0.2.1/udp/1/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", false},
		"200 bytes":   {long(200-2) + p2p, true}, "201 bytes": {long(201-2) + p2p, false},
	} {
		transport, got, err := splitAddr(c.addr)
		if (err == nil) != c.ok || c.ok && (got != id || len(transport) == 0) {
			t.Errorf("%s: %d bytes, %v", what, len(transport), err)
		}
	}
	addr := "/ip4/192.0.2.1/udp/1" + p2p
	if _, err := appendAddrs(nil, slices.Repeat([]string{addr}, MaxAddrs)); err != nil {
		t.Error(err)
	}
	if _, err := appendAddrs(nil, slices.Repeat([]string{addr}, MaxAddrs+1)); err == nil {
		t.Error("five addresses")
	}
	transport, _, _ := splitAddr(addr)
	peers := func(n int) []byte { return append([]byte{byte(n)}, bytes.Repeat(id[:], n)...) }
	entry := func(p int) []byte { return append([]byte{byte(p), byte(len(transport))}, transport...) }
	for what, c := range map[string]struct {
		b  []byte
		ok bool
	}{
		"none": {[]byte{0, 0}, true}, "one": {append(append(peers(1), 1), entry(0)...), true}, "four": {append(append(peers(4), 4), bytes.Repeat(entry(3), 4)...), true},
		"five addresses": {append(append(peers(1), 5), bytes.Repeat(entry(0), 5)...), false}, "five peers": {append(peers(5), 0), false},
		"of a peer that is not there": {append(append(peers(1), 1), entry(1)...), false}, "bytes more": {append(append(peers(1), 1), append(entry(0), 0)...), false},
		"no multiaddr": {append(append(peers(1), 1), 0, 1, 0xff), false},
	} {
		addrs, err := readAddrs(canon.NewReader(c.b))
		if (err == nil) != c.ok || c.ok && len(addrs) != int(c.b[1+32*int(c.b[0])]) {
			t.Errorf("%s: %q, %v", what, addrs, err)
		}
	}
}

// Keys in text, and keys that nobody may have.
func TestKeyForms(t *testing.T) {
	k := KeyOf(idOf(seedKey(1)))
	var got Key
	if err := got.UnmarshalText([]byte(k.String())); err != nil || got != k || k.Peer() != idOf(seedKey(1)) {
		t.Errorf("%v, %v", got, err)
	}
	for _, s := range []string{k.String()[1:], k.String() + "0", k.String() + "00", "zz" + k.String()[2:], k.String()[:62]} {
		if err := got.UnmarshalText([]byte(s)); !errors.Is(err, ErrKey) || got != k {
			t.Errorf("%q: %v", s, err)
		}
	}
	if err := got.UnmarshalText(nil); err != nil || !got.IsZero() {
		t.Errorf("empty text: %v", err)
	}
	one := Key{1}
	negative := one
	negative[31] = 0x80
	for what, k := range map[string]Key{"small order": one, "not canonical": negative, "no point": {2}, "order 4": {}} {
		if err := k.check(); !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, n := range []int{0, 63, 65} {
		if _, err := publicKey(make([]byte, n)); !errors.Is(err, ErrKey) {
			t.Errorf("a private key of %d bytes: %v", n, err)
		}
	}
}
