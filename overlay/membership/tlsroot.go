package membership

import (
	"fmt"

	"github.com/idloc/idloc/overlay/membership/canon"
)

// tlsRoot is the statement by which an authority says which X.509 root is its own.
const tlsRoot = "x509-root"

// SignRoot is an authority's word that an X.509 root, of which the DER is given, is its own.
func (s *Signer) SignRoot(der []byte) ([]byte, error) {
	return canon.Sign(s.key, s.overlay.domain(tlsRoot), der)
}

// CheckRoot wants that whoever has a key has said so. Whether that is an authority's the list
// tells. der and sig are borrowed.
func (o Overlay) CheckRoot(authority Key, der, sig []byte) error {
	if err := authority.check(); err != nil {
		return err
	}
	if err := canon.Verify(authority[:], o.domain(tlsRoot), der, sig); err != nil {
		return fmt.Errorf("X.509 root: %w", err)
	}
	return nil
}
