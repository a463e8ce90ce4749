package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/emiago/sipgo"

	"github.com/idloc/idloc/examples/sipcall/sipproxy"
	"github.com/idloc/idloc/idloc"
	"github.com/idloc/idloc/idloc/idloctest"
)

// wilmas is the first column of the second story; those of fred's phones follow. Earth is
// in it, and does nothing that is drawn.
const wilmas = 0

// runRecord plays the story of an address of record, and prints it to out.
func runRecord(ctx context.Context, o options, out io.Writer) error {
	return idloctest.Run(func(t testing.TB) error {
		r := &record{o: o, out: out, ladder: &ladder{}}
		return r.play(ctx, t)
	})
}

// record is one run.
type record struct {
	o     options
	out   io.Writer
	nodes [3]*idloctest.Node // by column
	*ladder

	wilma, fred, second *phone
}

func (r *record) play(ctx context.Context, t testing.TB) error {
	lab := idloctest.New(t)
	link := idloctest.Over(idloctest.Link{Delay: 10 * time.Millisecond})
	lab.Node("earth", link)
	for i, name := range []string{"venus", "mars", "pluto"} {
		tags := idloc.InviteOptions{Name: name, Tags: []string{[]string{"user-wilma", "user-fred", "user-fred"}[i]}}
		r.nodes[i] = lab.Node(name, link, idloctest.Invited(tags), idloctest.BehindNAT(idloctest.PortRestricted),
			// As on hosts of their own: 198.18.0.1 is this host, on each.
			idloctest.Config(func(c *idloc.Config) { c.LSIPrefix = netip.MustParsePrefix("198.18.0.0/16") }))
	}
	var proxies []*sipproxy.Proxy
	defer func() {
		for _, p := range proxies {
			p.Close()
		}
	}()
	for i, n := range r.nodes {
		p, err := sipproxy.Start(n.Node, sipproxy.Config{Sent: func(text string, to netip.AddrPort) { r.sent(i, text, to) }})
		if err != nil {
			return err
		}
		proxies = append(proxies, p)
	}
	for i, p := range []**phone{&r.wilma, &r.fred, &r.second} {
		user := []string{"wilma", "fred", "fred"}[i]
		var err error
		*p, err = newPhone(phoneConfig{node: r.nodes[i].Node, user: user, transport: "UDP", port: "5070",
			wrote: func(text string) { r.note(i, "%s: %s", user, text) }})
		if err != nil {
			return err
		}
		defer (*p).Close()
	}
	return r.chapters(ctx)
}

// sent draws what a proxy sends: an arrow to another host, or a note.
func (r *record) sent(column int, text string, to netip.AddrPort) {
	self, _ := r.nodes[column].LSIs()
	if to.Addr() == self {
		r.note(column, "proxy: %s", text)
		return
	}
	if who, err := r.nodes[column].WhoIsString(to.String()); err == nil {
		for other, n := range r.nodes {
			if n.ID() == who.ID {
				r.arrow(column, other, "%s", text)
			}
		}
	}
}

// chapters are what happens.
func (r *record) chapters(ctx context.Context) error {
	const aor = "sip:fred@example.com"
	var answer *sipgo.ErrDialogResponse
	for _, chapter := range []struct {
		title string
		first func() error
		rings *phone // nil: none
	}{
		{"fred registers at mars, and wilma dials " + aor, func() error { return r.fred.register(ctx, "") }, r.fred},
		{"fred goes over to pluto, and the next call follows", func() error {
			return errors.Join(r.second.register(ctx, ""), r.fred.register(ctx, ";expires=0"))
		}, r.second},
		{"he has two phones, of which the one at pluto comes first, and is busy", func() error {
			r.second.busy.Store(true)
			return errors.Join(r.second.register(ctx, ";q=0.9"), r.fred.register(ctx, ";q=0.5"))
		}, r.fred},
		{"he is nowhere", func() error {
			return errors.Join(r.second.register(ctx, ";expires=0"), r.fred.register(ctx, ";expires=0"))
		}, nil},
		{"wilma says that she is fred", func() error {
			if err := r.wilma.registerAs(ctx, "fred", ""); !errors.As(err, &answer) || answer.Res.StatusCode != 403 {
				return fmt.Errorf("she is not refused: %w", err)
			}
			return nil
		}, nil},
	} {
		fmt.Fprintf(r.out, "\n%s\n\n%s\n", chapter.title, heading("venus (wilma)", "mars (fred)", "pluto (fred)"))
		r.start()
		err := chapter.first()
		if err == nil && chapter.rings != nil {
			err = r.call(ctx, aor, chapter.rings)
		} else if _, e := r.wilma.dial(ctx, aor); err == nil && (!errors.As(e, &answer) || answer.Res.StatusCode != 404) {
			err = fmt.Errorf("nobody should be there: %w", e)
		}
		r.flush(r.out)
		if err != nil {
			return fmt.Errorf("%s: %w", chapter.title, err)
		}
	}
	return nil
}

// call has wilma call, one phone answer, both hear the other, and wilma hang up.
func (r *record) call(ctx context.Context, aor string, to *phone) error {
	out, in, err := connect(ctx, r.wilma, to, aor)
	if err != nil {
		return err
	}
	defer out.end()
	defer in.end()
	if err := both(out, in, func(c *call) error { return c.heard(ctx, 0, r.o.packets) }); err != nil {
		return err
	}
	r.note(wilmas, "both hear the other: RTP to %v and to %v", out.to, in.to)
	if err := out.hangUp(ctx); err != nil {
		return fmt.Errorf("hanging up: %w", err)
	}
	select {
	case <-in.over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
