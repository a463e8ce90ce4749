package nullflow

import (
	"context"
	"net/netip"

	"github.com/idloc/idloc/internal/pipe"
	"github.com/idloc/idloc/overlay/ice"
)

// NewUDPChecks makes the sockets and candidates of one path of a UDP flow, of package
// ice.
func NewUDPChecks(ctx context.Context, cfg ice.FlowConfig) (UDPChecks, error) {
	s, err := ice.NewFlowSockets(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return flowSockets{s}, nil
}

// flowSockets are UDPChecks of package ice.
type flowSockets struct{ *ice.FlowSockets }

var _ UDPChecks = flowSockets{}

func (f flowSockets) Credentials() (ufrag, pwd string) {
	c := f.FlowSockets.Credentials()
	return c.Ufrag, c.Pwd
}

func (f flowSockets) Run(ctx context.Context, controlling bool, remote pipe.Remote) (local, to netip.AddrPort, err error) {
	p, err := f.FlowSockets.Run(ctx, controlling, ice.Credentials{Ufrag: remote.Ufrag, Pwd: remote.Pwd}, remote.Candidates)
	if err != nil {
		return local, to, err
	}
	return p.Local.LocalAddr(), p.Remote, nil
}
