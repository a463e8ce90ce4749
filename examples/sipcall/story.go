package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/idloc/idloc/idloc"
	"github.com/idloc/idloc/idloc/idloctest"
)

// around says which packets count as those of the move.
const (
	beforeMove = 25 // half a second
	afterMove  = 50 // a second
)

// run plays the story and prints it to out.
func run(ctx context.Context, o options, out io.Writer) (*report, error) {
	var r *report
	err := idloctest.Run(func(t testing.TB) (err error) {
		s := &story{o: o, out: out, ladder: &ladder{}}
		r, err = s.play(ctx, t)
		return err
	})
	return r, err
}

// story is one run.
type story struct {
	o     options
	out   io.Writer
	nodes [3]*idloctest.Node // by column
	*ladder

	wilma, fred *phone
}

func (s *story) play(ctx context.Context, t testing.TB) (*report, error) {
	lab := idloctest.New(t)
	link := idloctest.Over(idloctest.Link{Delay: 10 * time.Millisecond})
	home := func() idloctest.NodeOption { return idloctest.BehindNAT(idloctest.PortRestricted) }
	s.nodes[earth] = lab.Node("earth", link)
	s.nodes[venus] = lab.Node("venus", link, home())
	s.nodes[mars] = lab.Node("mars", link, home())

	var watching sync.WaitGroup
	defer watching.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for column, node := range s.nodes {
		events := node.Watch(ctx)
		watching.Go(func() {
			for e := range events {
				s.event(column, e)
			}
		})
	}
	transport := strings.ToUpper(s.o.transport)
	conf, err := certificate("venus.example.com", "mars.example.com")
	if err != nil {
		return nil, err
	}
	s.wilma, err = newPhone(phoneConfig{node: s.nodes[venus].Node, user: "wilma", transport: transport, tls: conf, wrote: func(text string) { s.arrow(venus, mars, "%s", text) }})
	if err != nil {
		return nil, err
	}
	defer s.wilma.Close()
	s.fred, err = newPhone(phoneConfig{node: s.nodes[mars].Node, user: "fred", transport: transport, tls: conf, wrote: func(text string) { s.arrow(mars, venus, "%s", text) }})
	if err != nil {
		return nil, err
	}
	defer s.fred.Close()

	r, err := s.call(ctx)
	if err != nil {
		return nil, err
	}
	return r, s.callBack(ctx)
}

// call is wilma's call to fred, with the move in it.
func (s *story) call(ctx context.Context) (*report, error) {
	address := s.fred.scheme() + ":fred@mars.example.com"
	fmt.Fprintf(s.out, "wilma dials %s\n\n%s\n", address, heading("venus (wilma)", "earth", "mars (fred)"))
	s.start()
	out, in, err := connect(ctx, s.wilma, s.fred, address)
	if err != nil {
		s.flush(s.out)
		return nil, err
	}
	defer out.end()
	defer in.end()
	err = both(out, in, func(c *call) error { return c.heard(ctx, 0, s.o.packets) })
	s.sound(out, in, 0, 0, "RTP")
	s.flush(s.out)
	if err != nil {
		return nil, err
	}

	// The first numbers that each sends from its new place on.
	fromVenus, fromMars := out.next(), in.next()
	old := s.nodes[mars].Addrs()
	s.nodes[mars].Move()
	s.note(mars, "moves: %v → %v", old, s.nodes[mars].Addrs())
	err = errors.Join(out.heard(ctx, fromMars, max(s.o.packets, afterMove)), in.heard(ctx, fromVenus, max(s.o.packets, afterMove)))
	s.sound(out, in, fromVenus, fromMars, "RTP goes on")
	if err == nil {
		err = s.end(ctx, out, in)
	}
	s.flush(s.out)
	if err != nil {
		return nil, err
	}
	r := &report{
		Whole: map[string]loss{toMars: in.loss(0, in.reach()), toVenus: out.loss(0, out.reach())},
		Move: map[string]loss{
			toMars:  in.loss(max(0, fromVenus-beforeMove), fromVenus+afterMove),
			toVenus: out.loss(max(0, fromMars-beforeMove), fromMars+afterMove),
		},
	}
	r.print(s.out)
	return r, nil
}

