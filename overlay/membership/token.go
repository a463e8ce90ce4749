package membership

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strings"
	"time"
	"unicode"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/overlay/membership/canon"
)

const (
	tokenPrefix  = "idloc"
	tokenVersion = '1'

	// MaxAddrs bounds the addresses in a token.
	MaxAddrs = 4
	maxAddr  = 200 // bytes of one, without the peer ID

	flagMaker = 1 << 7
	maxToken  = 4096
)

var (
	tokenText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)
	tokenSum  = crc32.MakeTable(crc32.Castagnoli)
)

// Token is an invitation as it is handed over: who holds it may become a
// member. Treat its text as a password until it expires. Immutable; may be
// used concurrently.
type Token struct {
	overlay Overlay
	addrs   []string
	seed    [32]byte // of the invitation key
	maker   Key      // the authority that has made it, or its delegate; zero: the founder
	chain   *chain   // to the invitation certificate
}

// Overlay returns the overlay that the token admits to.
func (t *Token) Overlay() Overlay { return t.overlay }

// Addrs returns multiaddrs of peers that were members when the token was made.
func (t *Token) Addrs() []string { return append([]string(nil), t.addrs...) }

// Invitation returns the certificate that the token carries.
func (t *Token) Invitation() Certificate { return *t.chain.leaf() }

// Maker returns the authority by whose word the token admits, the zero Key for the founder.
func (t *Token) Maker() Key { return t.maker }

// Label returns the label that the token is for, AnyLabel if the member chooses.
func (t *Token) Label() string { return t.chain.leaf().Label }

// Expires returns until when the token admits.
func (t *Token) Expires() time.Time { return t.chain.leaf().NotAfter }

// Delegate returns the delegate that has made the token, the zero ID if the founder
// has.
func (t *Token) Delegate() peerid.ID {
	if c := t.chain.links[0].cert; c.Kind == KindDelegate {
		return c.Subject.Peer()
	}
	return peerid.ID{}
}

// GoString keeps the secret out of %#v.
func (t *Token) GoString() string { return "token of " + t.overlay.Domain }

// String returns the token's text: one line of lower-case letters and digits.
//
//	"idloc" | version "1" | base32( domain length 1 | domain | root key 32 | invitation seed 32 |
//	  links 1, with 128 if the next is there | key of the authority that has made it, or its delegate, 32 | { payload length 2 | payload, the last one without its subject | signature 64 } ... |
//	  peers 1 | { key 32 } ... | addresses 1 | { peer 1 | length 1 | multiaddr } ... | CRC-32C 4 )
//
// The subject left out follows from the seed.
func (t *Token) String() string {
	b, err := t.append(nil)
	if err != nil {
		return "" // check refused such addresses
	}
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, tokenSum))
	return tokenPrefix + string(tokenVersion) + tokenText.EncodeToString(b)
}

func (t *Token) append(b []byte) ([]byte, error) {
	b = canon.AppendShort(b, t.overlay.Domain)
	b = append(b, t.overlay.Root[:]...)
	b = append(b, t.seed[:]...)
	links := byte(len(t.chain.links))
	if t.maker.IsZero() {
		b = append(b, links)
	} else {
		b = append(append(b, links|flagMaker), t.maker[:]...)
	}
	for n, l := range t.chain.links {
		payload := l.payload
		if n == len(t.chain.links)-1 {
			payload = payload[len(Key{}):]
		}
		b = canon.AppendLong(b, payload)
		b = append(b, l.sig...)
	}
	return appendAddrs(b, t.addrs)
}

// appendAddrs writes each peer once: the addresses of a token are often those
// of one peer.
func appendAddrs(b []byte, addrs []string) ([]byte, error) {
	if len(addrs) > MaxAddrs {
		return nil, fmt.Errorf("token: %d addresses: at most %d", len(addrs), MaxAddrs)
	}
	var peers, list []byte
	index := make(map[peerid.ID]byte)
	for _, s := range addrs {
		transport, id, err := splitAddr(s)
		if err != nil {
			return nil, err
		}
		n, ok := index[id]
		if !ok {
			n = byte(len(index))
			index[id] = n
			peers = append(peers, id[:]...)
		}
		list = append(list, n)
		list = canon.AppendShort(list, transport)
	}
	b = append(b, byte(len(index)))
	b = append(b, peers...)
	b = append(b, byte(len(addrs)))
	return append(b, list...), nil
}

// splitAddr takes a multiaddr that ends in a peer ID apart.
func splitAddr(s string) (transport []byte, id peerid.ID, err error) {
	m, err := ma.NewMultiaddr(s)
	if err != nil {
		return nil, id, fmt.Errorf("address %q: %w", s, err)
	}
	t, p := peer.SplitAddr(m)
	if p == "" || len(t) == 0 {
		return nil, id, fmt.Errorf("address %q: does not end in /p2p/<peer ID>", s)
	}
	if id, err = peerid.FromMultihash([]byte(p)); err != nil {
		return nil, id, fmt.Errorf("address %q: %w", s, err)
	}
	if transport = t.Bytes(); len(transport) > maxAddr {
		return nil, id, fmt.Errorf("address %q: %w", s, ErrTooLarge)
	}
	return transport, id, nil
}

