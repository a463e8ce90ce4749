package quictransport

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"sync"

	"github.com/quic-go/quic-go"
)

// A peer that has started again knows nothing of the connections of its former life,
// whose other ends go on sending. It knows the connection IDs that it gave them, though,
// since those are made with its key: so it can say that they are gone by a stateless
// reset (RFC 9000 §10.3), to whom it owes one, and to no stranger. QUIC-LB
// (draft-ietf-quic-load-balancers §5.4) makes IDs that only one who has the key can read,
// for another purpose.

// A connection ID is idRandom random bytes and as many of their tag as make idLen.
const (
	idLen    = 8
	idRandom = 4
)

// connIDs makes this peer's connection IDs and knows them again. It is a
// quic.ConnectionIDGenerator, and may be used by any number of goroutines.
type connIDs struct {
	block cipher.Block
}

var _ quic.ConnectionIDGenerator = (*connIDs)(nil)

// blocks are what tag works on: what goes through an interface escapes.
var blocks = sync.Pool{New: func() any { return new([aes.BlockSize]byte) }}

func newConnIDs(key []byte) (*connIDs, error) {
	block, err := aes.NewCipher(key)
	return &connIDs{block}, err
}

// GenerateConnectionID implements quic.ConnectionIDGenerator.
func (i *connIDs) GenerateConnectionID() (quic.ConnectionID, error) {
	var id [idLen]byte
	rand.Read(id[:idRandom]) // never fails, crypto/rand
	i.tag(id[idRandom:], id[:idRandom])
	return quic.ConnectionIDFromBytes(id[:]), nil
}

// ConnectionIDLen implements quic.ConnectionIDGenerator.
func (i *connIDs) ConnectionIDLen() int { return idLen }

// own says whether b begins with an ID that was made with this key. One that is made up
// passes once in four thousand million times. It allocates nothing.
func (i *connIDs) own(b []byte) bool {
	if len(b) < idLen {
		return false
	}
	var tag [idLen - idRandom]byte
	i.tag(tag[:], b[:idRandom])
	return subtle.ConstantTimeCompare(tag[:], b[idRandom:idLen]) == 1
}

// tag fills out with what belongs to the random bytes of an ID.
func (i *connIDs) tag(out, random []byte) {
	buf := blocks.Get().(*[aes.BlockSize]byte)
	defer blocks.Put(buf)
	*buf = [aes.BlockSize]byte{}
	copy(buf[:], random)
	i.block.Encrypt(buf[:], buf[:])
	copy(out, buf[:])
}
