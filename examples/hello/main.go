// Command hello is the program of the README. Without an argument it founds an
// overlay and serves HTTP in it; with the token that this prints it joins, and
// asks. Nothing is kept: both are new members at each start.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"

	"github.com/idloc/idloc/idloc"
)

func main() {
	ctx := context.Background()
	if len(os.Args) == 1 { // on one machine
		earth := must(idloc.Create(ctx, "example.com", idloc.Config{Name: "earth"}))
		fmt.Println("on the other machine: go run ./examples/hello", must(earth.Invite(idloc.InviteOptions{Name: "mars"})))
		l := must(earth.Listen("tcp", ":80")) // a port of the overlay: no root
		log.Fatal(http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintln(w, "hello from", earth.Name())
		})))
	}
	mars := must(idloc.Join(ctx, os.Args[1], idloc.Config{})) // on the other
	defer mars.Close()
	resp := must(mars.HTTPClient().Get("http://earth.example.com/"))
	io.Copy(os.Stdout, resp.Body)
}

func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}