func joinAddr(transport []byte, id peerid.ID) (string, error) {
	m, err := ma.NewMultiaddrBytes(transport)
	if err != nil {
		return "", err
	}
	return m.String() + "/p2p/" + id.String(), nil
}

// check says whether the token can be written and read again.
func (t *Token) check() error {
	b, err := t.append(nil)
	if err != nil {
		return err
	}
	u, err := parseToken(b)
	if err != nil {
		return err
	}
	t.addrs = u.addrs // in their canonical text
	return nil
}

// ParseToken reads a token's text. White space, also in between, and the case
// of letters do not matter. It says apart what is no token at all
// (ErrNotToken), one of a later version (ErrTokenVersion), and one that
// was mistyped or cut (ErrTokenDamaged). Whether it has expired SelfIssue says.
func ParseToken(s string) (*Token, error) {
	if len(s) > 2*maxToken {
		return nil, fmt.Errorf("%w: it has %d characters", ErrNotToken, len(s))
	}
	s = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return -1
		}
		return unicode.ToLower(r)
	}, s)
	rest, ok := strings.CutPrefix(s, tokenPrefix)
	if !ok || rest == "" || rest[0] < '0' || rest[0] > '9' {
		return nil, fmt.Errorf("%w: it does not begin with %q", ErrNotToken, tokenPrefix+string(tokenVersion))
	}
	if rest[0] != tokenVersion {
		return nil, fmt.Errorf("%w (%q)", ErrTokenVersion, tokenPrefix+rest[:1])
	}
	if i := strings.IndexFunc(rest[1:], func(r rune) bool { return !('a' <= r && r <= 'z' || '2' <= r && r <= '7') }); i >= 0 {
		return nil, fmt.Errorf("%w: character %d cannot be part of one", ErrTokenDamaged, len(tokenPrefix)+1+i+1)
	}
	b, err := tokenText.DecodeString(rest[1:])
	if err != nil || len(b) < 4 {
		return nil, fmt.Errorf("%w: it is cut short", ErrTokenDamaged)
	}
	body, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, tokenSum) != sum || tokenText.EncodeToString(b) != rest[1:] {
		return nil, fmt.Errorf("%w: checksum: a character is wrong, missing or too many", ErrTokenDamaged)
	}
	t, err := parseToken(body)
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	return t, nil
}

func parseToken(b []byte) (*Token, error) {
	r := canon.NewReader(b)
	domain := string(r.Short())
	root := Key(r.Key())
	t := &Token{seed: r.Key()}
	links := r.Byte()
	n := int(links &^ flagMaker)
	if links&flagMaker != 0 {
		t.maker = r.Key()
	}
	if err := r.Err(); err != nil {
		return nil, err
	}
	var err error
	if t.overlay, err = NewOverlay(domain, root); err != nil {
		return nil, err
	}
	if n == 0 || n > maxLinks-1 {
		return nil, fmt.Errorf("%w: %d certificates", ErrTooDeep, n)
	}
	key := ed25519.NewKeyFromSeed(t.seed[:]).Public().(ed25519.PublicKey)
	t.chain = &chain{overlay: t.overlay.ID}
	for i := range n {
		l := link{payload: r.Long(), sig: r.Bytes(canon.SignatureSize)}
		if err := r.Err(); err != nil {
			return nil, err
		}
		if i == n-1 {
			l.payload = append(bytes.Clone(key), l.payload...)
		}
		if l.cert, err = ParseCertificate(l.payload); err != nil {
			return nil, err
		}
		t.chain.links = append(t.chain.links, l)
	}
	if t.addrs, err = readAddrs(r); err != nil {
		return nil, err
	}
	if k := t.chain.leaf().Kind; k != KindInvitation {
		return nil, fmt.Errorf("%w: a %v in a token", ErrKind, k)
	}
	if links&flagMaker != 0 && (t.maker.check() != nil || t.maker == root) {
		return nil, ErrNonCanonical
	}
	again, err := t.append(make([]byte, 0, len(b)))
	if err != nil || !bytes.Equal(again, b) {
		return nil, ErrNonCanonical
	}
	// All but the times, which depend on when it is used.
	if err := t.chain.verify(t.overlay, t.chain.leaf().NotBefore, Trusting(t.overlay, t.maker)); err != nil {
		return nil, err
	}
	if !t.maker.IsZero() && t.chain.authority != t.maker {
		return nil, ErrNonCanonical // the founder's, with somebody to be trusted besides
	}
	return t, nil
}

func readAddrs(r *canon.Reader) ([]string, error) {
	var peers []peerid.ID
	for range min(int(r.Byte()), MaxAddrs+1) {
		peers = append(peers, r.Key())
	}
	n := int(r.Byte())
	if n > MaxAddrs || len(peers) > MaxAddrs {
		r.Fail("%d addresses of %d peers", n, len(peers))
	}
	var addrs []string
	for i := 0; r.Err() == nil && i < n; i++ {
		p, transport := int(r.Byte()), r.Short()
		if p >= len(peers) {
			r.Fail("address of peer %d of %d", p, len(peers))
			break
		}
		s, err := joinAddr(transport, peers[p])
		if err != nil {
			return nil, fmt.Errorf("address: %w", err)
		}
		addrs = append(addrs, s)
	}
	return addrs, r.End()
}
