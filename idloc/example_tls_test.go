package idloc_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"math/big"
	"time"
)

// TLS on top, for programs and browsers that want https. The pipe has encrypted
// and authenticated everything already: the certificate says no more than the name
// does, and any authority of one's own will do. Here the server is its own.
func ExampleNode_Listen_tls() {
	earth, mars, end := earthAndMars()
	defer end()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader,
		&x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{mars.Name()}},
		&x509.Certificate{}, &key.PublicKey, key)
	if err != nil {
		log.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		log.Fatal(err)
	}

	l, err := mars.Listen("tcp", ":443")
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		secure := tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
		c, err := secure.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		fmt.Fprint(c, "over TLS")
	}()

	conn, err := earth.Dial(context.Background(), "tcp", "mars.example.com:443")
	if err != nil {
		log.Fatal(err)
	}
	known := x509.NewCertPool()
	known.AddCert(cert)
	c := tls.Client(conn, &tls.Config{ServerName: "mars.example.com", RootCAs: known})
	defer c.Close()
	b, err := io.ReadAll(c)
	fmt.Println(string(b), err)
	// Output: over TLS <nil>
}
