package mesh

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/idloc/idloc/internal/account"
	"github.com/idloc/idloc/internal/leaktest"
	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/internal/yardstick"
	"github.com/idloc/idloc/overlay/hearsay"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/nat"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

const testPrefix protocol.ID = "/idloc/test"

// await waits until ok; a busy machine has more time.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	const within = 30 * time.Second
	if !yardstick.Await(within, ok) {
		t.Fatalf("not within %v: %s", within, what)
	}
}

// fleet is an overlay whose members have connections and nothing else.
type fleet struct {
	t    testing.TB
	root *membership.Root

	mu     sync.Mutex
	serial uint64
	out    map[peerid.ID]bool // no members any more
}

func newFleet(t testing.TB) *fleet {
	t.Helper()
	root, err := membership.NewRoot("example.com")
	if err != nil {
		t.Fatal(err)
	}
	return &fleet{t: t, root: root, out: map[peerid.ID]bool{}}
}

// ship is a member of a fleet, or somebody who would like to be one.
type ship struct {
	*Mesh
	t    testing.TB
	id   peerid.ID
	key  ed25519.PrivateKey
	port *socket.Port

	fetches func(context.Context) // is called while it looks for a new chain for somebody; nil: nothing. Set before Start

	mu      sync.Mutex // guards the rest
	logged  bytes.Buffer
	hello   Hello
	entered []peer.ID
	heard   []Hello
	left    map[peer.ID]bool // the value: trimmed
	clocks  []uint64
	pipes   map[peerid.ID][]netip.AddrPort
	records map[peerid.ID]string
	alone   string
	pulses  int
	serving bool
	account account.Account
	refuse  bool // requests that cost something
	lapsed  error
	again   []byte                    // what somebody is answered whose chain has ended
	brought int                       // how often it was asked for that
	takes   func(answer []byte) error // what it does with one
}

func (s *ship) readmit(why error) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.brought++
	if len(s.again) == 0 || !errors.Is(why, membership.ErrExpired) {
		return nil, why
	}
	return s.again, nil
}

func (s *ship) readmitted(answer []byte) error {
	s.mu.Lock()
	takes := s.takes
	s.mu.Unlock()
	if takes == nil {
		return errors.New("it has asked for none")
	}
	return takes(answer)
}

// A ship's pipes are what the test says.

func (s *ship) Peers() (out []peerid.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.pipes {
		out = append(out, id)
	}
	return out
}

func (s *ship) Remotes(id peerid.ID) []netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pipes[id]
}

func (s *ship) Source(netip.AddrPort) netip.Addr { return netip.Addr{} }

// quiet returns a ship that has not begun to greet.
func (f *fleet) quiet() *ship {
	f.t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.quietWith(key)
}

// Write is what a ship's log does.
func (s *ship) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logged.Write(b)
}

// warned says whether a text is in the log.
func (s *ship) warned(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(s.logged.String(), text)
}

