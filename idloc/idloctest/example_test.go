package idloctest_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"

	"github.com/idloc/idloc/idloc/idloctest"
)

// A program serves HTTP to a member behind other NATs, while its own restarts.
// In a test the function's body stands as it is, with the test's t; here Run
// gives it one.
func Example() {
	err := idloctest.Run(func(t testing.TB) error {
		lab := idloctest.New(t)
		lab.Node("earth") // founds the overlay; public
		mars := lab.Node("mars", idloctest.BehindNAT(idloctest.PortRestricted))
		venus := lab.Node("venus", idloctest.BehindNAT(idloctest.AddressRestricted, idloctest.PortRestricted))

		l, err := mars.Listen("tcp", ":80")
		if err != nil {
			return err
		}
		go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "mars is here") }))
		get := func() error {
			resp, err := venus.HTTPClient().Get("http://mars.example.com/")
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			_, err = io.Copy(os.Stdout, resp.Body)
			return err
		}
		if err := get(); err != nil {
			return err
		}
		mars.Rebind() // its NAT restarts, and nobody is told
		return get()
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output:
	// mars is here
	// mars is here
}
