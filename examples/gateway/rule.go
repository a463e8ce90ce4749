package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/idloc/idloc/idloc"
)

// ruleCommands ask a node that runs who rules the overlay, and change that.
func ruleCommands() []command {
	return []command{
		{name: "authorities", flags: jsonFlag,
			help: "list who rules the overlay, and how many of them have to agree",
			do: func(ctx context.Context, o options, c call) error {
				return o.client().authorities(ctx, c.out, o.json)
			}},
		{name: "promote", args: "<name>", least: 1, most: 1,
			help: "make a member an authority, which signs with its own key",
			do: func(ctx context.Context, o options, c call) error {
				return o.client().rule(ctx, c, false, c.arg+" is an authority")
			}},
		{name: "demote", args: "<name>", least: 1, most: 1,
			flags: func(o *options, fs *flag.FlagSet) {
				fs.BoolVar(&o.void, "void", false, "end at once what it has signed by itself: its key was stolen")
			},
			help: "remove an authority, by its name or the first 8 digits or more\nof its key; its node stays a member",
			do: func(ctx context.Context, o options, c call) error {
				return o.client().rule(ctx, c, o.void, c.arg+" is no authority any more")
			}},
		{name: "threshold", args: "<number>", least: 1, most: 1,
			help: "say how many authorities have to agree from now on",
			do: func(ctx context.Context, o options, c call) error {
				return o.client().rule(ctx, c, false, c.arg+" of the authorities have to agree from now on")
			}},
		{name: "unattended", args: "<time>", least: 1, most: 1,
			help: "say for how long members go on that hear of no authority,\nsuch as 2160h",
			do: func(ctx context.Context, o options, c call) error {
				return o.client().rule(ctx, c, false, "members go on for "+c.arg+" that hear of no authority")
			}},
		{name: "proposals", flags: jsonFlag,
			help: "list what waits for authorities to approve it",
			do: func(ctx context.Context, o options, c call) error {
				return o.client().proposals(ctx, c.out, o.json)
			}},
		{name: "approve", args: "<ID>", least: 1, most: 1,
			help: "sign a proposal; the beginning of its ID does",
			do: func(ctx context.Context, o options, c call) error {
				return o.client().rule(ctx, c, false, c.arg+" is in force")
			}},
		{name: "recovery",
			help: "print a line, for paper, that is worth one authority; it is\nshown once",
			do: func(ctx context.Context, o options, c call) error {
				return o.client().recovery(ctx, c)
			}},
		{name: "recover", args: "[line]", most: maxLine,
			help: "become an authority by such a line; without it, or with -, it\nis read from standard input, where no other user of the\nmachine sees it",
			do: func(ctx context.Context, o options, c call) error {
				c.arg = strings.Join(c.args, " ")
				if c.arg == "" || c.arg == "-" {
					b, err := io.ReadAll(io.LimitReader(c.in, 1<<12))
					if err != nil {
						return err
					}
					c.arg = strings.TrimSpace(string(b))
				}
				return o.client().rule(ctx, c, false, "this node is an authority")
			}},
		{name: "history", flags: jsonFlag,
			help: "list who did what to the overlay, as this node has seen it",
			do: func(ctx context.Context, o options, c call) error {
				return o.client().history(ctx, c.out, o.json)
			}},
	}
}

// maxLine bounds the words of a recovery line.
const maxLine = 64

// approveWait is how long approve waits for a proposal that members have not brought yet.
const approveWait = 5 * time.Second

// change is what a command asks, as JSON.
type change struct {
	Arg  string `json:"arg"`
	Void bool   `json:"void,omitempty"` // of demote
}

// ruled is what authorities answers.
type ruled struct {
	Authorities []idloc.Authority `json:"authorities"`
	Threshold   int               `json:"threshold"`
}

