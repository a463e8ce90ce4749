package nullflow

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idloc/idloc/internal/peerid"
	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/wire"
)

// scripted answers offers without a network, and counts them.
type scripted struct {
	mu   sync.Mutex // guards what follows
	kind wire.FlowKind
	err  error
	n    int
}

func (s *scripted) answers(kind wire.FlowKind, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kind, s.err = kind, err
}

func (s *scripted) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

func (s *scripted) Ask(_ context.Context, _ peerid.ID, l pipe.Local) (pipe.Remote, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	w := l.Flow
	w.Kind = s.kind
	return pipe.Remote{Encapsulation: wire.Null, Flow: w, Chain: []byte("chain"), Candidates: []wire.Candidate{{}}}, s.err
}

// still are UDPChecks without sockets; consents says whether the peer answers.
type still struct {
	consents *atomic.Bool
	receive  func([]byte)
	closed   atomic.Int32
}

func (s *still) Credentials() (string, string) { return "u", "p" }
func (s *still) Candidates() []wire.Candidate  { return nil }
func (s *still) Run(context.Context, bool, pipe.Remote) (local, to netip.AddrPort, err error) {
	return netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:2"), nil
}
func (s *still) Receive(f func([]byte)) { s.receive = f }
func (s *still) Send([]byte) error      { return nil }
func (s *still) Check(answered func()) func() {
	if s.consents.Load() {
		answered()
	}
	return func() {}
}
func (s *still) Retire() {}
func (s *still) Close()  { s.closed.Add(1) }

// Consent, in virtual time: as long as it comes the path stays; without it the
// flow gets another after consentLost, its datagrams count for consentFor only,
// and it ends after udpPatience without a path.
func TestConsent(t *testing.T) {
	for _, c := range []struct {
		name string
		kind wire.FlowKind
		err  error
	}{
		{"another path", wire.FlowResume, nil},
		{"no way", wire.FlowResume, errors.New("no way")},
		{"forgotten", wire.FlowUnknown, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var consents, ended atomic.Bool
				consents.Store(true)
				var delivered atomic.Int32
				var mu sync.Mutex // guards paths
				var paths []*still
				path := func(i int) *still {
					mu.Lock()
					defer mu.Unlock()
					return paths[i]
				}
				offers := &scripted{kind: wire.FlowOpen}
				fs := &Flows{flows: map[flowKey]*flow{}, cfg: Config{
					Offers: offers, Chain: func() []byte { return nil },
					Usable: func(cs []wire.Candidate) []wire.Candidate { return cs },
					Handler: Handler{Policy: wire.PolicyPlain, UDP: func(Flow, func([]byte) error) (func([]byte), func(), error) {
						return func([]byte) { delivered.Add(1) }, func() { ended.Store(true) }, nil
					}},
					UDP: func(context.Context) (UDPChecks, error) {
						mu.Lock()
						defer mu.Unlock()
						paths = append(paths, &still{consents: &consents})
						return paths[len(paths)-1], nil
					},
				}}
				fs.ctx, fs.cancel = context.WithCancel(t.Context())
				defer fs.Close()
				end, err := fs.DialUDP(t.Context(), Flow{Local: 1, Remote: 2})
				if err != nil {
					t.Fatal(err)
				}
				offers.answers(c.kind, c.err)
				time.Sleep(10 * time.Minute)
				if synctest.Wait(); offers.asked() != 1 {
					t.Fatalf("with consent: %d offers", offers.asked())
				}
				path(0).receive(nil)
				consents.Store(false)
				time.Sleep(consentLost - consentEvery)
				if synctest.Wait(); offers.asked() != 1 {
					t.Errorf("an offer within %v", consentLost-consentEvery)
				}
				time.Sleep(2 * consentEvery)
				if synctest.Wait(); offers.asked() == 1 {
					t.Errorf("no offer within %v", consentLost+consentEvery)
				}
				if c.name == "another path" {
					consents.Store(true)
					if path(0).closed.Load() == 0 || len(fs.Status()) != 1 {
						t.Errorf("the first path closed %d times, flows %+v", path(0).closed.Load(), fs.Status())
					}
					path(0).receive(nil) // over the old path
					path(1).receive(nil)
					if n := delivered.Load(); n != 2 {
						t.Errorf("%d datagrams delivered, not 2", n)
					}
					end()
				} else if c.name == "no way" {
					time.Sleep(consentFor - consentLost - consentEvery)
					if synctest.Wait(); ended.Load() {
						t.Errorf("ended before %v", udpPatience)
					}
					path(0).receive(nil)
					if n := delivered.Load(); n != 1 {
						t.Errorf("%d datagrams delivered, not 1: there is no consent", n)
					}
					time.Sleep(udpPatience)
				}
				if synctest.Wait(); !ended.Load() || len(fs.Status()) != 0 {
					t.Errorf("ended %v, flows %+v", ended.Load(), fs.Status())
				}
				mu.Lock()
				defer mu.Unlock()
				for i, p := range paths {
					if p.closed.Load() == 0 {
						t.Errorf("path %d is not closed", i)
					}
				}
			})
		})
	}
}
