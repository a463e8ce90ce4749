package nat

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"time"

	"github.com/huin/goupnp"
	"github.com/huin/goupnp/dcps/internetgateway2"
)

// upnpService is what the three kinds of connection services of an internet
// gateway device have in common.
type upnpService interface {
	GetExternalIPAddressCtx(ctx context.Context) (string, error)
	AddPortMappingCtx(ctx context.Context, remoteHost string, externalPort uint16, protocol string, internalPort uint16,
		internalClient string, enabled bool, description string, seconds uint32) error
	DeletePortMappingCtx(ctx context.Context, remoteHost string, externalPort uint16, protocol string) error
	GetServiceClient() *goupnp.ServiceClient
}

// upnp maps ports by UPnP IGD.
type upnp struct{ service upnpService }

var _ gateway = upnp{}

func (u upnp) String() string { return "UPnP" }

func (u upnp) external(ctx context.Context) (netip.Addr, error) {
	s, err := u.service.GetExternalIPAddressCtx(ctx)
	if err != nil {
		return netip.Addr{}, err
	}
	return netip.ParseAddr(s)
}

func (u upnp) add(ctx context.Context, local netip.AddrPort, want uint16, life time.Duration) (uint16, time.Duration, error) {
	const description = "idloc"
	err := u.service.AddPortMappingCtx(ctx, "", want, "UDP", local.Port(), local.Addr().String(), true, description, uint32(life/time.Second))
	if err != nil { // some routers know mappings without an end only
		life = 0
		if again := u.service.AddPortMappingCtx(ctx, "", want, "UDP", local.Port(), local.Addr().String(), true, description, 0); again != nil {
			return 0, 0, err
		}
	}
	return want, life, nil
}

func (u upnp) remove(ctx context.Context, _ netip.AddrPort, port uint16) error {
	return u.service.DeletePortMappingCtx(ctx, "", port, "UDP")
}

// findUPnP searches the local network for an internet gateway device, and
// takes the one that is the router: others may say that they are one.
func findUPnP(ctx context.Context, router netip.Addr) (gateway, error) {
	for _, search := range []func(context.Context) ([]upnpService, error){
		func(ctx context.Context) ([]upnpService, error) {
			c, _, err := internetgateway2.NewWANIPConnection1ClientsCtx(ctx)
			return services(c), err
		},
		func(ctx context.Context) ([]upnpService, error) {
			c, _, err := internetgateway2.NewWANIPConnection2ClientsCtx(ctx)
			return services(c), err
		},
		func(ctx context.Context) ([]upnpService, error) {
			c, _, err := internetgateway2.NewWANPPPConnection1ClientsCtx(ctx)
			return services(c), err
		},
	} {
		found, err := search(ctx)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			return nil, fmt.Errorf("UPnP: %w", err)
		}
		for _, s := range found {
			if isRouter(s.GetServiceClient().Location, router) {
				return upnp{s}, nil
			}
		}
	}
	return nil, errNoRouter
}

func services[S upnpService](clients []S) []upnpService {
	var out []upnpService
	for _, c := range clients {
		out = append(out, c)
	}
	return out
}

func isRouter(u *url.URL, router netip.Addr) bool {
	ip, err := netip.ParseAddr(u.Hostname())
	return err == nil && ip == router
}