// serveRule answers the commands about who rules the overlay.
func (g *gateway) serveRule(mux *http.ServeMux) {
	do := func(cmd string, f func(context.Context, change) error) {
		mux.HandleFunc("POST /"+cmd, func(w http.ResponseWriter, r *http.Request) {
			var c change
			err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&c)
			if err == nil {
				err = f(r.Context(), c)
			}
			answer(w, nil, err)
		})
	}
	mux.HandleFunc("GET /authorities", func(w http.ResponseWriter, r *http.Request) {
		all, threshold := g.node.Authorities()
		answer(w, ruled{all, threshold}, nil)
	})
	mux.HandleFunc("GET /proposals", func(w http.ResponseWriter, r *http.Request) { answer(w, g.node.Proposals(), nil) })
	mux.HandleFunc("GET /history", func(w http.ResponseWriter, r *http.Request) { answer(w, g.node.History(), nil) })
	mux.HandleFunc("POST /recovery", func(w http.ResponseWriter, r *http.Request) {
		line, err := g.node.AddRecovery(r.Context())
		answer(w, line, err)
	})
	do("promote", func(ctx context.Context, c change) error { return g.node.Promote(ctx, c.Arg) })
	do("demote", func(ctx context.Context, c change) error {
		var opts []idloc.DemoteOption
		if c.Void {
			opts = append(opts, idloc.DemoteVoid())
		}
		return g.node.Demote(ctx, c.Arg, opts...)
	})
	do("threshold", func(ctx context.Context, c change) error {
		n, err := strconv.Atoi(c.Arg)
		if err != nil {
			return fmt.Errorf("%q is no number: say how many authorities have to agree, such as 2", c.Arg)
		}
		return g.node.SetThreshold(ctx, n)
	})
	do("unattended", func(ctx context.Context, c change) error {
		d, err := time.ParseDuration(c.Arg)
		if err != nil {
			return fmt.Errorf("%q is no duration: say hours, such as 2160h for 90 days", c.Arg)
		}
		return g.node.SetUnattended(ctx, d)
	})
	do("recover", func(ctx context.Context, c change) error { return g.node.Recover(ctx, c.Arg) })
	do("approve", func(ctx context.Context, c change) error {
		ctx, cancel := context.WithTimeout(ctx, approveWait)
		defer cancel()
		for {
			err := g.node.Approve(ctx, c.Arg)
			if !errors.Is(err, idloc.ErrNoProposal) {
				return err
			}
			select {
			case <-ctx.Done():
				return err
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
}

// rule asks for a change, and prints what is said of one that is in force.
func (c client) rule(ctx context.Context, how call, void bool, done string) error {
	b, err := json.Marshal(change{how.arg, void})
	if err != nil {
		return err
	}
	var none any
	if err := c.ask(ctx, "POST", "/"+how.cmd, bytes.NewReader(b), &none); err != nil {
		return err
	}
	_, err = fmt.Fprintln(how.out, done)
	return err
}

func (c client) recovery(ctx context.Context, how call) error {
	var line string
	pending := c.ask(ctx, "POST", "/recovery", nil, &line)
	if pending != nil && !errors.Is(pending, idloc.ErrPending) {
		return pending
	}
	if _, err := fmt.Fprintln(how.out, line); err != nil {
		return err
	}
	fmt.Fprintln(how.errOut, "gateway: this line is shown once and kept nowhere: print it, and keep it away from all machines")
	return pending
}

func (c client) authorities(ctx context.Context, out io.Writer, asJSON bool) error {
	var r ruled
	if err := c.ask(ctx, "GET", "/authorities", nil, &r); err != nil {
		return err
	}
	if asJSON {
		return printJSON(out, r)
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, a := range r.Authorities {
		fmt.Fprintf(w, "%s\t%.16s", a.Name, a.Key)
		if a.Recovery {
			fmt.Fprint(w, "\trecovery")
		}
		if a.Self {
			fmt.Fprint(w, "\tthis node")
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "%d of %d have to agree\n", r.Threshold, len(r.Authorities))
	return w.Flush()
}

func (c client) proposals(ctx context.Context, out io.Writer, asJSON bool) error {
	var all []idloc.Proposal
	if err := c.ask(ctx, "GET", "/proposals", nil, &all); err != nil {
		return err
	}
	if asJSON {
		return printJSON(out, all)
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, p := range all {
		fmt.Fprintf(w, "%s\t%s\tby %s\t%d of %d\n", p.ID, p.What, p.By, len(p.Approved), p.Needs)
	}
	return w.Flush()
}

func (c client) history(ctx context.Context, out io.Writer, asJSON bool) error {
	var all []idloc.Happening
	if err := c.ask(ctx, "GET", "/history", nil, &all); err != nil {
		return err
	}
	if asJSON {
		return printJSON(out, all)
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, h := range all {
		more := strings.TrimSpace(h.Whom + " " + strings.ReplaceAll(strings.TrimSpace(h.Text), "\n", "; "))
		fmt.Fprintf(w, "%s\t%s\t%s\tby %s\n", h.Time.Local().Format("2006-01-02 15:04:05"), h.What, more, strings.Join(h.By, ", "))
	}
	return w.Flush()
}
