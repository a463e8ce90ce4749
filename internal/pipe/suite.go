package pipe

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"runtime"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/sys/cpu"

	"github.com/idloc/idloc/internal/wire"
)

const (
	keyLen   = 32
	nonceLen = 12
)

// ErrNoAEAD is returned when two peers have no data AEAD in common.
var ErrNoAEAD = errors.New("pipe: no common AEAD")

// hasAES says whether AES-GCM runs on hardware here.
func hasAES() bool {
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

// offeredAEADs is what this side lists in an offer, and compares with one.
func offeredAEADs(aesHardware bool) wire.AEADs {
	a := wire.AES256GCM | wire.ChaCha20Poly1305
	if aesHardware {
		a |= wire.HasAES
	}
	return a
}

// chooseAEAD is the responder's choice: AES-256-GCM if both have AES in
// hardware, ChaCha20-Poly1305 otherwise, and AES only if nothing else is
// common. Both lists are inside authenticated Noise messages, so nobody on
// the way can make the choice worse.
func chooseAEAD(offered, mine wire.AEADs) (wire.AEADs, error) {
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

// aeadName is the name in the key schedule's labels and in Status.
func aeadName(a wire.AEADs) string {
	switch a {
	case wire.AES256GCM:
		return "AES-256-GCM"
	case wire.ChaCha20Poly1305:
		return "ChaCha20-Poly1305"
	}
	return ""
}

func newAEAD(a wire.AEADs, key *[keyLen]byte) (cipher.AEAD, error) {
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
