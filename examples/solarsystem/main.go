// Solarsystem plays the example of draft-matthews-p2psip-id-loc-01 §2: three
// machines of the overlay example.com, here three operating-system processes
// that share nothing but UDP on loopback.
//
// Earth founds the overlay and mints a token for each of the others. Mars
// serves a web page under the name mars.example.com. Venus fetches
// http://mars.example.com/ and the program prints how that came about: the
// name found in the distributed database, the LSI, the SYN held in the shim,
// the offer forwarded by earth, ICE's checks, the pipe, the SYN released, and
// the page. Then datagrams, and both directions at once.
//
//	go run ./examples/solarsystem          # the story
//	go run ./examples/solarsystem -json    # the same as events, one JSON object a line
//
// The exit code is 0 only if every step was seen.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"
)

func main() {
	asJSON := flag.Bool("json", false, "print events as JSON, one object a line, in place of the story")
	verbose := flag.Bool("v", false, "print every event of the three peers")
	limit := flag.Duration("timeout", 15*time.Second, "give up after this long")
	role := flag.String("role", "", "used by the program itself: play one peer (earth, venus or mars)")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "Usage: solarsystem [flags]\n\nThree peers in three processes: venus fetches http://mars.example.com/ through an\noverlay that earth founded. Exit code 0 only if every step of the story was seen.\n\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}

	ctx, cancel := context.WithTimeout(context.Background(), *limit)
	defer cancel()
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()

	var err error
	if *role != "" {
		err = play(ctx, *role)
	} else {
		err = direct(ctx, *asJSON, *verbose)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "solarsystem: %v\n", err)
		stop()
		cancel()
		os.Exit(1)
	}
}
