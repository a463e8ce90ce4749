package membership

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// A line as it was printed once, and the key that it is.
const (
	recoveryVector    = "recover1 aaaq eaye auda ocaj bifq ydio b7m4 schl"
	recoveryVectorKey = "666948f30b8b19fe77fe5baa4d864905cdd47d99b2d5dd79ad1c8f72f7a469e4"
)

// A line gives its key back, however it is written, in the overlay that it is of.
func TestRecoveryLine(t *testing.T) {
	t.Parallel()
	c := newCouncil(t, 1)
	line, change, err := NewRecovery(c.o)
	if err != nil {
		t.Fatal(err)
	}
	if change.Kind != ChangePromote || !change.Authority.Recovery || change.Authority.Name != recoveryName || change.Authority.Key.IsZero() {
		t.Errorf("%+v", change)
	}
	if f := strings.Fields(line); len(f) != 9 || f[0] != "recover1" || strings.ToLower(line) != line {
		t.Errorf("%q", line)
	}
	for what, text := range map[string]string{
		"as it is": line, "in capitals": strings.ToUpper(line), "mixed": strings.ToUpper(line[:20]) + line[20:], "without spaces": strings.ReplaceAll(line, " ", ""),
		"in lines": "\r\n" + strings.ReplaceAll(line, " ", "\n\t") + "\u00a0", "with hyphens": strings.ReplaceAll(line, " ", " - "),
	} {
		if s, err := OpenRecovery(c.o, text); err != nil || s.Key() != change.Authority.Key {
			t.Errorf("%s: %v", what, err)
		}
	}
	other := must(newRoot("example.com", bytes.Repeat([]byte{2}, 32)))(t).Overlay()
	if s, err := OpenRecovery(other, line); err != nil || s.Key() == change.Authority.Key {
		t.Errorf("in another overlay: the same key, or %v", err)
	}
	second, again, err := NewRecovery(c.o)
	if err != nil || second == line || again.Authority.Key == change.Authority.Key {
		t.Errorf("a second line: %v", err)
	}
}

// The key of a line that was kept for long is the same then.
func TestRecoveryVector(t *testing.T) {
	t.Parallel()
	o := testRoot(t).Overlay()
	seed := []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	want := must(recoverySigner(o, seed))(t)
	s, err := OpenRecovery(o, recoveryVector)
	if err != nil || s.Key() != want.Key() || s.Key().String() != recoveryVectorKey {
		t.Errorf("%v: %v", s, err)
	}
}

// Each single letter that is wrong, missing, too many or swapped is told.
func TestRecoveryTypos(t *testing.T) {
	t.Parallel()
	o := testRoot(t).Overlay()
	line := strings.ReplaceAll(recoveryVector, " ", "")
	refused := func(what, text string) {
		t.Helper()
		if s, err := OpenRecovery(o, text); !errors.Is(err, ErrRecoveryLine) || s != nil {
			t.Errorf("%s: %q: %v", what, text, err)
		}
	}
	for i := range line {
		for _, c := range "abcdefghijklmnopqrstuvwxyz0123456789!=" {
			if byte(c) != line[i] {
				refused("wrong", line[:i]+string(c)+line[i+1:])
			}
		}
		refused("missing", line[:i]+line[i+1:])
		refused("doubled", line[:i+1]+line[i:])
		if i > 0 && line[i] != line[i-1] {
			refused("swapped", line[:i-1]+line[i:i+1]+line[i-1:i]+line[i+1:])
		}
	}
	for _, s := range []string{"", "recover1", "recover2" + line[8:], testToken(t).String(), line + line, line + "a", strings.Repeat("a", 1<<16)} {
		refused("no line", s)
	}
}

// A line on paper can remove who is lost and let another one in, but is nobody who makes
// members: what it signs as an issuer does not count, nor its token with who knows the list.
func TestRecoveryAuthority(t *testing.T) {
	t.Parallel()
	c := newCouncil(t, 2)
	line, change, err := NewRecovery(c.o)
	if err != nil {
		t.Fatal(err)
	}
	l := must(pass(c.list, Motion{Kind: MoveChange, At: epoch, Change: change}, c.f, c.mars))(t)
	paper := must(OpenRecovery(c.o, line))(t)
	all, _ := l.Authorities(c.o)
	if !all[3].Recovery || !l.IsAuthority(c.o, paper.Key()) {
		t.Fatalf("%+v", all)
	}
	venus := signer(t, 62)
	l = must(pass(l, demote(c.f, true, epoch), c.mars, paper))(t)
	l = must(pass(l, promote(venus, "venus", epoch), c.moon, paper))(t)
	l = must(OpenRevocationList(l.Bytes(), c.o))(t)
	if l.IsAuthority(c.o, c.f.Key()) || !l.IsAuthority(c.o, venus.Key()) {
		t.Error("it has changed nothing")
	}
	if _, err := pass(l, threshold(1, epoch), paper); !errors.Is(err, ErrSignatures) {
		t.Errorf("alone it changes the threshold: %v", err)
	}
	token := must(paper.Issuer().Invite(InviteOptions{}, epoch))(t)
	delegation := must(paper.Issuer().Delegate(idOf(seedKey(70)), 0, "", epoch.Add(day), epoch))(t)
	if _, err := NewDelegate(seedKey(70), delegation, c.o, epoch, l); !errors.Is(err, ErrSignature) {
		t.Errorf("its delegate: %v", err)
	}
	told := must(Trusting(c.o, paper.Key()).Told(c.o, l.Charter()))(t)
	gone := must(pass(l, demote(paper, false, epoch), c.mars, c.moon))(t)
	for what, chain := range map[string][]byte{"its member": issued(t, paper.Issuer(), 71, epoch), "its token's": must(token.SelfIssue(seedKey(71), "x", epoch))(t)} {
		for whose, list := range map[string]*RevocationList{"the list": l, "what was told": told, "the list after its removal": gone} {
			if _, err := VerifyChain(chain, c.o, epoch, list); !errors.Is(err, ErrSignature) {
				t.Errorf("%s by %s: %v", what, whose, err)
			}
		}
	}
	assurance := must(paper.Issuer().Assure(l, epoch))(t)
	if _, err := OpenAssurance(assurance, c.o, epoch, l); !errors.Is(err, ErrSignature) {
		t.Errorf("its assurance: %v", err)
	}
	if _, err := VerifyUse(must(paper.Issuer().Attest(idOf(seedKey(71)), Key{1}, epoch))(t), c.o, epoch, l); !errors.Is(err, ErrSignature) {
		t.Errorf("its word on who has used what: %v", err)
	}
}