// callBack is fred's call to wilma, over the pipe that is there.
func (s *story) callBack(ctx context.Context) error {
	address := s.wilma.scheme() + ":wilma@venus.example.com"
	fmt.Fprintf(s.out, "\nfred calls back: %s\n\n%s\n", address, heading("venus (wilma)", "earth", "mars (fred)"))
	s.start()
	out, in, err := connect(ctx, s.fred, s.wilma, address)
	if err == nil {
		defer out.end()
		defer in.end()
		err = both(out, in, func(c *call) error { return c.heard(ctx, 0, 1) })
		s.sound(in, out, 0, 0, "RTP")
	}
	if err == nil {
		err = s.end(ctx, out, in)
	}
	s.flush(s.out)
	return err
}

// connect returns both ends of a call.
func connect(ctx context.Context, from, to *phone, address string) (out, in *call, err error) {
	if out, err = from.dial(ctx, address); err != nil {
		return nil, nil, err
	}
	select {
	case in = <-to.calls:
		return out, in, nil
	case <-ctx.Done():
		out.end()
		return nil, nil, ctx.Err()
	}
}

func both(a, b *call, f func(*call) error) error { return errors.Join(f(a), f(b)) }

// end hangs up at the one who called and waits until the other knows.
func (s *story) end(ctx context.Context, out, in *call) error {
	if err := out.hangUp(ctx); err != nil {
		return fmt.Errorf("hanging up: %w", err)
	}
	select {
	case <-in.over:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the other side did not hear of the end: %w", ctx.Err())
	}
}

// sound notes when the first packet came each way, from a number on.
func (s *story) sound(atVenus, atMars *call, fromVenus, fromMars int, what string) {
	if at := atMars.first(fromVenus); !at.IsZero() {
		s.add(rung{at: at, from: venus, to: mars, text: what})
	}
	if at := atVenus.first(fromMars); !at.IsZero() {
		s.add(rung{at: at, from: mars, to: venus, text: what})
	}
}

// event is what a node tells, as a rung. What the call does not need is left
// out.
func (s *story) event(column int, e idloc.Event) {
	r := rung{at: e.Time, from: column, to: column}
	switch {
	case e.Kind == idloc.EventNameResolved && (s.column(e.Via) == column || e.Duration < time.Millisecond):
		return // it was known
	case e.Kind == idloc.EventNameResolved && column != earth:
		s.add(rung{at: e.Time.Add(-e.Duration), from: column, to: s.column(e.Via), text: e.Name + "?"})
		r.from, r.text = s.column(e.Via), "its record"
	case e.Kind == idloc.EventLSIAssigned && column == venus:
		r.text = fmt.Sprintf("LSI %v stands for mars", e.LSI)
	case e.Kind == idloc.EventMiss && column == venus:
		r.text = "first packet held: no mapping"
	case e.Kind == idloc.EventOfferSent && column != earth:
		r.to, r.text = earth, "offer"
		if e.Via.IsZero() {
			r.to, r.text = venus+mars-column, "offer, through the pipe"
		}
	case e.Kind == idloc.EventOfferForwarded && column == earth:
		r.to, r.text = s.column(e.Peer), "offer"
	case e.Kind == idloc.EventAnswerReceived && column != earth:
		r.from, r.text = venus+mars-column, "answer"
		if !e.Via.IsZero() {
			r.text = "answer, through earth"
		}
	case e.Kind == idloc.EventPairChosen && column != earth:
		r.from, r.to, r.both, r.text = venus, mars, true, "connectivity checks"
	case e.Kind == idloc.EventPipeUp && column == venus:
		r.text = fmt.Sprintf("pipe: %v ↔ %v", e.Local, e.Remote)
	case e.Kind == idloc.EventPacketsReleased && column == venus:
		r.to, r.text = mars, "first packet"
	case e.Kind == idloc.EventDialed && column != earth && e.Err == "":
		r.text = "TCP is connected"
	case e.Kind == idloc.EventPipeMoved && column != earth:
		r.text = fmt.Sprintf("pipe: %v ↔ %v", e.Local, e.Remote)
	default:
		return
	}
	s.add(r)
}

// column is that of a peer.
func (s *story) column(id idloc.PeerID) int {
	for i, n := range s.nodes {
		if n.ID() == id {
			return i
		}
	}
	return earth
}

// certificate is one for hosts, that only its owner trusts.
func certificate(hosts ...string) (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: hosts, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, RootCAs: pool}, nil
}
