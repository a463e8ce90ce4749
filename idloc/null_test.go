package idloc_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/idloc/idloc/idloc"
)

// nullPair is venus and mars, which allow null encapsulation.
func nullPair(t testing.TB, venusPolicy, marsPolicy idloc.NullPolicy) (venus, mars *idloc.Node) {
	earth := found(t, idloc.Config{})
	return join(t, earth, "venus", idloc.Config{Null: venusPolicy}), join(t, earth, "mars", idloc.Config{Null: marsPolicy})
}

// dialNull dials with null encapsulation.
func dialNull(t testing.TB, n *idloc.Node, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	d := idloc.Dialer{Nodes: []*idloc.Node{n}, Encapsulation: idloc.Null}
	return d.Dial(ctx, network, address)
}

// Flows with null encapsulation: same listener, LSIs, WhoIs; no pipe.
func TestNullFlows(t *testing.T) {
	t.Parallel()
	for _, policy := range []idloc.NullPolicy{idloc.NullPlain, idloc.NullTLS} {
		t.Run(fmt.Sprint(policy), func(t *testing.T) {
			t.Parallel()
			venus, mars := nullPair(t, policy, policy)
			port := echo(t, mars)
			for _, network := range []string{"tcp4", "tcp6", "udp4", "udp6"} {
				c, err := dialNull(t, venus, network, "mars.example.com:"+port)
				if policy == idloc.NullTLS && strings.HasPrefix(network, "udp") {
					if !errors.Is(err, idloc.ErrRefusedByPolicy) {
						t.Errorf("%s under NullTLS: %v", network, err)
					}
					continue
				}
				if err != nil {
					t.Errorf("%s: %v", network, err)
					continue
				}
				if err := roundTrip(c, []byte("bare, on "+network)); err != nil {
					t.Errorf("%s: %v", network, err)
				}
				if p, err := venus.WhoIs(c.RemoteAddr()); err != nil || p.ID != mars.ID() {
					t.Errorf("%s: WhoIs(%v) = %v, %v", network, c.RemoteAddr(), p, err)
				}
				flows := flowsTo(venus, mars.ID())
				if len(flows) != 1 || flows[0].Encapsulation != "null" || flows[0].TLS != (policy == idloc.NullTLS) ||
					!strings.HasPrefix(network, flows[0].Network) || !flows[0].RealRemote.Addr().IsLoopback() ||
					flows[0].Remote.String() != c.RemoteAddr().String() || flows[0].Local.String() != c.LocalAddr().String() {
					t.Errorf("%s: status %+v of a conn %v-%v", network, flows, c.LocalAddr(), c.RemoteAddr())
				}
				if err := c.Close(); err != nil {
					t.Errorf("%s: Close: %v", network, err)
				}
				eventually(t, "the flow has ended", func() bool { return len(flowsTo(venus, mars.ID())) == 0 })
			}
			for _, p := range venus.Status().Peers {
				if p.ID == mars.ID() && p.Connected {
					t.Error("there is a pipe")
				}
			}
		})
	}
}

func flowsTo(n *idloc.Node, id idloc.PeerID) []idloc.FlowStatus {
	for _, p := range n.Status().Peers {
		if p.ID == id {
			return p.Flows
		}
	}
	return nil
}

// eventually waits for what a node does in the background.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	within(t, what, 10*time.Second, ok)
}

// Whoever forbids it, and wherever a flow ends otherwise, the error says so,
// and nothing falls back to the pipe.
func TestNullRefused(t *testing.T) {
	t.Parallel()
	earth := found(t, idloc.Config{})
	refuse := join(t, earth, "mercury", idloc.Config{})
	secure := join(t, earth, "venus", idloc.Config{Null: idloc.NullTLS})
	plain := join(t, earth, "mars", idloc.Config{Null: idloc.NullPlain, Admit: func(f idloc.Flow) bool {
		return f.Encapsulation != idloc.Null || f.Remote.Port() == 1
	}})
	for _, n := range []*idloc.Node{plain, secure} {
		l, err := n.Listen("tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	for _, c := range []struct {
		desc        string
		from        *idloc.Node
		network, to string
		want        error
		stage       string
	}{
		{"own policy", refuse, "tcp", "venus.example.com:80", idloc.ErrRefusedByPolicy, idloc.StageOffer},
		{"the other's policy", secure, "tcp", "mercury.example.com:80", idloc.ErrRefusedByPolicy, idloc.StageOffer},
		{"UDP, the other's policy is TLS", plain, "udp", "venus.example.com:80", idloc.ErrRefusedByPolicy, idloc.StageOffer},
		{"UDP, own policy is TLS", secure, "udp", "mars.example.com:80", idloc.ErrRefusedByPolicy, idloc.StageOffer},
		{"nobody listens", plain, "tcp", "venus.example.com:81", syscall.ECONNREFUSED, ""},
		{"not admitted", secure, "tcp", "mars.example.com:80", syscall.ECONNREFUSED, ""},
		{"no such name", plain, "tcp", "pluto.example.com:80", nil, ""},
	} {
		conn, err := dialNull(t, c.from, c.network, c.to)
		if err == nil {
			conn.Close()
			t.Errorf("%s: dialled", c.desc)
			continue
		}
		var op *net.OpError
		if !errors.As(err, &op) || op.Op != "dial" || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.desc, err)
		}
		var s *idloc.StageError
		if c.stage != "" && (!errors.As(err, &s) || s.Stage != c.stage) {
			t.Errorf("%s: no stage in %v", c.desc, err)
		}
	}
}

// Null TCP is what golang.org/x/net/nettest wants of a net.Conn. As TestNettest, it runs alone.
func TestNullNettest(t *testing.T) {
	venus, mars := nullPair(t, idloc.NullPlain, idloc.NullPlain)
	l, err := mars.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		if c1, err = dialNull(t, venus, "tcp", "mars.example.com:"+port); err != nil {
			return nil, nil, nil, err
		}
		if c2, err = l.Accept(); err != nil {
			c1.Close()
			return nil, nil, nil, err
		}
		return c1, c2, func() { c1.Close(); c2.Close() }, nil
	})
}
