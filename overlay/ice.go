package overlay

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pion/ice/v3"
	"github.com/pion/logging"
	"github.com/pion/transport/v3"

	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/internal/wire"
)

const (
	// iceGrace is how long an agent goes on answering after it has a pair,
	// so that a peer whose last response was lost gets another.
	iceGrace = time.Second
	// Acceptance waits: how long a worse kind of pair waits for a better
	// one. pion's own (0.5, 1, 2 s) are longer than the whole of our
	// establishment; a better path can be taken later by the pipe.
	srflxWait = 20 * time.Millisecond
	prflxWait = 50 * time.Millisecond
	relayWait = 200 * time.Millisecond
	// iceTick is how often an agent looks at its pairs; it grows with their
	// number because pion touches each at every tick.
	iceTick    = 5 * time.Millisecond
	icePerPair = time.Millisecond
)

var errNoPair = errors.New("no candidate pair answered")

// iceAgent is one connectivity check (RFC 8445) on the shared port: made
// before the offer or the answer, run once, closed after a grace. One
// goroutine uses it; close may be called from any, repeatedly.
type iceAgent struct {
	session    *iceSession
	agent      *ice.Agent
	conns      []*socket.Conn
	ufrag, pwd string
	candidates []wire.Candidate
	turn       *turnSession // nil: no TURN servers here, by policy; or taken by who closes it

	closing sync.Once
	closed  chan struct{}
}

// newICE registers credentials and collects this side's candidates. Nothing
// is sent.
func newICE(d *stunDemux, conns []*socket.Conn, mapped func(*socket.Conn) []netip.AddrPort, lent []*turnLink, nw transport.Net, pairs int) (*iceAgent, error) {
	a := &iceAgent{conns: conns, ufrag: randomText(12), pwd: randomText(24), closed: make(chan struct{})}
	a.candidates = localCandidates(conns, mapped, lent)
	if len(a.candidates) == 0 {
		return nil, errors.New("no local address")
	}
	a.session = d.newSession(a.ufrag, a.pwd, conns)
	zero := time.Duration(0)
	srflx, prflx, relay := srflxWait, prflxWait, relayWait
	tick := iceTick + time.Duration(pairs*len(conns))*icePerPair
	forever := uint16(0xFFFF) // permit counts the checks
	failed := time.Minute
	agent, err := ice.NewAgent(&ice.AgentConfig{
		LocalUfrag: a.ufrag, LocalPwd: a.pwd,
		MulticastDNSMode:       ice.MulticastDNSModeDisabled,
		NetworkTypes:           []ice.NetworkType{ice.NetworkTypeUDP4, ice.NetworkTypeUDP6},
		CandidateTypes:         []ice.CandidateType{ice.CandidateTypeHost},
		UDPMux:                 a.session,
		Net:                    nw,
		LoggerFactory:          silentFactory{},
		IncludeLoopback:        true,
		DisableActiveTCP:       true,
		CheckInterval:          &tick,
		KeepaliveInterval:      &zero,
		DisconnectedTimeout:    &zero,
		FailedTimeout:          &failed,
		MaxBindingRequests:     &forever,
		HostAcceptanceMinWait:  &zero,
		SrflxAcceptanceMinWait: &srflx,
		PrflxAcceptanceMinWait: &prflx,
		RelayAcceptanceMinWait: &relay,
	})
	if err != nil {
		_ = a.session.Close()
		return nil, fmt.Errorf("ICE agent: %w", err)
	}
	a.agent = agent
	gathered := make(chan struct{})
	err = agent.OnCandidate(func(c ice.Candidate) {
		if c == nil {
			close(gathered)
		}
	})
	if err == nil {
		err = agent.GatherCandidates()
	}
	if err != nil {
		a.close()
		return nil, fmt.Errorf("ICE agent: %w", err)
	}
	<-gathered // only our own sockets: no network involved
	return a, nil
}

// run checks the pairs with the remote candidates, which must have been
// filtered, and returns the first that the peer has answered on. It does not
// wait for a nomination: that would cost a round trip, and the pipe chooses
// among its paths by itself. The two sides may find different ones.
func (a *iceAgent) run(ctx context.Context, controlling bool, remote pipe.Remote, candidates []wire.Candidate) (pipe.Path, error) {
	return a.check(ctx, controlling, remote, candidates, a.session.proven)
}

// nominate is run for who has no other way to agree upon a pair: it waits for
// the one that the controlling side nominates.
func (a *iceAgent) nominate(ctx context.Context, controlling bool, remote pipe.Remote, candidates []wire.Candidate) (pipe.Path, error) {
	return a.check(ctx, controlling, remote, candidates, nil)
}

