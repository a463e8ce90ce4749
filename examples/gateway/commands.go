package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/idloc/idloc/idloc"
)

// command is one of the gateway's commands.
type command struct {
	name        string
	args        string   // what follows the flags
	least, most int      // how many arguments
	values      []string // that an argument may have, if there are only these
	help        string   // lines of the usage; what it does stands before the first comma
	flags       func(*options, *flag.FlagSet)
	do          func(context.Context, options, call) error
}

// call is one use of a command.
type call struct {
	cmd, arg    string // arg is the first of args, "" if there is none
	args        []string
	in          io.Reader
	out, errOut io.Writer
}

// group is commands that belong together.
type group struct {
	title    string
	commands []command
}

// groups is the table of all commands: the usage, the flags and the completion
// of shells are made of it.
func groups() []group {
	return []group{
		{"Commands that run a node, until interrupted:", nodeCommands()},
		{"Commands that ask the node that runs in -dir:", clientCommands()},
		{"Commands that ask it who rules the overlay, and change that:", ruleCommands()},
		{"And some that ask nobody:", []command{
			{name: "token", args: "<token>", least: 1, most: 1, flags: jsonFlag,
				help: "say what a token is for, without its secret; - reads it from\nstandard input",
				do: func(_ context.Context, o options, c call) error {
					return describe(c.out, c.arg, o.json, time.Now())
				}},
			{name: "completion", args: "<shell>", least: 1, most: 1, values: shells(),
				help: "print completion of commands and flags for bash, zsh or fish;\n" +
					"in ~/.bashrc, and with zsh in ~/.zshrc after compinit:\n" +
					"  eval \"$(gateway completion bash)\"\n" +
					"in config.fish:\n" +
					"  gateway completion fish | source",
				do: func(_ context.Context, _ options, c call) error { return completion(c.out, c.arg) }},
		}},
	}
}

// nodeCommands run a node.
func nodeCommands() []command {
	node := func(ctx context.Context, o options, c call) error {
		return serve(ctx, c.cmd, c.arg, o, c.out, c.errOut)
	}
	return []command{
		{name: "create", args: "<domain>", least: 1, most: 1, flags: nodeFlags, do: node,
			help: "found an overlay, such as example.com"},
		{name: "join", args: "<token>", least: 1, most: 1, flags: nodeFlags, do: node,
			help: "enter an overlay with a token; - reads it from standard\ninput, where no other user of the machine sees it"},
		{name: "run", flags: nodeFlags, do: node,
			help: "resume what create or join began in -dir; if no member\nis reached it stays, says so and why, and goes on trying"},
	}
}

