// Invite is an overlay's life from a shell: found one, invite, join, revoke,
// restart, and have others rule it when its founder is lost (rule.go).
//
//	invite found earth example.com &
//	token=$(invite invite earth mars)
//	invite join mars "$token" & invite ping earth mars
//	invite revoke earth mars
//	invite stop earth; invite open earth &
//
// found, join and open run a node until they are stopped. Its state is in the
// directory that is their first argument, and only one process can have that
// open at a time: a running node locks it. So the other commands do not touch
// the state. They ask the running node, through a socket in its directory
// (control.go), and wait a little for one that is still starting.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/idloc/idloc/idloc"
)

const usage = `Usage: invite [flags] command DIR [argument]

Commands that run a node, until "stop" or Ctrl-C:
  found DIR DOMAIN    found an overlay; this node's label is the last element of DIR
  join DIR TOKEN      enter with a token; the state is kept in DIR
  open DIR            run the node of DIR again, founder or not

Commands that ask the node that runs in DIR:
  invite DIR [LABEL]  print a token for LABEL, or for any label
  revoke DIR LABEL    end a membership: everywhere within 60 s, and for good
  ping DIR LABEL      wait until LABEL is reached, and say how
  status DIR          name and members known, as JSON
  zone DIR            names and peer IDs of the members known, as lines for a DNS zone file
  stop DIR            close the node and return when it has ended
  leave DIR           stop, and give the name up in the database at once

Commands that ask it who rules the overlay, and change that. At first the founder alone
is an authority. Where several have to agree, promote, demote, threshold, unattended,
recovery and revoke make a proposal, which others approve:
  authorities DIR     who they are, with the beginning of each key, and how many have to agree
  promote DIR LABEL   make a member an authority
  demote DIR NAME     remove an authority, by its name or the beginning of its key
  threshold DIR N     how many have to agree from now on
  unattended DIR D    for how long members go on that hear of no authority, such as 2160h
  recovery DIR        print a line that is worth one authority, for paper; it is shown once
  recover DIR [LINE]  become an authority by such a line; without LINE it is read from
                      standard input, where no other user of the machine sees it
  proposals DIR       ID, what, by whom and signatures of what waits, with tabs between
  approve DIR ID      sign a proposal, once it is known here; the ID's beginning does
  history DIR         who did what to the overlay, as lines of JSON

Flags:
`

// options are what the flags say.
type options struct {
	addrs    []netip.Addr
	wait     time.Duration
	expires  time.Duration
	delegate bool
	replaces string
	void     bool
}

// streams are the standard ones.
type streams struct {
	in        io.Reader
	out, diag io.Writer
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr})
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	default:
		fmt.Fprintf(os.Stderr, "invite: %v\n", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage")

func run(ctx context.Context, args []string, std streams) error {
	var o options
	flags := flag.NewFlagSet("invite", flag.ContinueOnError)
	flags.SetOutput(std.diag)
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
	}
	addrs := flags.String("addrs", os.Getenv("INVITE_ADDRS"), "local `addresses` of the node, with commas between; empty is all (default $INVITE_ADDRS)")
	flags.DurationVar(&o.wait, "wait", 15*time.Second, "how long to wait for a node that is starting, and for a peer")
	flags.DurationVar(&o.expires, "expires", 24*time.Hour, "how long a token admits")
	flags.BoolVar(&o.delegate, "delegate", false, "the invited may invite too")
	flags.StringVar(&o.replaces, "replaces", "", "`label` of a member that was lost: invite puts it out, and the token is for its name")
	flags.BoolVar(&o.void, "void", false, "demote ends at once what the authority has signed by itself: its key was stolen")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errUsage
	}
	for _, s := range strings.FieldsFunc(*addrs, func(r rune) bool { return r == ',' }) {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return fmt.Errorf("-addrs: %w", err)
		}
		o.addrs = append(o.addrs, a)
	}
	bad := func() error { flags.Usage(); return errUsage }
	if flags.NArg() < 2 {
		return bad()
	}
	command, dir, rest := flags.Arg(0), flags.Arg(1), flags.Args()[2:]
	arg := strings.Join(rest, " ")
	want, known := map[string][2]int{ // fewest and most arguments after DIR
		"found": {1, 1}, "join": {1, 1}, "open": {0, 0},
		"invite": {0, 1}, "revoke": {1, 1}, "ping": {1, 1}, "status": {0, 0}, "zone": {0, 0}, "stop": {0, 0}, "leave": {0, 0},
		"authorities": {0, 0}, "promote": {1, 1}, "demote": {1, 1}, "threshold": {1, 1}, "unattended": {1, 1},
		"recovery": {0, 0}, "recover": {0, anyNumber}, "proposals": {0, 0}, "approve": {1, 1}, "history": {0, 0},
	}[command]
	if !known || len(rest) < want[0] || len(rest) > want[1] {
		return bad()
	}
	switch command {
	case "found", "join", "open":
		return serve(ctx, command, dir, arg, o, std.out)
	case "recover":
		if arg == "" {
			b, err := io.ReadAll(io.LimitReader(std.in, 1<<12))
			if err != nil {
				return err
			}
			arg = string(b)
		}
	}
	return ask(ctx, command, dir, arg, o, std)
}

// anyNumber of arguments: the words of a recovery line.
const anyNumber = 1 << 10

// serve runs a node until ctx ends or somebody says stop.
func serve(ctx context.Context, command, dir, arg string, o options, out io.Writer) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	cfg := idloc.Config{Name: filepath.Base(dir), Dir: dir, Addrs: o.addrs}
	var node *idloc.Node
	switch command {
	case "found":
		node, err = idloc.Create(ctx, arg, cfg)
	case "join":
		node, err = idloc.Join(ctx, strings.TrimSpace(arg), cfg)
	case "open":
		node, err = idloc.Open(ctx, cfg)
	}
	if err != nil {
		return err
	}
	defer node.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := node.Watch(ctx)
	c, err := listen(dir, node, cancel)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s is up\n", node.Name())
	for e := range events {
		if e.Kind == idloc.EventRevoked {
			fmt.Fprintf(out, "%s: revoked: %s\n", node.Name(), e.Peer)
		}
	}
	// The directory is free before whoever said stop hears that it is.
	c.unlisten()
	err = node.Close()
	c.close()
	fmt.Fprintf(out, "%s is down\n", node.Name())
	return err
}
