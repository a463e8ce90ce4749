package idloctest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
	. "github.com/idloc/idloc/idloc/idloctest"
	"github.com/idloc/idloc/netstack"
)

// grantsReach waits until nodes have the grants in force.
func grantsReach(t *testing.T, text string, nodes ...*Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for _, n := range nodes {
		for n.Grants() != text {
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Fatalf("%s has the grants %q", n.Name(), n.Grants())
			}
		}
	}
}

// held is a conn that stays open, by both ends.
type held struct{ out, in net.Conn }

func hold(t *testing.T, from, to *Node, l net.Listener) held {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	out, err := from.Dial(ctx, "tcp", net.JoinHostPort(to.Name(), port))
	if err != nil {
		t.Fatal(err)
	}
	in := <-accepted
	if in == nil {
		t.FailNow()
	}
	t.Cleanup(func() { out.Close(); in.Close() })
	for _, c := range []net.Conn{out, in} {
		c.SetDeadline(time.Now().Add(patience))
	}
	return held{out, in}
}

// works says why a byte does not come through.
func (h held) works() error {
	if _, err := h.out.Write([]byte("x")); err != nil {
		return err
	}
	if _, err := io.ReadFull(h.in, make([]byte, 1)); err != nil {
		return err
	}
	return nil
}

// ended says whether it was ended as the grants demand.
func (h held) ended() error {
	if _, err := h.in.Read(make([]byte, 1)); !errors.Is(err, netstack.ErrNotAdmitted) || !strings.HasSuffix(err.Error(), ": the peer may not have this connection open any more") {
		return fmt.Errorf("at the end that has accepted it: %w", err)
	}
	if _, err := h.out.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("at the end that has opened it: %w", err)
	}
	return nil
}