// clientCommands ask a node that runs.
func clientCommands() []command {
	return []command{
		{name: "invite", args: "[label]", most: 1, flags: inviteFlags,
			help: "print a token; with a label, for that name only; -qr draws\nit as well, for a camera",
			do: func(ctx context.Context, o options, c call) error {
				return o.client().invite(ctx, c.out, idloc.InviteOptions{Name: c.arg, Expires: o.expires, Relay: o.relay, Delegate: o.delegate, Uses: o.uses, Replaces: o.replaces, Tags: o.tags, Reuse: o.reuse}, o.qr)
			}},
		{name: "invitations", flags: jsonFlag,
			help: "list the tokens that this node has made, and who came by\nwhich",
			do: func(ctx context.Context, o options, c call) error {
				return o.client().invitations(ctx, c.out, o.json, time.Now())
			}},
		{name: "withdraw", args: "<token or ID>", least: 1, most: 1,
			help: "end an invitation: nobody enters by it any more; - reads\nthe token from standard input",
			do: func(ctx context.Context, o options, c call) error {
				return o.client().withdraw(ctx, c.out, c.arg)
			}},
		{name: "revoke", args: "<name>", least: 1, most: 1, flags: revokeFlags,
			help: "put a member out; -all: and all that came by the same token",
			do: func(ctx context.Context, o options, c call) error {
				return o.client().revoke(ctx, c.out, c.arg, o.all, o.below)
			}},
		{name: "grants", args: "[file]", most: 1,
			help: "print who may open what at whom, as authorities have said;\nwith a file, or - for standard input, say so: for authorities",
			do: func(ctx context.Context, o options, c call) error {
				return o.client().grants(ctx, c)
			}},
		{name: "may", args: "<who> …", least: 4, most: 4,
			help: "say whether one member may open a port at another, and by\nwhich line, as in 'may venus tcp 80 mars' or\n'may tag:web udp 53 tag:dns'",
			do: func(ctx context.Context, o options, c call) error {
				return o.client().may(ctx, c.out, c.args)
			}},
		{name: "ca",
			help: "print what browsers, phones and curl --cacert import to\ntake the TLS certificates of this overlay",
			do: func(ctx context.Context, o options, c call) error {
				return o.client().printed(ctx, c.out, "/ca")
			}},
		{name: "certificate",
			help: "print this node's TLS certificate and its private key, for\na program that serves its name; good for a week at most",
			do: func(ctx context.Context, o options, c call) error {
				return o.client().printed(ctx, c.out, "/certificate")
			}},
		{name: "status", flags: jsonFlag,
			help: "print who is there and how it is reached, and where the\nproxies are: in a terminal a picture, elsewhere a table",
			do: func(ctx context.Context, o options, c call) error {
				return o.client().status(ctx, c.out, o.json)
			}},
		{name: "ping", args: "<name>", least: 1, most: 1,
			flags: func(o *options, fs *flag.FlagSet) { fs.IntVar(&o.count, "c", 3, "how many times") },
			help:  "measure the round trip inside the pipe",
			do: func(ctx context.Context, o options, c call) error {
				return o.client().ping(ctx, c.out, c.arg, o.count)
			}},
		{name: "netcheck", flags: jsonFlag,
			help: "say what kind of network this is and what will work",
			do: func(ctx context.Context, o options, c call) error {
				return o.client().netcheck(ctx, c.out, o.json)
			}},
		{name: "connect", args: "<host:port>", least: 1, most: 1,
			help: "join standard input and output to a connection, as\nssh -o ProxyCommand='gateway connect %h:%p' wants it",
			do: func(ctx context.Context, o options, c call) error {
				return o.client().connect(ctx, c.arg, c.in, c.out)
			}},
	}
}

func nodeFlags(o *options, fs *flag.FlagSet) {
	fs.StringVar(&o.name, "name", "", "host label to ask for; the machine's name if empty")
	fs.StringVar(&o.socks, "socks", "127.0.0.1:1080", "address of the SOCKS5 proxy; empty for none; not given and in use: a free port")
	fs.StringVar(&o.http, "http", "127.0.0.1:8118", "address of the HTTP proxy; empty for none; not given and in use: a free port")
	fs.StringVar(&o.dns, "dns", "", "address of a DNS port for the overlay's names, such as 127.0.0.1:5353; empty for none")
	fs.StringVar(&o.page, "page", "127.0.0.1:8080", "address of the status page and /proxy.pac; empty for none; not given and in use: a free port")
	fs.Var(&o.addrs, "addr", "local IP address to use; may be repeated; all if not given, but those that may be LSIs (198.18.0.0/15, 2001:20::/28)")
	fs.UintVar(&o.port, "port", 0, "UDP port of the node; 0 picks one")
	fs.StringVar(&o.carrier, "carrier", "", "TCP address, such as :443, at which members in networks that let no UDP out reach this node; empty for none")
	fs.Var(&o.reached, "reached", "how others reach this node, where it cannot know: `tls://host:port` (-carrier's), wss://host/path, udp://host:port; may be repeated")
	fs.Var(&o.local, "L", "`[udp:][bind:]port:host:port`: forward a local port to a member; may be repeated")
	fs.Var(&o.remote, "R", "`[udp:]port:host:port`: forward a port of this node in the overlay to a real address; may be repeated")
	fs.BoolVar(&o.noIPv4, "dns-no-ipv4", false, "tell programs that ask this node's DNS no IPv4 addresses of members: for hosts whose programs all speak IPv6, such as SIP phones without a proxy")
	fs.BoolVar(&o.noLAN, "no-lan", false, "do not announce this node on local networks, nor look for members there")
	fs.BoolVar(&o.verbose, "v", false, "tell of every pipe and every failed dial on standard error")
	fs.StringVar(&o.tun, "tun", "", "name of a TUN device to make, such as idloc0: the programs of this host reach members without a proxy; Linux, needs CAP_NET_ADMIN and CAP_NET_BIND_SERVICE")
	fs.StringVar(&o.lsis, "lsi-prefix", "", "IPv4 `prefix` that stands for members on this host, such as 198.19.0.0/16, where the host uses the default itself; a /16 of 198.18.0.0/15 if empty")
	fs.Var(&o.allow, "allow", "`tcp:port` or udp:port or udp:first-last that members may reach here, and no other; may be repeated; all if not given")
	fs.BoolVar(&o.outside, "outside", false, "let the proxies reach what this host reaches, too; whoever can connect to them can use that")
}

