package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/idloc/idloc/idloc"
)

// askingFor bounds how long somebody is looked for who signs.
const askingFor = 20 * time.Second

// serveCertificates answers the commands ca and certificate.
func (g *gateway) serveCertificates(mux *http.ServeMux) {
	mux.HandleFunc("GET /ca", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), askingFor)
		defer cancel()
		ca, err := g.node.CACertificate(ctx)
		answer(w, string(ca), err)
	})
	mux.HandleFunc("GET /certificate", func(w http.ResponseWriter, _ *http.Request) {
		text, err := certificate(g.node)
		answer(w, string(text), err)
	})
}

// certificate is a node's, its chain and its key, as servers read them: PEM, RFC 7468.
func certificate(n *idloc.Node) ([]byte, error) {
	c, err := n.TLSConfig().GetCertificate(new(tls.ClientHelloInfo))
	if err != nil {
		return nil, err
	}
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		return nil, err
	}
	var out []byte
	for _, der := range c.Certificate {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return append(out, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...), nil
}

// printed prints what the node answers, a text.
func (c client) printed(ctx context.Context, out io.Writer, path string) error {
	var text string
	if err := c.ask(ctx, "GET", path, nil, &text); err != nil {
		return err
	}
	_, err := fmt.Fprint(out, text)
	return err
}
