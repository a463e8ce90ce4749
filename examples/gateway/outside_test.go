package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
)

// TestOutside: the proxies reach members, and nothing else that the gateway's host
// reaches, its own services least of all, unless they are told to.
func TestOutside(t *testing.T) {
	t.Parallel()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "of the host") }))
	defer web.Close()
	_, port, err := net.SplitHostPort(web.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, outside := range []bool{false, true} {
		var args []string
		if outside {
			args = append(args, "-outside")
		}
		earth := up(t, t.TempDir(), "create", append(args, "-name", "earth", "example.com")...)
		for _, proxy := range []string{"socks5h://" + earth.at(t, "SOCKS5 proxy"), "http://" + earth.at(t, "HTTP proxy")} {
			u, err := url.Parse(proxy)
			if err != nil {
				t.Fatal(err)
			}
			for _, host := range []string{"127.0.0.1", "localhost"} {
				tr := &http.Transport{Proxy: func(*http.Request) (*url.URL, error) { return u, nil }}
				resp, err := (&http.Client{Transport: tr}).Get("http://" + host + ":" + port + "/")
				var got string
				if err == nil {
					b, _ := io.ReadAll(resp.Body)
					_ = resp.Body.Close()
					got = string(b)
				}
				if (got == "of the host") != outside {
					t.Errorf("-outside=%v: %s through %s: %q, %v", outside, host, proxy, got, err)
				}
				tr.CloseIdleConnections()
			}
		}
		earth.stop()
	}
}
