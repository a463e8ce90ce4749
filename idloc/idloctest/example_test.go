package idloctest_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/idloc/idloc/idloc/idloctest"
)

// A test of a program that serves HTTP to members behind NATs.
func Example() {
	_ = func(t *testing.T) {
		lab := idloctest.New(t)
		lab.Node("earth") // founds the overlay; public
		mars := lab.Node("mars", idloctest.BehindNAT(idloctest.PortRestricted))
		venus := lab.Node("venus", idloctest.BehindNAT(idloctest.AddressRestricted, idloctest.PortRestricted))

		l, err := mars.Listen("tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		go http.Serve(l, http.FileServer(http.Dir(".")))

		mars.Rebind() // its NAT restarts
		resp, err := venus.HTTPClient().Get("http://mars.example.com/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		io.Copy(io.Discard, resp.Body)
	}
}