func (a *iceAgent) check(ctx context.Context, controlling bool, remote pipe.Remote, candidates []wire.Candidate, proven <-chan icePair) (pipe.Path, error) {
	a.session.run(remote.Pwd, controlling)
	// Who was heard before and answered may not check again: the agent would
	// never learn of an address that the peer itself does not know.
	for _, h := range a.session.early() {
		known := slices.ContainsFunc(candidates, func(c wire.Candidate) bool { return c.Addr == h.remote })
		if !known && len(candidates) < wire.MaxCandidates {
			candidates = append(candidates, wire.Candidate{Type: wire.PeerReflexive, Addr: h.remote, Foundation: "heard",
				Priority: priority(ice.CandidateTypePeerReflexive, preference(h.remote.Addr(), 0))})
		}
	}
	if err := a.addRemote(ctx, candidates); err != nil {
		return pipe.Path{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		var err error
		if controlling {
			_, err = a.agent.Dial(ctx, remote.Ufrag, remote.Pwd)
		} else {
			_, err = a.agent.Accept(ctx, remote.Ufrag, remote.Pwd)
		}
		ended <- err
	}()
	var err error
	select {
	case err = <-ended:
	case p := <-proven:
		cancel()
		<-ended // the agent goes on until it is closed
		return pipe.Path{Local: p.local, Remote: p.remote}, nil
	}
	if err != nil {
		if ctx.Err() != nil {
			return pipe.Path{}, fmt.Errorf("%w: %w", errNoPair, context.Cause(ctx))
		}
		return pipe.Path{}, fmt.Errorf("%w: %v", errNoPair, err)
	}
	pair, err := a.agent.GetSelectedCandidatePair()
	if err != nil || pair == nil {
		return pipe.Path{}, errNoPair
	}
	local, err := candidateAddr(pair.Local)
	if err != nil {
		return pipe.Path{}, err
	}
	to, err := candidateAddr(pair.Remote)
	if err != nil {
		return pipe.Path{}, err
	}
	for _, c := range a.conns {
		if c.LocalAddr() == local {
			return pipe.Path{Local: c, Remote: to}, nil
		}
	}
	return pipe.Path{}, fmt.Errorf("local address %v went away", local)
}

// addRemote gives the agent the peer's candidates and returns once it has
// them. pion adds each in a goroutine of its own; a check of the peer that
// overtook that would make the pair a peer-reflexive one, which waits for
// better ones before it is nominated.
func (a *iceAgent) addRemote(ctx context.Context, candidates []wire.Candidate) error {
	added := 0
	for _, c := range candidates {
		rc, err := remoteCandidate(c)
		if err != nil {
			continue
		}
		if err := a.agent.AddRemoteCandidate(rc); err != nil {
			return fmt.Errorf("ICE agent: %w", err)
		}
		added++
	}
	for {
		have, err := a.agent.GetRemoteCandidates()
		if err != nil {
			return fmt.Errorf("ICE agent: %w", err)
		}
		if len(have) >= added {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", errNoPair, context.Cause(ctx))
		}
		runtime.Gosched() // each of pion's goroutines has one step to do
	}
}

// close ends the agent and waits for its goroutines.
func (a *iceAgent) close() {
	a.closing.Do(func() {
		a.turn.close()
		_ = a.session.Close() // first: unblocks the agent's readers
		_ = a.agent.GracefulClose()
		close(a.closed)
	})
	<-a.closed
}

func randomText(bytes int) string {
	b := make([]byte, bytes)
	rand.Read(b) // never fails, crypto/rand
	return base64.RawStdEncoding.EncodeToString(b)
}

// localCandidates lists what we show: each socket's own address and what it is
// mapped to, and what TURN servers lend. Loopback addresses are shown only among
// themselves or when listed (socket decides which sockets exist).
func localCandidates(conns []*socket.Conn, mapped func(*socket.Conn) []netip.AddrPort, lent []*turnLink) []wire.Candidate {
	var out []wire.Candidate
	for i, l := range lent { // first: nothing else may push them out
		out = append(out, wire.Candidate{
			Type: wire.Relayed, Addr: l.at, Foundation: fmt.Sprintf("r%d", i),
			Priority: priority(ice.CandidateTypeRelay, preference(l.at.Addr(), i)),
		})
	}
	for i, c := range conns {
		at := c.LocalAddr()
		out = append(out, wire.Candidate{
			Type: wire.Host, Addr: at, Foundation: fmt.Sprintf("h%d", i),
			Priority: priority(ice.CandidateTypeHost, preference(at.Addr(), i)),
		})
	}
	for i, c := range conns {
		for j, m := range mapped(c) {
			out = append(out, wire.Candidate{
				Type: wire.ServerReflexive, Addr: m, Related: c.LocalAddr(), Foundation: fmt.Sprintf("s%d.%d", i, j),
				Priority: priority(ice.CandidateTypeServerReflexive, preference(m.Addr(), i)),
			})
		}
	}
	return out[:min(len(out), wire.MaxCandidates)]
}

// priority is RFC 8445 §5.1.2.1 for component 1.
func priority(t ice.CandidateType, local uint16) uint32 {
	return uint32(t.Preference())<<24 | uint32(local)<<8 | 255
}

// preference prefers IPv6 (RFC 8421 §4: both families interleaved, the better
// first), then the order of the sockets; loopback comes first: it only ever
// answers on the same machine.
func preference(a netip.Addr, i int) uint16 {
	p := 65535 - 2*min(i, 1000)
	if a.Is4() {
		p--
	}
	if a.IsLoopback() {
		return uint16(p)
	}
	return uint16(p - 4096)
}

func remoteCandidate(c wire.Candidate) (ice.Candidate, error) {
	if c.TCP != 0 {
		return nil, fmt.Errorf("TCP candidate %v", c.TCP)
	}
	address, port := c.Addr.Addr().String(), int(c.Addr.Port())
	switch c.Type {
	case wire.Host:
		return ice.NewCandidateHost(&ice.CandidateHostConfig{Network: "udp", Address: address, Port: port,
			Component: 1, Priority: c.Priority, Foundation: c.Foundation})
	case wire.ServerReflexive, wire.PeerReflexive:
		rel, relPort := "0.0.0.0", 0
		if c.Related.IsValid() {
			rel, relPort = c.Related.Addr().String(), int(c.Related.Port())
		}
		return ice.NewCandidateServerReflexive(&ice.CandidateServerReflexiveConfig{Network: "udp", Address: address, Port: port,
			Component: 1, Priority: c.Priority, Foundation: c.Foundation, RelAddr: rel, RelPort: relPort})
	case wire.Relayed:
		return ice.NewCandidateRelay(&ice.CandidateRelayConfig{Network: "udp", Address: address, Port: port,
			Component: 1, Priority: c.Priority, Foundation: c.Foundation, RelAddr: "0.0.0.0"})
	}
	return nil, fmt.Errorf("candidate type %v", c.Type)
}

func candidateAddr(c ice.Candidate) (netip.AddrPort, error) {
	ip, err := netip.ParseAddr(c.Address())
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("candidate: %w", err)
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(c.Port())), nil
}

