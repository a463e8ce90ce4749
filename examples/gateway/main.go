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

	"github.com/idloc/idloc/idloc"
)

const usage = `Usage: gateway <command> [flags] [arguments]

Commands that run a node, until interrupted:
  create <domain>     found an overlay, such as example.com
  join <token>        enter an overlay with a token; - reads it from standard
                      input, where no other user of the machine sees it
  run                 resume what create or join began in -dir; if no member
                      is reached it stays, says so and why, and goes on trying

Commands that ask the node that runs in -dir:
  invite [label]      print a token; with a label, for that name only; -qr draws
                      it as well, for a camera
  revoke <name>       put a member out
  status              print who is there and how it is reached, and where the
                      proxies are: in a terminal a picture, elsewhere a table
  ping <name>         measure the round trip inside the pipe
  netcheck            say what kind of network this is and what will work
  connect <host:port> join standard input and output to a connection, as
                      ssh -o ProxyCommand='gateway connect %h:%p' wants it

And one that asks nobody:
  token <token>       say what a token is for, without its secret; - reads it from
                      standard input

'gateway <command> -h' prints the flags of a command. idloc-gateway.service,
beside the source, is a unit for systemd that keeps a gateway running.

Several gateways run on one machine, each with a -dir of its own. Where the usual
port of a proxy or of the page is in use, a gateway takes a free one and says so.

With -tun, members' addresses are unreachable on this host while the gateway is
down after a crash, so that nobody else answers for them. A host that never runs
it again takes those routes away:
  ip route flush proto 198; ip -6 route flush proto 198
Between an orderly end and the next start there are none; a host that wants them
at all times adds its own, which the gateway leaves alone:
  ip route add unreachable 198.18.0.0/15 metric 9999
  ip -6 route add unreachable 2001:20::/28 metric 9999
`

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

	// Of invite.
	expires         time.Duration
	relay, delegate bool
	qr              bool

	count int // of ping
}

func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) error {
	if len(args) == 0 {
		io.WriteString(errOut, usage)
		return errUsage
	}
	cmd, args := args[0], args[1:]
	if cmd == "-h" || cmd == "-help" || cmd == "--help" || cmd == "help" {
		io.WriteString(out, usage)
		return flag.ErrHelp
	}
	var o options
	fs := flag.NewFlagSet("gateway "+cmd, flag.ContinueOnError)
	fs.SetOutput(errOut)
	fs.StringVar(&o.dir, "dir", defaultDir(), "folder of the node's key and state; one node a folder")
	least, most, what, ok := o.define(fs, cmd)
	if !ok {
		fmt.Fprintf(errOut, "gateway: no command %q\n\n%s", cmd, usage)
		return errUsage
	}
	fs.Usage = func() {
		fmt.Fprintf(fs.Output(), "Usage: gateway %s [flags] %s\n\n", cmd, what)
		fs.PrintDefaults()
	}
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errUsage
	}
	if fs.NArg() < least || fs.NArg() > most {
		fs.Usage()
		return errUsage
	}
	o.given = map[string]bool{}
	fs.Visit(func(f *flag.Flag) { o.given[f.Name] = true })
	arg := fs.Arg(0)
	if o.dir == "" {
		return errors.New("no home folder is known: say -dir")
	}
	if (cmd == "join" || cmd == "token") && arg == "-" {
		b, err := io.ReadAll(io.LimitReader(in, 1<<16))
		if err != nil {
			return err
		}
		arg = strings.TrimSpace(string(b))
	}
	return o.do(ctx, cmd, arg, in, out, errOut)
}

// do carries a command out.
func (o options) do(ctx context.Context, cmd, arg string, in io.Reader, out, errOut io.Writer) error {
	c := client{dir: o.dir}
	switch cmd {
	case "create", "join", "run":
		return serve(ctx, cmd, arg, o, out, errOut)
	case "invite":
		return c.invite(ctx, out, idloc.InviteOptions{Name: arg, Expires: o.expires, Relay: o.relay, Delegate: o.delegate}, o.qr)
	case "revoke":
		return c.revoke(ctx, out, arg)
	case "ping":
		return c.ping(ctx, out, arg, o.count)
	case "connect":
		return c.connect(ctx, arg, in, out)
	case "token":
		return describe(out, arg, o.json, time.Now())
	case "netcheck":
		return c.netcheck(ctx, out, o.json)
	}
	return c.status(ctx, out, o.json)
}

