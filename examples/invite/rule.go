package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/idloc/idloc/idloc"
)

// rule answers the commands about who rules the overlay.
func rule(handle func(string, func(context.Context, request) (string, error)), node *idloc.Node) {
	handle("authorities", func(context.Context, request) (string, error) { return authorities(node), nil })
	handle("promote", func(ctx context.Context, q request) (string, error) {
		return done(q.Name+" is an authority", node.Promote(ctx, q.Name))
	})
	handle("demote", func(ctx context.Context, q request) (string, error) {
		var opts []idloc.DemoteOption
		if q.Void {
			opts = append(opts, idloc.DemoteVoid())
		}
		return done(q.Name+" is no authority any more", node.Demote(ctx, q.Name, opts...))
	})
	handle("threshold", func(ctx context.Context, q request) (string, error) {
		n, err := strconv.Atoi(q.Name)
		if err != nil {
			return "", fmt.Errorf("threshold: %q is no number: say how many authorities have to agree, such as 2", q.Name)
		}
		return done(fmt.Sprintf("%d of the authorities have to agree from now on", n), node.SetThreshold(ctx, n))
	})
	handle("unattended", func(ctx context.Context, q request) (string, error) {
		d, err := time.ParseDuration(q.Name)
		if err != nil {
			return "", fmt.Errorf("unattended: %q is no duration: say hours, such as 2160h for 90 days", q.Name)
		}
		return done(fmt.Sprintf("members go on for %v that hear of no authority", d), node.SetUnattended(ctx, d))
	})
	handle("recovery", func(ctx context.Context, _ request) (string, error) { return node.AddRecovery(ctx) })
	handle("recover", func(ctx context.Context, q request) (string, error) {
		return done(node.Name()+" is an authority", node.Recover(ctx, q.Name))
	})
	handle("proposals", func(context.Context, request) (string, error) {
		var lines []string
		for _, p := range node.Proposals() {
			lines = append(lines, fmt.Sprintf("%s\t%s\t%s\t%d of %d", p.ID, p.What, p.By, len(p.Approved), p.Needs))
		}
		return strings.Join(lines, "\n"), nil
	})
	handle("approve", func(ctx context.Context, q request) (string, error) {
		return done(q.Name+" is in force", approve(ctx, node, q))
	})
	handle("history", func(context.Context, request) (string, error) {
		var lines []string
		for _, h := range node.History() {
			b, err := json.Marshal(h)
			if err != nil {
				return "", err
			}
			lines = append(lines, string(b))
		}
		return strings.Join(lines, "\n"), nil
	})
}

// done is what a command prints that is in force: nothing while it only waits for others.
func done(text string, err error) (string, error) {
	if err != nil {
		return "", err
	}
	return text, nil
}

// authorities returns a line for each, and how many have to agree.
func authorities(node *idloc.Node) string {
	all, threshold := node.Authorities()
	var b strings.Builder
	for _, a := range all {
		fmt.Fprintf(&b, "%s\t%.16s", a.Name, a.Key)
		if a.Recovery {
			b.WriteString("\trecovery")
		}
		if a.Self {
			b.WriteString("\tthis node")
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "%d of %d have to agree", threshold, len(all))
	return b.String()
}

// approve waits for a proposal that members have not brought here yet.
func approve(ctx context.Context, node *idloc.Node, q request) error {
	ctx, cancel := context.WithTimeout(ctx, q.Wait)
	defer cancel()
	for {
		err := node.Approve(ctx, q.Name)
		if !errors.Is(err, idloc.ErrNoProposal) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}
