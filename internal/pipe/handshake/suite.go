package handshake

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"runtime"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/sys/cpu"

	"github.com/idloc/idloc/internal/wire"
)

// KeyLen is the length of a data key and of a chaining key.
const KeyLen = 32

// ErrNoAEAD is returned when two peers have no data AEAD in common.
var ErrNoAEAD = errors.New("pipe: no common AEAD")

// HasAES says whether AES-GCM runs on hardware here.
func HasAES() bool {
	switch runtime.GOARCH {
	case "amd64":
		return cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ
	case "arm64":
		// Apple's processors all have both; x/sys/cpu cannot ask there.
		return cpu.ARM64.HasAES && cpu.ARM64.HasPMULL || runtime.GOOS == "darwin"
	case "s390x":
		return cpu.S390X.HasAES && cpu.S390X.HasAESGCM
	}
	return false
}

// OfferedAEADs is what this side lists in an offer, and compares with one.
func OfferedAEADs(aesHardware bool) wire.AEADs {
	a := wire.AES256GCM | wire.ChaCha20Poly1305
	if aesHardware {
		a |= wire.HasAES
	}
	return a
}

// ChooseAEAD is the responder's choice: AES-256-GCM if both have AES in
// hardware, ChaCha20-Poly1305 otherwise, and AES only if nothing else is
// common. Both lists are inside authenticated Noise messages, so nobody on
// the way can make the choice worse.
func ChooseAEAD(offered, mine wire.AEADs) (wire.AEADs, error) {
	both := offered & mine
	switch {
	case both&wire.AES256GCM != 0 && both&wire.HasAES != 0:
		return wire.AES256GCM, nil
	case both&wire.ChaCha20Poly1305 != 0:
		return wire.ChaCha20Poly1305, nil
	case both&wire.AES256GCM != 0:
		return wire.AES256GCM, nil
	}
	return 0, ErrNoAEAD
}

// AEADName is the name in the key schedule's labels and in Status, empty for
// what is no single AEAD.
func AEADName(a wire.AEADs) string {
	switch a {
	case wire.AES256GCM:
		return "AES-256-GCM"
	case wire.ChaCha20Poly1305:
		return "ChaCha20-Poly1305"
	}
	return ""
}

// NewAEAD expands a data key. a is one AEAD; key is borrowed for the call.
func NewAEAD(a wire.AEADs, key *[KeyLen]byte) (cipher.AEAD, error) {
	switch a {
	case wire.AES256GCM:
		block, err := aes.NewCipher(key[:])
		if err != nil {
			return nil, err
		}
		return cipher.NewGCM(block)
	case wire.ChaCha20Poly1305:
		return chacha20poly1305.New(key[:])
	}
	return nil, ErrNoAEAD
}
