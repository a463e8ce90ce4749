package membership

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"

	"github.com/idloc/idloc/internal/peerid"
)

const (
	// AnyLabel is the label of an invitation whose member chooses one.
	AnyLabel = "*"

	maxLabel  = 63                  // RFC 1035 §2.3.4
	maxDomain = 253 - maxLabel - 1  // leaves room for any label in front
	peerLabel = "k51qzi5uqu5"       // how the base36 label of every Ed25519 peer ID begins
	peerRunes = peerid.Size*8/5 - 1 // a label that long beginning with k is taken for a peer ID
)

// CheckLabel says whether s may name a host: letters, digits and inner
// hyphens, at most 63, lower case (RFC 1123 §2.1), and nothing that could be
// taken for the label of a peer ID, which resolves without the database.
func CheckLabel(s string) error {
	if err := checkLDH(s); err != nil {
		return fmt.Errorf("%w: %q: %v", ErrBadLabel, s, err)
	}
	if _, err := peerid.ParseLabel(s); err == nil || strings.HasPrefix(s, peerLabel) || (s[0] == 'k' && len(s) >= peerRunes) {
		return fmt.Errorf("%w: %q looks like a peer ID", ErrBadLabel, s)
	}
	return nil
}

// CleanDomain returns the domain in lower case and without a final dot, or an
// error if it is none, or too long for any label in front of it.
func CleanDomain(s string) (string, error) {
	d := strings.ToLower(strings.TrimSuffix(s, "."))
	if d == "" {
		return "", fmt.Errorf("%w: %q is empty", ErrBadDomain, s)
	}
	if len(d) > maxDomain {
		return "", fmt.Errorf("%w: %q is longer than %d characters", ErrBadDomain, s, maxDomain)
	}
	for label := range strings.SplitSeq(d, ".") {
		err := checkLDH(label)
		if err != nil && strings.ContainsFunc(label, func(r rune) bool { return r > unicode.MaxASCII }) {
			err = fmt.Errorf("%w; others are written as xn--… (RFC 5890)", err)
		}
		if err != nil {
			return "", fmt.Errorf("%w: %q has the label %q: %w", ErrBadDomain, s, label, err)
		}
	}
	return d, nil
}

// ownLabels are domains of one label that nobody else owns: reserved for private
// use by RFC 2606, RFC 9476 or ICANN, or never to be delegated.
var ownLabels = []string{"alt", "corp", "example", "home", "internal", "lan", "test"}

// CheckNewDomain says whether an overlay may be founded for a clean domain: it
// must be one that its founder can have authority over (draft §5), and nothing
// that programs take for an address.
func CheckNewDomain(d string) error {
	if _, err := netip.ParseAddr(d); err == nil {
		return fmt.Errorf("%w: %q is an address: a name is wanted, such as example.internal", ErrBadDomain, d)
	}
	last := d[strings.LastIndexByte(d, '.')+1:]
	if digits := strings.TrimPrefix(last, "0x"); strings.Trim(digits, "0123456789") == "" || digits != last && strings.Trim(digits, "0123456789abcdef") == "" {
		return fmt.Errorf("%w: %q ends with a number, and programs take such names for addresses", ErrBadDomain, d)
	}
	if last == d && !slices.Contains(ownLabels, d) {
		return fmt.Errorf("%w: %q is a top-level domain: found one below it, %q, or take one of %s", ErrBadDomain, d, "example."+d, strings.Join(ownLabels, ", "))
	}
	return nil
}

func checkLDH(s string) error {
	switch {
	case s == "":
		return fmt.Errorf("empty")
	case len(s) > maxLabel:
		return fmt.Errorf("longer than %d characters", maxLabel)
	case s[0] == '-' || s[len(s)-1] == '-':
		return fmt.Errorf("begins or ends with a hyphen")
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-':
		default:
			return fmt.Errorf("only a-z, 0-9 and hyphens")
		}
	}
	return nil
}