func inviteFlags(o *options, fs *flag.FlagSet) {
	fs.DurationVar(&o.expires, "expires", 24*time.Hour, "how long the token admits")
	fs.BoolVar(&o.relay, "relay", false, "the member may forward data for others")
	fs.BoolVar(&o.delegate, "delegate", false, "the member may invite")
	fs.Var(&o.tags, "tag", "`word`, such as web, that says what the member is for: gateway grants goes by it; may be repeated")
	fs.IntVar(&o.uses, "uses", 0, "how many members the token admits, at most 64; 0 is one, -1 is as many as come by it")
	fs.StringVar(&o.replaces, "replaces", "", "`name` of a member whose device was lost: it is put out, and the token is for its name")
	fs.BoolVar(&o.reuse, "reuse", false, "the token, which needs a label, may be used again and again: who came last has the name")
	fs.BoolVar(&o.qr, "qr", false, "draw the token as a QR code above it; whoever sees the code can use it")
}

func revokeFlags(o *options, fs *flag.FlagSet) {
	fs.BoolVar(&o.all, "all", false, "and all members that came by the same token")
	fs.BoolVar(&o.below, "below", false, "and all whom the delegate has let in through which it came")
}

func jsonFlag(o *options, fs *flag.FlagSet) { fs.BoolVar(&o.json, "json", false, "print JSON") }

// flagSet makes the flags of a command, which are read into o.
func (c *command) flagSet(o *options) *flag.FlagSet {
	fs := flag.NewFlagSet("gateway "+c.name, flag.ContinueOnError)
	fs.StringVar(&o.dir, "dir", defaultDir(), "folder of the node's key and state; one node a folder")
	if c.flags != nil {
		c.flags(o, fs)
	}
	return fs
}

// find finds a command by its name.
func find(name string) (command, bool) {
	for _, g := range groups() {
		for _, c := range g.commands {
			if c.name == name {
				return c, true
			}
		}
	}
	return command{}, false
}

// usage is what gateway -h prints.
func usage() string {
	var b strings.Builder
	b.WriteString("Usage: gateway <command> [flags] [arguments]\n\n")
	for _, g := range groups() {
		b.WriteString(g.title + "\n")
		for _, c := range g.commands {
			left := strings.TrimSpace(c.name + " " + c.args)
			for line := range strings.SplitSeq(c.help, "\n") {
				fmt.Fprintf(&b, "  %-19s %s\n", left, line)
				left = ""
			}
		}
		b.WriteString("\n")
	}
	b.WriteString(notes)
	return b.String()
}

// notes end the usage.
const notes = `'gateway <command> -h' prints the flags of a command. idloc-gateway.service,
beside the source, is a unit for systemd that keeps a gateway running.

Several gateways run on one machine, each with a -dir of its own. Where the usual
port of a proxy or of the page is in use, a gateway takes a free one and says so.

At first the founder alone is an authority. Where several have to agree (threshold),
promote, demote, threshold, unattended, recovery, recover, revoke, withdraw, grants
and invite -replaces make a proposal; it is in force when others have approved it.

With -tun, members' addresses are unreachable on this host while the gateway is
down after a crash, so that nobody else answers for them. A host that never runs
it again takes those routes away:
  ip route flush proto 198; ip -6 route flush proto 198
Between an orderly end and the next start there are none; a host that wants them
at all times adds its own, which the gateway leaves alone:
  ip route add unreachable 198.18.0.0/15 metric 9999
  ip -6 route add unreachable 2001:20::/28 metric 9999
`