// Grants say who may open what at whom, everywhere, for what is open as well.
func TestGrants(t *testing.T) {
	t.Parallel()
	lab := New(t, Seed(19))
	earth := lab.Node("earth")
	dir := t.TempDir()
	venus := lab.Node("venus", Invited(idloc.InviteOptions{Name: "venus", Tags: []string{"web", "ci"}}))
	mars := lab.Node("mars", Invited(idloc.InviteOptions{Name: "mars", Tags: []string{"db"}}), Config(func(c *idloc.Config) { c.Dir = dir }))
	pluto := lab.Node("pluto")
	echo(t, mars)
	l, err := mars.Listen("tcp", ":5432")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	mine, other := hold(t, venus, mars, l), hold(t, pluto, mars, l)
	if who, err := mars.WhoIs(mine.in.RemoteAddr()); err != nil || !slices.Equal(who.Tags, []string{"ci", "web"}) {
		t.Errorf("venus is %+v, %v", who, err)
	}

	const text = `
# the web asks the database
allow tag:web to open tcp 5432 at tag:db
expect tag:web may open tcp 5432 at tag:db
expect pluto may not open tcp 5432 at tag:db
`
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := earth.SetGrants(ctx, text); err != nil {
		t.Fatal(err)
	}
	grantsReach(t, text, earth, venus, mars, pluto)
	if err := other.ended(); err != nil {
		t.Errorf("pluto's conn: %v", err)
	}
	if err := mine.works(); err != nil {
		t.Errorf("venus' conn: %v", err)
	}
	_, err = pluto.Dial(ctx, "tcp", "mars:5432")
	if !errors.Is(err, syscall.ECONNREFUSED) || !errors.Is(err, idloc.ErrRefusedByPolicy) || !strings.Contains(fmt.Sprint(err), "pluto may not open tcp 5432 at mars (tag:db): no rule allows it") {
		t.Errorf("pluto dials: %v", err)
	}
	if err := call(ctx, venus, mars, []byte("x")); !errors.Is(err, idloc.ErrRefusedByPolicy) {
		t.Errorf("venus dials another port: %v", err)
	}
	hold(t, venus, mars, l)
	for _, c := range []struct {
		who, network string
		port         uint16
		whom         string
		may          bool
	}{
		{"venus", "tcp", 5432, "mars", true},
		{"venus.example.com", "udp", 5432, "mars", false},
		{"pluto", "tcp", 5432, "mars", false},
		{"tag:web", "tcp", 5432, "tag:db", true},
		{"tag:db", "tcp", 5432, "tag:web", false},
	} {
		d, err := pluto.MayOpen(ctx, c.who, c.network, c.port, c.whom)
		if err != nil || d.Allowed != c.may || !strings.Contains(d.Why, c.network) {
			t.Errorf("%+v: %+v, %v", c, d, err)
		}
	}

	// What cannot be meant changes nothing.
	for name, c := range map[string]struct {
		by   *Node
		text string
		want error
	}{
		"not the founder's":  {venus, "", idloc.ErrRefusedByPolicy},
		"an expectation":     {earth, "allow venus to open tcp at mars\nexpect pluto may open tcp 22 at mars", idloc.ErrExpectation},
		"not to be read":     {earth, "let them all in", nil},
		"a rule that is cut": {earth, text + "allow venus to open", nil},
	} {
		err := c.by.SetGrants(ctx, c.text)
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if earth.Grants() != text || venus.Grants() != text {
			t.Fatalf("%s: something has changed", name)
		}
	}

	// Tags change without a new certificate.
	const tagged = "allow tag:web to open tcp 5432 at tag:db\ntag pluto as web, x\ntag venus as nothing\n"
	if err := earth.SetGrants(ctx, tagged); err != nil {
		t.Fatal(err)
	}
	grantsReach(t, tagged, earth, venus, mars, pluto)
	if err := mine.ended(); err != nil {
		t.Errorf("venus' conn, when it is no web server any more: %v", err)
	}
	h := hold(t, pluto, mars, l)
	if who, err := mars.WhoIs(h.in.RemoteAddr()); err != nil || !slices.Equal(who.Tags, []string{"web", "x"}) {
		t.Errorf("pluto is %+v, %v", who, err)
	}
	if err := earth.SetGrants(ctx, text); err != nil {
		t.Fatal(err)
	}
	grantsReach(t, text, earth, venus, mars, pluto)

	// They are there after a restart, before anybody is met.
	mars.Restart()
	if mars.Grants() != text {
		t.Errorf("after a restart: %q", mars.Grants())
	}
	echo(t, mars)
	if err := call(ctx, pluto, mars, []byte("x")); !errors.Is(err, idloc.ErrRefusedByPolicy) {
		t.Errorf("after a restart pluto dials: %v", err)
	}
	if err := earth.SetGrants(ctx, ""); err != nil {
		t.Fatal(err)
	}
	grantsReach(t, "", earth, venus, mars, pluto)
	if err := call(ctx, pluto, mars, []byte("x")); err != nil {
		t.Errorf("without grants: %v", err)
	}
}

// Who comes later has them before its first flow, and what is for new flows only ends
// none that is open, however often grants change after that.
func TestGrantsForNewFlows(t *testing.T) {
	t.Parallel()
	lab := New(t, Seed(20))
	earth := lab.Node("earth")
	const one = "allow venus to open tcp 1-10000 at mars, new only"
	if err := earth.SetGrants(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	venus, mars := lab.Node("venus"), lab.Node("mars")
	grantsReach(t, one, venus, mars)
	l, err := mars.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	h := hold(t, venus, mars, l)
	for _, text := range []string{"allow earth to open tcp at venus", "allow mars to open tcp at venus", one, "allow earth to open udp at venus"} {
		if err := earth.SetGrants(t.Context(), text); err != nil {
			t.Fatal(err)
		}
		grantsReach(t, text, venus, mars)
		if err := h.works(); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if text == one {
			continue
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if c, err := venus.Dial(ctx, "tcp", "mars:80"); !errors.Is(err, idloc.ErrRefusedByPolicy) {
			t.Errorf("%q: %v, %v", text, c, err)
		}
		cancel()
	}
}
