package ice

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"time"

	pion "github.com/pion/ice/v3"
	"github.com/pion/logging"

	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/internal/wire"
)

// What of an agent is pion's business: making it, and the candidates in its
// terms.

const (
	// Acceptance waits: how long a worse kind of pair waits for a better
	// one. pion's own (0.5, 1, 2 s) are longer than the whole of our
	// establishment; a better path can be taken later by the pipe.
	srflxWait = 20 * time.Millisecond
	prflxWait = 50 * time.Millisecond
	relayWait = 200 * time.Millisecond
	// agentTick is how often an agent looks at its pairs; it grows with their
	// number because pion touches each at every tick.
	agentTick   = 5 * time.Millisecond
	tickPerPair = time.Millisecond
)

// silent keeps pion's log away from standard error: what matters of it is in the
// errors and events.
var silent = &logging.DefaultLoggerFactory{Writer: io.Discard, DefaultLogLevel: logging.LogLevelDisabled}

// makePion makes pion's agent, which checks from conns. Nothing is sent before it
// has candidates.
func (a *Agent) makePion(conns []*socket.Conn, candidates int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return net.ErrClosed
	}
	zero := time.Duration(0)
	srflx, prflx, relay := srflxWait, prflxWait, relayWait
	tick := agentTick + time.Duration(candidates*len(conns))*tickPerPair
	forever := uint16(0xFFFF) // permit counts the checks
	failed := time.Minute
	agent, err := pion.NewAgent(&pion.AgentConfig{
		LocalUfrag: a.local.Ufrag, LocalPwd: a.local.Pwd,
		MulticastDNSMode:       pion.MulticastDNSModeDisabled,
		NetworkTypes:           []pion.NetworkType{pion.NetworkTypeUDP4, pion.NetworkTypeUDP6},
		CandidateTypes:         []pion.CandidateType{pion.CandidateTypeHost},
		UDPMux:                 a.session.mux(conns),
		Net:                    a.net,
		LoggerFactory:          silent,
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
		return fmt.Errorf("ICE agent: %w", err)
	}
	a.pion = agent // from now on close ends it
	gathered := make(chan struct{})
	err = agent.OnCandidate(func(c pion.Candidate) {
		if c == nil {
			close(gathered)
		}
	})
	if err == nil {
		err = agent.GatherCandidates()
	}
	if err != nil {
		return fmt.Errorf("ICE agent: %w", err)
	}
	<-gathered // only our own sockets: no network involved
	return nil
}

// selected is the pair that pion's agents have agreed upon.
func (a *Agent) selected() (Pair, error) {
	pair, err := a.pion.GetSelectedCandidatePair()
	if err != nil || pair == nil {
		return Pair{}, ErrNoPair
	}
	local, err := candidateAddr(pair.Local)
	if err != nil {
		return Pair{}, err
	}
	to, err := candidateAddr(pair.Remote)
	if err != nil {
		return Pair{}, err
	}
	if c := a.conn(local); c != nil {
		return Pair{Local: c, Remote: to}, nil
	}
	return Pair{}, fmt.Errorf("local address %v went away", local)
}

// conn is the socket with a local address, nil if there is none.
func (a *Agent) conn(local netip.AddrPort) *socket.Conn {
	for _, c := range a.conns {
		if c.LocalAddr() == local {
			return c
		}
	}
	return nil
}

// Succeeded returns the pairs on which a check was answered.
func (a *Agent) Succeeded() []Pair {
	a.mu.Lock()
	agent := a.pion
	a.mu.Unlock()
	if agent == nil {
		return nil // ended before the checks
	}
	locals, err := agent.GetLocalCandidates()
	if err != nil {
		return nil
	}
	remotes, err := agent.GetRemoteCandidates()
	if err != nil {
		return nil
	}
	byID := map[string]pion.Candidate{}
	for _, c := range append(locals, remotes...) {
		byID[c.ID()] = c
	}
	var out []Pair
	for _, s := range agent.GetCandidatePairsStats() {
		l, r := byID[s.LocalCandidateID], byID[s.RemoteCandidateID]
		if s.State != pion.CandidatePairStateSucceeded || l == nil || r == nil {
			continue
		}
		from, err := candidateAddr(l)
		if err != nil {
			continue
		}
		to, err := candidateAddr(r)
		if err != nil {
			continue
		}
		if c := a.conn(from); c != nil {
			out = append(out, Pair{Local: c, Remote: to})
		}
	}
	return out
}

// giveRemote gives the agent the peer's candidates and returns once it has
// them. pion adds each in a goroutine of its own; a check of the peer that
// overtook that would make the pair a peer-reflexive one, which waits for
// better ones before it is nominated.
func (a *Agent) giveRemote(ctx context.Context, candidates []wire.Candidate) error {
	added := 0
	for _, c := range candidates {
		rc, err := remoteCandidate(c)
		if err != nil {
			continue
		}
		if err := a.pion.AddRemoteCandidate(rc); err != nil {
			return fmt.Errorf("ICE agent: %w", err)
		}
		added++
	}
	for {
		have, err := a.pion.GetRemoteCandidates()
		if err != nil {
			return fmt.Errorf("ICE agent: %w", err)
		}
		if len(have) >= added {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", ErrNoPair, context.Cause(ctx))
		}
		runtime.Gosched() // each of pion's goroutines has one step to do
	}
}

func remoteCandidate(c wire.Candidate) (pion.Candidate, error) {
	if c.TCP != 0 {
		return nil, fmt.Errorf("TCP candidate %v", c.TCP)
	}
	address, port := c.Addr.Addr().String(), int(c.Addr.Port())
	switch c.Type {
	case wire.Host:
		return pion.NewCandidateHost(&pion.CandidateHostConfig{Network: "udp", Address: address, Port: port,
			Component: 1, Priority: c.Priority, Foundation: c.Foundation})
	case wire.ServerReflexive, wire.PeerReflexive:
		rel, relPort := "0.0.0.0", 0
		if c.Related.IsValid() {
			rel, relPort = c.Related.Addr().String(), int(c.Related.Port())
		}
		return pion.NewCandidateServerReflexive(&pion.CandidateServerReflexiveConfig{Network: "udp", Address: address, Port: port,
			Component: 1, Priority: c.Priority, Foundation: c.Foundation, RelAddr: rel, RelPort: relPort})
	case wire.Relayed:
		return pion.NewCandidateRelay(&pion.CandidateRelayConfig{Network: "udp", Address: address, Port: port,
			Component: 1, Priority: c.Priority, Foundation: c.Foundation, RelAddr: "0.0.0.0"})
	}
	return nil, fmt.Errorf("candidate type %v", c.Type)
}

func candidateAddr(c pion.Candidate) (netip.AddrPort, error) {
	ip, err := netip.ParseAddr(c.Address())
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("candidate: %w", err)
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(c.Port())), nil
}
