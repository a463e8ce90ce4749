// Solarsystem plays the example of draft-matthews-p2psip-id-loc-01 §2: three
// machines of the overlay example.com, here three operating-system processes
// that share nothing but UDP on loopback.
//
// Earth founds the overlay and mints a token for each of the others. Mars
// serves a web page under the name mars.example.com. Venus fetches
// http://mars.example.com/ and the program prints how that came about: the
// name found in the distributed database, the LSI, the shim that asks for a pipe,
// the offer forwarded by earth, ICE's checks, the pipe, the SYN sent into it, and
// the page. Then datagrams, and both directions at once.
//
//	go run ./examples/solarsystem          # the story
//	go run ./examples/solarsystem -json    # the same as events, one JSON object a line
//
// The processes have no clock in common, and what one says may overtake what
// another said before: the story keeps each one's own order, puts what follows
// from another's event after it, and tells an act when all of it was heard.
// With -json the lines come as they arrive; within one role events are in the
// order of their seq.
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
	asJSON := flag.Bool("json", false, "print events as JSON, one object a line as they arrive, in place of the story")
	verbose := flag.Bool("v", false, "print every event of the three peers")
	limit := flag.Duration("timeout", 2*time.Minute, "give up after this long; a story takes less than a second if the machine has nothing else to do")
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
		err = direct(ctx, os.Stdout, *limit, *asJSON, *verbose)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "solarsystem: %v\n", err)
		stop()
		cancel()
		os.Exit(1)
	}
}
