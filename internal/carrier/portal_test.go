package carrier

import (
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"testing"
)

// Who answers at a carrier's address and serves none is told from who does not answer:
// a captive portal does the first.
func TestSomebodyElseAnswers(t *testing.T) {
	t.Parallel()
	login := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://portal.invalid/login", http.StatusFound)
	})
	quiet := log.New(io.Discard, "", 0) // they complain of what is asked of them
	plain := httptest.NewServer(login)
	t.Cleanup(plain.Close)
	secret := httptest.NewUnstartedServer(login)
	secret.Config.ErrorLog = quiet
	secret.StartTLS()
	t.Cleanup(secret.Close)
	old := httptest.NewUnstartedServer(login)
	old.Config.ErrorLog = quiet
	old.TLS = &tls.Config{MaxVersion: tls.VersionTLS12}
	old.StartTLS()
	t.Cleanup(old.Close)
	gone := nobody(t)
	for _, c := range []struct {
		what, at string
		want     bool
	}{
		{"tls, HTTP answers", "tls://" + plain.Listener.Addr().String(), true},
		{"tls, a web server", "tls://" + secret.Listener.Addr().String(), true},
		{"tls, an old web server", "tls://" + old.Listener.Addr().String(), true},
		{"tls, nobody", "tls://" + gone, false},
		{"wss, HTTP answers", "wss://" + plain.Listener.Addr().String() + "/idloc", true},
		{"wss, a web server that is not trusted", "wss://" + secret.Listener.Addr().String() + "/idloc", true},
		{"wss, nobody", "wss://" + gone + "/idloc", false},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			client, _ := started(t, Config{Proxy: direct})
			a, err := ParseAddress(c.at)
			if err != nil {
				t.Fatal(err)
			}
			if err := client.Connect(t.Context(), a); err == nil || errors.Is(err, ErrNotServed) != c.want {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("wss, a web server that redirects", func(t *testing.T) {
		t.Parallel()
		client, _ := started(t, Config{Proxy: direct, Roots: secret.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs})
		a, err := ParseAddress("wss://" + secret.Listener.Addr().String() + "/idloc")
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Connect(t.Context(), a); !errors.Is(err, ErrNotServed) {
			t.Errorf("%v", err)
		}
	})
}