// candidateFilter says which remote candidates an agent may see (DESIGN §8):
// the rest could point our checks at somebody who has no part in this.
type candidateFilter struct {
	loopback bool           // this node itself uses loopback addresses
	lsi      []netip.Prefix // addresses that are no real ones
}

// RFC 6890 and what idloc itself uses.
var neverRemote = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("198.18.0.0/15"), // LSIs
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("2001:20::/28"), // LSIs, RFC 7343
	netip.MustParsePrefix("64:ff9b:1::/48"),
}

const minRemotePort = 1024

func (f candidateFilter) keep(in []wire.Candidate) []wire.Candidate {
	var out []wire.Candidate
	type place struct {
		at  netip.AddrPort
		tcp wire.TCPType
	}
	seen := map[place]bool{}
	for _, c := range in {
		if len(out) == wire.MaxCandidates {
			break
		}
		p := place{c.Addr, c.TCP}
		if seen[p] || !f.allowed(c.Addr) {
			continue
		}
		seen[p] = true
		out = append(out, c)
	}
	return out
}

func (f candidateFilter) allowed(a netip.AddrPort) bool {
	ip := a.Addr()
	switch {
	case !ip.IsValid() || a.Port() < minRemotePort,
		ip.IsUnspecified(), ip.IsMulticast(), ip.IsLinkLocalUnicast(), ip.Is4In6(), ip.Zone() != "",
		ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}),
		ip.IsLoopback() && !f.loopback:
		return false
	}
	for _, p := range neverRemote {
		if p.Contains(ip) {
			return false
		}
	}
	for _, p := range f.lsi {
		if p.Contains(ip) {
			return false
		}
	}
	return true
}

// describe lists candidates for an event.
func describe(cs []wire.Candidate) string {
	var b strings.Builder
	for i, c := range cs {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%v/%v", c.Type, c.Addr)
		if c.TCP != 0 {
			fmt.Fprintf(&b, "/tcp-%v", c.TCP)
		}
	}
	return b.String()
}

// silentFactory keeps pion's log away from standard error: what matters of it
// is in the errors and events.
type silentFactory struct{}

func (silentFactory) NewLogger(string) logging.LeveledLogger { return silent{} }

type silent struct{}

func (silent) Trace(string)          {}
func (silent) Tracef(string, ...any) {}
func (silent) Debug(string)          {}
func (silent) Debugf(string, ...any) {}
func (silent) Info(string)           {}
func (silent) Infof(string, ...any)  {}
func (silent) Warn(string)           {}
func (silent) Warnf(string, ...any)  {}
func (silent) Error(string)          {}
func (silent) Errorf(string, ...any) {}
