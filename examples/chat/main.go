// Chat is a conversation between the members of an overlay: every line typed
// goes to everybody, and every line that comes says who typed it, which the
// pipe has authenticated.
//
//	chat -found example.com -name earth       # on earth; prints a token
//	chat -join idloc1… -name mars earth       # on mars
//	chat -join idloc1… -name venus earth mars # on venus
//
// The names at the end are those to connect to; others may connect later.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/idloc/idloc/idloc"
)

const port = "7000"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "chat:", err)
		stop()
		os.Exit(1)
	}
}

// run chats until in or ctx ends.
func run(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	fs := flag.NewFlagSet("chat", flag.ContinueOnError)
	fs.SetOutput(out)
	domain := fs.String("found", "", "found the overlay of this domain")
	token := fs.String("join", "", "enter an overlay with this token")
	cfg := idloc.Config{}
	fs.StringVar(&cfg.Name, "name", "", "host label to ask for; the machine's name if empty")
	fs.StringVar(&cfg.Dir, "dir", "", "folder that keeps the membership; without -found and -join it is resumed")
	fs.Func("addr", "local IP `address` to use; may be repeated; all if not given", func(s string) error {
		a, err := netip.ParseAddr(s)
		cfg.Addrs = append(cfg.Addrs, a)
		return err
	})
	fs.Usage = func() {
		fmt.Fprintf(out, "Usage: chat [flags] [name ...]\n\nTalks to the members of an overlay; those named are connected to.\n\n")
		fs.PrintDefaults()
	}
	if err := fs.Parse(args); err != nil {
		return err
	}
	node, err := enter(ctx, *domain, *token, cfg)
	if err != nil {
		return err
	}
	r := &room{node: node, out: out, conns: map[net.Conn]bool{}}
	defer r.wg.Wait()
	defer node.Close() // ends all conns
	fmt.Fprintln(out, "you are", node.Name())
	if token, err := node.Invite(idloc.InviteOptions{Uses: idloc.AnyNumber}); err == nil {
		fmt.Fprintln(out, "others enter with: chat -join", token)
	}
	l, err := node.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	r.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.wg.Go(func() { r.hear(c) })
		}
	})
	for _, name := range fs.Args() {
		c, err := node.Dial(ctx, "tcp", net.JoinHostPort(name, port))
		if err != nil {
			r.say("* %v", err)
			continue
		}
		r.wg.Go(func() { r.hear(c) })
	}
	return r.speak(ctx, in)
}

func enter(ctx context.Context, domain, token string, cfg idloc.Config) (*idloc.Node, error) {
	switch {
	case domain != "":
		return idloc.Create(ctx, domain, cfg)
	case token != "":
		return idloc.Join(ctx, token, cfg)
	}
	return idloc.Open(ctx, cfg)
}

// room is all who are connected.
type room struct {
	node *idloc.Node
	wg   sync.WaitGroup

	mu    sync.Mutex // guards what follows, and writes
	out   io.Writer
	conns map[net.Conn]bool
}

func (r *room) say(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.out, format+"\n", args...)
}

// hear prints what one member types until it leaves.
func (r *room) hear(c net.Conn) {
	defer c.Close()
	who := "?"
	if p, err := r.node.WhoIs(c.RemoteAddr()); err == nil {
		who = p.Name
	}
	r.mu.Lock()
	r.conns[c] = true
	r.mu.Unlock()
	r.say("* %s is here", who)
	for s := bufio.NewScanner(c); s.Scan(); {
		r.say("%s: %s", who, s.Text())
	}
	r.mu.Lock()
	delete(r.conns, c)
	r.mu.Unlock()
	r.say("* %s has left", who)
}

// speak sends the lines of in to all.
func (r *room) speak(ctx context.Context, in io.Reader) error {
	lines := make(chan string)
	go func() { // ends with in, or with the process
		defer close(lines)
		for s := bufio.NewScanner(in); s.Scan(); {
			select {
			case lines <- s.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				return nil
			}
			r.mu.Lock()
			for c := range r.conns {
				c.SetWriteDeadline(time.Now().Add(time.Second)) // who does not read holds up nobody
				if _, err := fmt.Fprintln(c, line); err != nil {
					c.Close()
				}
			}
			r.mu.Unlock()
		case <-ctx.Done():
			return nil
		}
	}
}
