package membership

import (
	"crypto/ed25519"
	"fmt"

	"github.com/idloc/idloc/overlay/membership/canon"
)

const (
	withdrawalStatement = "withdrawal"

	// WithdrawalSize is the size of a withdrawal in bytes.
	WithdrawalSize = 32 + canon.SignatureSize
)

// Secret returns the seed of the invitation key: whoever has it has the token.
func (t *Token) Secret() [32]byte { return t.seed }

// Withdrawal returns the wish that an invitation end, of which only who has its
// secret can ask:
//
//	invitation key 32 | signature of the invitation key 64
func Withdrawal(o Overlay, secret [32]byte) ([]byte, error) {
	private := ed25519.NewKeyFromSeed(secret[:])
	key, err := publicKey(private)
	if err != nil {
		return nil, err
	}
	sig, err := canon.Sign(private, o.domain(withdrawalStatement), key[:])
	return append(key[:], sig...), err
}

// OpenWithdrawal returns the invitation that a withdrawal ends. b is borrowed.
func OpenWithdrawal(b []byte, o Overlay) (Key, error) {
	r := canon.NewReader(b)
	key, sig := Key(r.Key()), r.Bytes(canon.SignatureSize)
	if err := r.End(); err != nil {
		return Key{}, fmt.Errorf("withdrawal: %w", err)
	}
	if err := canon.Verify(key[:], o.domain(withdrawalStatement), key[:], sig); err != nil {
		return Key{}, fmt.Errorf("withdrawal: %w", err)
	}
	return key, nil
}
