// Gateway lets programs that know nothing of idloc use an overlay: a browser
// through a proxy, ssh and databases through forwards, dig through a DNS port.
// It runs without root and touches nothing of the system, unless -tun gives it
// a TUN device: then every program of the host is in the overlay.
//
//	gateway create example.com                 # found an overlay and run
//	gateway invite mars                        # in another shell: a token for mars
//	gateway join idloc1…                       # on mars: enter and run
//	gateway run                                # later: again, with what -dir keeps
//	curl --proxy socks5h://127.0.0.1:1080 http://mars.example.com/
//
// See gateway -h for the rest.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log.SetPrefix("gateway: ") // and the time, on standard error
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(0)
	case errors.Is(err, errUsage):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "gateway:", err)
		os.Exit(1)
	}
}

// errUsage: the usage was printed already.
var errUsage = errors.New("usage")

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

// options are the flags of all commands.
type options struct {
	dir   string
	json  bool
	given map[string]bool // flags that were given

	// Of create, join and run.
	name, socks, http, dns, page string
	addrs                        list
	port                         uint
	local, remote                list
	outside, verbose             bool
	tun, lsis                    string
	allow                        list
	carrier                      string
	noLAN, noIPv4                bool
	reached                      list

	// Of invite.
	expires         time.Duration
	relay, delegate bool
	qr, reuse       bool
	uses            int
	replaces        string
	tags            list

	all, below bool // of revoke
	void       bool // of demote

	count int // of ping
}

func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) error {
	if len(args) == 0 {
		io.WriteString(errOut, usage())
		return errUsage
	}
	cmd, args := args[0], args[1:]
	if cmd == "-h" || cmd == "-help" || cmd == "--help" || cmd == "help" {
		io.WriteString(out, usage())
		return flag.ErrHelp
	}
	c, ok := find(cmd)
	if !ok {
		fmt.Fprintf(errOut, "gateway: no command %q\n\n%s", cmd, usage())
		return errUsage
	}
	var o options
	fs := c.flagSet(&o)
	fs.SetOutput(errOut)
	fs.Usage = func() {
		fmt.Fprintf(fs.Output(), "Usage: gateway %s [flags] %s\n\n", cmd, c.args)
		fs.PrintDefaults()
	}
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errUsage
	}
	if fs.NArg() < c.least || fs.NArg() > c.most {
		fs.Usage()
		return errUsage
	}
	o.given = map[string]bool{}
	fs.Visit(func(f *flag.Flag) { o.given[f.Name] = true })
	arg := fs.Arg(0)
	if o.dir == "" {
		return errors.New("no home folder is known: say -dir")
	}
	if (cmd == "join" || cmd == "token" || cmd == "withdraw") && arg == "-" {
		b, err := io.ReadAll(io.LimitReader(in, 1<<16))
		if err != nil {
			return err
		}
		arg = strings.TrimSpace(string(b))
	}
	err := c.do(ctx, o, call{cmd, arg, fs.Args(), in, out, errOut})
	if p := (pendingError{}); errors.As(err, &p) {
		fmt.Fprintf(errOut, "gateway: not in force yet: %v; another authority says: gateway approve ID\n", p)
		return nil
	}
	return err
}

func defaultDir() string {
	d, err := os.UserConfigDir()
	if err != nil {
		return ""
	}
	return filepath.Join(d, "idloc-gateway")
}