// quietWith is quiet with a key.
func (f *fleet) quietWith(key ed25519.PrivateKey) *ship {
	f.t.Helper()
	var err error
	s := &ship{key: key, t: f.t, left: map[peer.ID]bool{}, pipes: map[peerid.ID][]netip.AddrPort{}, records: map[peerid.ID]string{}}
	if s.id, err = peerid.FromPublicKey(key.Public().(ed25519.PublicKey)); err != nil {
		f.t.Fatal(err)
	}
	port, err := socket.Listen(socket.Config{
		Addrs:  []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		OnPipe: func(*socket.Conn, netip.AddrPort, []byte, int) {},
		OnSTUN: func(*socket.Conn, netip.AddrPort, []byte) {},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	s.port = port
	gate := hearsay.New(func(netip.AddrPort) bool { return true }, time.Now)
	known, err := LoadKnown(nil, s.id, gate)
	if err != nil {
		f.t.Fatal(err)
	}
	s.Mesh, err = New(Config{
		Key: key, Port: port, Prefix: testPrefix, Log: slog.New(slog.NewTextHandler(s, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Hearsay: gate, Known: known, Pipes: s,
		Verify: func(chain []byte, from peerid.ID) (*membership.Member, error) {
			m, err := membership.VerifyChain(chain, f.root.Overlay(), time.Now(), nil)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", membership.ErrNotMember, err)
			}
			if m.Peer != from {
				return nil, fmt.Errorf("%w: the chain is another peer's", membership.ErrNotMember)
			}
			return m, nil
		},
		Readmit: func(ctx context.Context, _ []byte, _ peerid.ID, why error) ([]byte, error) {
			if s.fetches != nil {
				s.fetches(ctx)
			}
			return s.readmit(why)
		},
		Readmitted: func(answer []byte) error { return s.readmitted(answer) },
		Lapsed: func() error {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.lapsed
		},
		Current: func(shown *membership.Member) (*membership.Member, bool) {
			f.mu.Lock()
			defer f.mu.Unlock()
			return shown, !f.out[shown.Peer]
		},
		Hello: func() Hello {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.hello
		},
		YoungFor: 10 * time.Second,
		Entered: func(n Neighbor) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.entered = append(s.entered, n.Peer)
		},
		Heard: func(_ Neighbor, h Hello) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.heard = append(s.heard, h)
		},
		Left: func(p peer.ID, _ *membership.Member, trimmed bool) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.left[p] = trimmed
		},
		Clock: func(_ peerid.ID, seconds uint64) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.clocks = append(s.clocks, seconds)
		},
		Answers:    func(netip.AddrPort) {},
		Probed:     func(nat.Probe) {},
		ClockWrong: func() bool { return false },
		Alone: func(why string) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.alone = why
		},
		Serving: func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.serving
		},
		EnoughServers: 3,
		Account: func() account.Account {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.account
		},
		Record: func(id peerid.ID) []byte {
			s.mu.Lock()
			defer s.mu.Unlock()
			return []byte(s.records[id])
		},
		Show: func(id peerid.ID, record []byte) bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			news := len(record) > 0 && s.records[id] != string(record)
			if news {
				s.records[id] = string(record)
			}
			return news
		},
		Allow: func(peerid.ID) bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return !s.refuse
		},
		Pulse: func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.pulses++
		},
		Decide: func() bool { return false },
	})
	if err != nil {
		_ = port.Close()
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		s.Stop()
		_ = s.Close()
		_ = port.Close()
	})
	return s
}

// chain makes a member's chain for an ID.
func (f *fleet) chain(id peerid.ID) []byte {
	f.t.Helper()
	f.mu.Lock()
	f.serial++
	serial := f.serial
	f.mu.Unlock()
	chain, err := f.root.Issuer().Issue(id, membership.MemberOptions{Label: fmt.Sprint("ship", serial), Serial: serial}, time.Now())
	if err != nil {
		f.t.Fatal(err)
	}
	return chain
}

// launch returns a member that greets.
func (f *fleet) launch() *ship {
	f.t.Helper()
	s := f.quiet()
	s.say(Hello{Chain: f.chain(s.id), Seconds: 1700000000})
	s.Start()
	return s
}

func (s *ship) say(h Hello) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hello = h
}

// serve has it say from now on that it keeps a part of the database.
func (s *ship) serve() {
	s.mu.Lock()
	s.hello.Server = true
	s.mu.Unlock()
	s.Greet()
}

func (s *ship) peer() peer.ID { return s.Host().ID() }

func (s *ship) info() peer.AddrInfo { return peer.AddrInfo{ID: s.peer(), Addrs: s.Host().Addrs()} }

// meet connects to another member, and waits until that knows it too.
func (s *ship) meet(other *ship) {
	s.t.Helper()
	if _, err := s.Connect(s.t.Context(), other.info()); err != nil {
		s.t.Fatal(err)
	}
	await(s.t, "both know of the connection", func() bool { _, ok := other.Member(s.peer()); return ok })
}

// stream opens a stream as a host without a mesh does.
func stream(ctx context.Context, h host.Host, p peer.ID, pid protocol.ID) (network.Stream, error) {
	return openStream(ctx, h, p, pid)
}