// define defines the flags of a command in fs, and returns how many arguments it
// takes and what they are. Commands that are none are not ok.
func (o *options) define(fs *flag.FlagSet, cmd string) (least, most int, what string, ok bool) {
	switch cmd {
	case "create", "join", "run":
		fs.StringVar(&o.name, "name", "", "host label to ask for; the machine's name if empty")
		fs.StringVar(&o.socks, "socks", "127.0.0.1:1080", "address of the SOCKS5 proxy; empty for none; not given and in use: a free port")
		fs.StringVar(&o.http, "http", "127.0.0.1:8118", "address of the HTTP proxy; empty for none; not given and in use: a free port")
		fs.StringVar(&o.dns, "dns", "", "address of a DNS port for the overlay's names, such as 127.0.0.1:5353; empty for none")
		fs.StringVar(&o.page, "page", "127.0.0.1:8080", "address of the status page and /proxy.pac; empty for none; not given and in use: a free port")
		fs.Var(&o.addrs, "addr", "local IP address to use; may be repeated; all if not given, but those that may be LSIs (198.18.0.0/15, 2001:20::/28)")
		fs.UintVar(&o.port, "port", 0, "UDP port of the node; 0 picks one")
		fs.Var(&o.local, "L", "`[udp:][bind:]port:host:port`: forward a local port to a member; may be repeated")
		fs.Var(&o.remote, "R", "`[udp:]port:host:port`: forward a port of this node in the overlay to a real address; may be repeated")
		fs.BoolVar(&o.verbose, "v", false, "tell of every pipe and every failed dial on standard error")
		fs.StringVar(&o.tun, "tun", "", "name of a TUN device to make, such as idloc0: the programs of this host reach members without a proxy; Linux, needs CAP_NET_ADMIN and CAP_NET_BIND_SERVICE")
		fs.StringVar(&o.lsis, "lsi-prefix", "", "IPv4 `prefix` that stands for members on this host, such as 198.19.0.0/16, where the host uses the default itself; a /16 of 198.18.0.0/15 if empty")
		fs.Var(&o.allow, "allow", "`tcp:port` or udp:port or udp:first-last that members may reach here, and no other; may be repeated; all if not given")
		fs.BoolVar(&o.outside, "outside", true, "let the proxies reach names outside the overlay, too")
		if cmd != "run" {
			least, most, what = 1, 1, map[string]string{"create": "<domain>", "join": "<token>"}[cmd]
		}
	case "invite":
		fs.DurationVar(&o.expires, "expires", 24*time.Hour, "how long the token admits")
		fs.BoolVar(&o.relay, "relay", false, "the member may forward data for others")
		fs.BoolVar(&o.delegate, "delegate", false, "the member may invite")
		fs.BoolVar(&o.qr, "qr", false, "draw the token as a QR code above it; whoever sees the code can use it")
		most, what = 1, "[label]"
	case "revoke":
		least, most, what = 1, 1, "<name>"
	case "ping":
		fs.IntVar(&o.count, "c", 3, "how many times")
		least, most, what = 1, 1, "<name>"
	case "connect":
		least, most, what = 1, 1, "<host:port>"
	case "token":
		fs.BoolVar(&o.json, "json", false, "print JSON")
		least, most, what = 1, 1, "<token>"
	case "status", "netcheck":
		fs.BoolVar(&o.json, "json", false, "print JSON")
	default:
		return 0, 0, "", false
	}
	return least, most, what, true
}

func defaultDir() string {
	d, err := os.UserConfigDir()
	if err != nil {
		return ""
	}
	return filepath.Join(d, "idloc-gateway")
}
