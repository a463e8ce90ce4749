// Sipnode is a node for the SIP phones of its host: it puts the host's kernel into the
// overlay by a TUN device, and runs the registrar and outbound proxy of package sipproxy,
// until it is interrupted.
//
//	sipnode -dir DIR [-tun idloc0] [TOKEN]
//
// With a token it joins the overlay (gateway invite -tag user-fred mars makes one), without
// it goes on where it was. Phones of the host are told that their outbound proxy is the
// address that it prints, and to ask the DNS server that it prints for names, or just the
// latter, if they look for their domain's server by themselves (RFC 3263). It needs the
// right to make a TUN device (Linux, CAP_NET_ADMIN).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"syscall"

	"github.com/emiago/sipgo/sip"

	"github.com/idloc/idloc/examples/sipcall/sipproxy"
	"github.com/idloc/idloc/idloc"
)

func main() {
	dir := flag.String("dir", "", "where the node keeps its state; needed")
	tun := flag.String("tun", "idloc0", "the TUN device's name")
	verbose := flag.Bool("v", false, "say what is sent to whom")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "Usage: sipnode -dir DIR [flags] [TOKEN]\n\nA node with a registrar and proxy for the SIP phones of this host.\n\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	if *dir == "" || flag.NArg() > 1 {
		flag.Usage()
		os.Exit(2)
	}
	sip.SetDefaultLogger(slog.New(slog.DiscardHandler))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, idloc.Config{Dir: *dir, TUN: *tun}, flag.Arg(0), *verbose); err != nil {
		fmt.Fprintln(os.Stderr, "sipnode:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, cfg idloc.Config, token string, verbose bool) (err error) {
	var node *idloc.Node
	if token == "" {
		node, err = idloc.Open(ctx, cfg)
	} else {
		node, err = idloc.Join(ctx, token, cfg)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	proxy := sipproxy.Config{Log: slog.Default()}
	if verbose {
		proxy.Sent = func(text string, to netip.AddrPort) { fmt.Printf("to %v: %s\n", to, text) }
	}
	p, err := sipproxy.Start(node, proxy)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(p.Close(), err) }()
	lsi, _ := node.LSIs()
	fmt.Printf("%s: the outbound proxy is %v:5060, DNS is at %v\n", node.Name(), lsi, node.Status().Self.DNS)
	<-ctx.Done()
	return nil
}
