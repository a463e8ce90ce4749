package quictransport

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
)

// TestTLSHasNoDate: the certificate of a connection is good whatever the clocks
// of its two ends say, from a host without a battery to one far ahead.
func TestTLSHasNoDate(t *testing.T) {
	t.Parallel()
	priv, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, err := libp2ptls.NewIdentity(priv, Timeless())
	if err != nil {
		t.Fatal(err)
	}
	conf, _ := id.ConfigForPeer("")
	cert, err := x509.ParseCertificate(conf.Certificates[0].Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := libp2ptls.PubKeyFromCertChain([]*x509.Certificate{cert}); err != nil {
		t.Error(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	for _, at := range []time.Time{time.Unix(1, 0), time.Now(), time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)} {
		if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: at}); err != nil {
			t.Errorf("at %v: %v", at, err)
		}
	}
}

func TestNewIdentity(t *testing.T) {
	t.Parallel()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	id, err := NewIdentity(key)
	if err != nil {
		t.Fatal(err)
	}
	conf, _ := id.ConfigForPeer("")
	cert, err := x509.ParseCertificate(conf.Certificates[0].Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	shown, err := libp2ptls.PubKeyFromCertChain([]*x509.Certificate{cert})
	if err != nil {
		t.Fatal(err)
	}
	if raw, err := shown.Raw(); err != nil || !bytes.Equal(raw, pub) {
		t.Errorf("it shows the key %x, not %x: %v", raw, pub, err)
	}
	if cert.NotBefore.After(time.Unix(0, 0)) {
		t.Errorf("it begins at %v", cert.NotBefore)
	}
	for _, bad := range []ed25519.PrivateKey{nil, key[:31], append(key[:len(key):len(key)], 1)} {
		if _, err := NewIdentity(bad); err == nil {
			t.Errorf("a key of %d bytes has an identity", len(bad))
		}
	}
}
