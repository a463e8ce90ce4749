package idloc_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"sync"
)

// TLS with the overlay's own certificates, for programs and browsers that want https: members
// take them by themselves, others when they have imported CACertificate.
func ExampleNode_ListenTLS() {
	earth, mars, end := earthAndMars()
	defer end()

	l, err := mars.ListenTLS("tcp", ":443")
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, err := mars.WhoIsString(r.RemoteAddr)
		fmt.Fprintln(w, "over TLS to", who.Name, err)
	})}
	var serving sync.WaitGroup
	defer serving.Wait()
	defer server.Close()
	serving.Go(func() { _ = server.Serve(l) })

	client := earth.HTTPClient()
	defer client.CloseIdleConnections()
	res, err := client.Get("https://mars.example.com/")
	if err != nil {
		log.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	fmt.Print(string(b))
	// Output: over TLS to earth.example.com <nil>
}
