// Sipcall plays the example of draft-matthews-p2psip-id-loc-01 §6: wilma on
// venus calls fred on mars, with SIP user agents that know nothing of the
// overlay between them. They are those of github.com/emiago/sipgo, unmodified;
// what they get from a node is its listeners, its connections and its
// resolver.
//
//	go run . [flags]          # in this folder: it is a module of its own
//
// The program prints the draft's ladder with times: the name found at earth,
// the SYN that finds no mapping, the offer through earth, the checks, the
// pipe, then INVITE to ACK, and the sound (RTP, 50 packets a second each way).
// In mid-call mars moves to another address, as a telephone does that walks
// out of the house; the call goes on, and the program says how many packets
// that has cost. Then wilma hangs up and fred calls back: no offer is needed
// now, as "this UDP pipe can be used for all traffic between Venus and Mars".
//
// With -record wilma dials sip:fred@example.com instead, which the draft leaves open: each
// node has a registrar, redirect server and outbound proxy of its own (package sipproxy),
// and the overlay's database says where fred is. His phone moves from mars to pluto, he has
// two, and none; all of them speak IPv4, and each host calls itself 198.18.0.1.
//
// All of it runs in this process, on a simulated network with 20 ms from each
// machine to each other; venus and mars are behind NATs.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"
)

func main() {
	var o options
	flag.StringVar(&o.transport, "transport", "tcp", "what SIP goes over: tcp, tls (sips: addresses, as in the draft) or udp")
	flag.IntVar(&o.packets, "packets", 150, "RTP packets that each side must hear, before the move and after it; 50 are a second; at most 10,000")
	flag.BoolVar(&o.record, "record", false, "wilma dials sip:fred@example.com: registrars, redirection, phones that speak IPv4; over UDP")
	limit := flag.Duration("timeout", time.Minute, "give up after this long")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "Usage: sipcall [flags]\n\nTwo SIP phones call each other over an overlay, and one of them moves in mid-call.\nExit code 0 only if all of it went well.\n\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() > 0 || o.packets < 1 || o.packets > 10_000 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), *limit)
	defer cancel()
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	play := func() error {
		_, err := run(ctx, o, os.Stdout)
		return err
	}
	if o.record {
		play = func() error { return runRecord(ctx, o, os.Stdout) }
	}
	if err := play(); err != nil {
		fmt.Fprintln(os.Stderr, "sipcall:", err)
		stop()
		cancel()
		os.Exit(1)
	}
}

type options struct {
	transport string
	packets   int
	record    bool
}

// report is what became of the sound, in each direction.
type report struct {
	Whole, Move map[string]loss // by direction
}

const (
	toMars  = "venus → mars"
	toVenus = "mars → venus"
)

func (r *report) print(w io.Writer) {
	fmt.Fprintln(w, "\nRTP                whole call           0.5 s before the move to 1 s after it")
	for _, dir := range []string{toMars, toVenus} {
		a, m := r.Whole[dir], r.Move[dir]
		fmt.Fprintf(w, "%-14s %4d sent, %2d lost      %3d sent, %2d lost, longest silence %v\n",
			dir, a.Sent, a.Lost, m.Sent, m.Lost, m.Silence.Round(time.Millisecond))
	}
	fmt.Fprintln(w, strings.Repeat(" ", 15)+"(a packet every 20 ms)")
}
