package membership

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"unicode"
)

const (
	recoveryPrefix = "recover1"
	recoverySeed   = 16 // bytes
	recoveryGroup  = 4  // letters
	recoveryName   = "recovery"
)

// ErrRecoveryLine: a text is no recovery line, or one that was mistyped.
var ErrRecoveryLine = errors.New("not a recovery line")

// NewRecovery returns a recovery line, to be printed and kept away from machines, and the
// change by which its key is an authority of the overlay.
//
//	"recover1" { space | 4 letters } ...: base32( seed 16 | CRC-32C 4 )
//
// The key's seed is SHA-256("idloc recovery 1" | overlay ID | seed).
func NewRecovery(o Overlay) (line string, c Change, err error) {
	seed := make([]byte, recoverySeed)
	rand.Read(seed)
	s, err := recoverySigner(o, seed)
	if err != nil {
		return "", Change{}, err
	}
	text := tokenText.EncodeToString(binary.BigEndian.AppendUint32(seed, crc32.Checksum(seed, tokenSum)))
	line = recoveryPrefix
	for len(text) > 0 {
		n := min(recoveryGroup, len(text))
		line += " " + text[:n]
		text = text[n:]
	}
	c = Change{Kind: ChangePromote, Authority: Authority{Key: s.Key(), Name: recoveryName, Recovery: true}}
	return line, c, nil
}

// OpenRecovery returns the authority whose line it is. White space and the case of letters
// do not matter.
func OpenRecovery(o Overlay, line string) (*Signer, error) {
	text := strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || r == '-' {
			return -1
		}
		return unicode.ToLower(r)
	}, line)
	rest, ok := strings.CutPrefix(text, recoveryPrefix)
	if !ok {
		return nil, fmt.Errorf("%w: it does not begin with %q", ErrRecoveryLine, recoveryPrefix)
	}
	b, err := tokenText.DecodeString(rest)
	if err != nil || len(b) != recoverySeed+4 {
		return nil, fmt.Errorf("%w: it has %d letters after %q, of which some may be wrong", ErrRecoveryLine, len(rest), recoveryPrefix)
	}
	seed, sum := b[:recoverySeed], binary.BigEndian.Uint32(b[recoverySeed:])
	if crc32.Checksum(seed, tokenSum) != sum || tokenText.EncodeToString(b) != rest {
		return nil, fmt.Errorf("%w: a letter is wrong", ErrRecoveryLine)
	}
	return recoverySigner(o, seed)
}

func recoverySigner(o Overlay, seed []byte) (*Signer, error) {
	h := sha256.New()
	h.Write([]byte("idloc recovery 1"))
	h.Write(o.ID[:])
	h.Write(seed)
	return NewSigner(o, ed25519.NewKeyFromSeed(h.Sum(nil)))
}
