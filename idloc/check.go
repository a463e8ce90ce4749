package idloc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/idloc/idloc/internal/logpace"
	"github.com/idloc/idloc/internal/state"
	"github.com/idloc/idloc/overlay/membership"
	"github.com/idloc/idloc/overlay/nat"
)

// ConfigError says that a field of Config has a value that no node can run with,
// or that can only be a mistake.
type ConfigError struct {
	Field string // "LSIPrefix"
	Err   error  // never nil
}

func (e *ConfigError) Error() string { return "idloc: Config." + e.Field + ": " + e.Err.Error() }
func (e *ConfigError) Unwrap() error { return e.Err }

// nameRoom is how long a name may be: a tie adds "-2" to "-999" to it.
const nameRoom = 59

// leastListAge is the least MaxListAge: three times the pause between two assurances of
// an issuer's.
const leastListAge = 30 * time.Minute

// withDefaults checks cfg and fills in what is not the layers' business.
func (cfg Config) withDefaults() (Config, error) {
	cfg.Logger = logpace.New(cfg.Logger)
	fail := func(field string, err error) (Config, error) { return cfg, &ConfigError{field, err} }
	if cfg.TUN != "" && cfg.Null != NullRefuse {
		return fail("Null", fmt.Errorf("null encapsulation with a TUN device: %w", errors.ErrUnsupported))
	}
	if cfg.Null > NullPlain {
		return fail("Null", fmt.Errorf("no policy %d", cfg.Null))
	}
	if cfg.Paths > PathRelayOnly {
		return fail("Paths", fmt.Errorf("no policy %d", cfg.Paths))
	}
	if a := cfg.MaxListAge; a != 0 && a < leastListAge {
		return fail("MaxListAge", fmt.Errorf("%v: at least %v, in which issuers can say several times that there is no newer list", a, leastListAge))
	}
	if err := checkPrefix(cfg.LSIPrefix); err != nil {
		return fail("LSIPrefix", err)
	}
	if _, err := nat.ParseICEServers(cfg.ICEServers); err != nil {
		return fail("ICEServers", err)
	}
	var err error
	if cfg.reached, err = parseReached(cfg.Reached); err != nil {
		return fail("Reached", err)
	}
	if err := checkCarrier(cfg.Carrier); err != nil {
		return fail("Carrier", err)
	}
	if cfg.Name == "" {
		return cfg, nil
	}
	if cfg.Name, err = checkName(cfg.Name); err != nil {
		return fail("Name", err)
	}
	return cfg, nil
}

// checkName returns name in lower case, or an error if it could only be a member's
// name after a change.
func checkName(name string) (string, error) {
	label := strings.ToLower(name)
	if first, _, dotted := strings.Cut(label, "."); dotted && membership.CheckLabel(first) == nil {
		return "", fmt.Errorf("%w: %q has a dot: the label alone is wanted, %q", membership.ErrBadLabel, name, first)
	}
	if err := membership.CheckLabel(label); err != nil {
		return "", err
	}
	if len(label) > nameRoom {
		return "", fmt.Errorf("%w: %q is longer than %d characters, which leave room for -2 and so on", membership.ErrBadLabel, name, nameRoom)
	}
	return label, nil
}

// notPublic are the IPv4 ranges that no host on the internet has an address of,
// where a prefix of LSIs can hide nothing but what is on the user's own networks.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"),      // RFC 1918
	netip.MustParsePrefix("172.16.0.0/12"),   // RFC 1918
	netip.MustParsePrefix("192.168.0.0/16"),  // RFC 1918
	netip.MustParsePrefix("100.64.0.0/10"),   // RFC 6598
	netip.MustParsePrefix("198.18.0.0/15"),   // RFC 2544
	netip.MustParsePrefix("192.0.2.0/24"),    // RFC 5737
	netip.MustParsePrefix("198.51.100.0/24"), // RFC 5737
	netip.MustParsePrefix("203.0.113.0/24"),  // RFC 5737
	netip.MustParsePrefix("240.0.0.0/4"),     // RFC 1112 §4
}

// checkPrefix refuses LSIs that are, or could be, addresses of hosts on the
// internet. What else a prefix must be is checked by package lsi.
func checkPrefix(p netip.Prefix) error {
	if !p.IsValid() || !p.Addr().Is4() {
		return nil
	}
	for _, r := range notPublic {
		if r.Bits() <= p.Bits() && r.Contains(p.Addr()) {
			return nil
		}
	}
	return fmt.Errorf("%v is, at least in part, in use on the internet or by every host: take a part of 198.18.0.0/15, 100.64.0.0/10 or of a private range", p)
}

// machineLabel is the machine's name as a host label (draft §5: "use the
// peer's machine name as the label"), and whether more than its domain and its
// capitals had to be changed for that.
func machineLabel(host string) (label string, changed bool) {
	host, _, _ = strings.Cut(strings.ToLower(host), ".")
	label = strings.Trim(strings.Map(func(r rune) rune {
		if (r >= 'a' && r <= 'z') || (r >= '0' && r <= '9') || r == '-' {
			return r
		}
		return '-'
	}, host), "-")
	label = strings.TrimRight(label[:min(len(label), nameRoom)], "-")
	if membership.CheckLabel(label) != nil {
		label = "peer"
	}
	return label, label != host
}

// nameMachine gives a node without a Config.Name the machine's.
func (n *Node) nameMachine() {
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	label, changed := machineLabel(host)
	if n.cfg.Name = label; changed {
		n.warnings.set(n.log, "name", fmt.Sprintf("Config.Name is empty and the machine's name %q is no host label: %q is used", host, label))
	}
}

// checkDir warns of a state directory that other users of the machine can look
// into. What they could read or replace there is refused by package state.
func (n *Node) checkDir() {
	if n.cfg.Dir == "" {
		return
	}
	if info, err := os.Stat(n.cfg.Dir); err == nil && state.OthersSee(info) {
		n.warnings.set(n.log, "dir", fmt.Sprintf("Config.Dir %s, mode %04o: other users of this machine can look into it, and whoever copies what is in it "+
			"with other modes gives them this node's key; chmod 700", n.cfg.Dir, info.Mode().Perm()))
	}
}

// resolveAgain is how long a server's name that cannot be resolved is left alone.
const resolveAgain = 30 * time.Second

// watchServers warns of servers whose names cannot be resolved, and takes that
// back when they can be.
func (w *warnings) watchServers(ctx context.Context, log *slog.Logger, servers []nat.ICEServer, lookup func(context.Context, string) error) {
	for len(servers) > 0 {
		servers = slices.DeleteFunc(slices.Clone(servers), func(s nat.ICEServer) bool {
			err := lookup(ctx, s.Host)
			switch {
			case ctx.Err() != nil:
			case err != nil:
				w.set(log, s.String(), fmt.Sprintf("Config.ICEServers: %v cannot be resolved and helps nobody: %v", s, err))
			default:
				w.clear(s.String())
			}
			return err == nil
		})
		select {
		case <-time.After(resolveAgain):
		case <-ctx.Done():
			return
		}
	}
}

// namedServers are those of Config.ICEServers that the system's DNS is asked for.
func (cfg Config) namedServers() []nat.ICEServer {
	all, _ := nat.ParseICEServers(cfg.ICEServers) // checked before
	return slices.DeleteFunc(all, func(s nat.ICEServer) bool {
		_, err := netip.ParseAddr(s.Host)
		return err == nil
	})
}

func lookupHost(ctx context.Context, host string) error {
	_, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	return err
}

// warnings are what Status says of a Config that is probably not meant so. They
// are safe for concurrent use.
type warnings struct {
	mu    sync.Mutex
	texts map[string]string // by what they are about
}

// set keeps a warning, and logs it if it is new.
func (w *warnings) set(log *slog.Logger, about, text string) {
	w.mu.Lock()
	_, known := w.texts[about]
	if w.texts == nil {
		w.texts = map[string]string{}
	}
	w.texts[about] = text
	w.mu.Unlock()
	if !known {
		log.Warn("this is probably not meant", "why", text)
	}
}

func (w *warnings) clear(about string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.texts, about)
}

// all returns them in a fixed order.
func (w *warnings) all() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Values(w.texts))
}

// listAged warns while what is known of who was revoked is old.
func (n *Node) listAged(asOf time.Time, old bool) {
	if !old {
		n.warnings.clear("revoked")
		return
	}
	text := fmt.Sprintf("who was revoked is known as of %s: nobody has said since, on the founder's or a delegate's word, that it is all", asOf.UTC().Format(time.RFC3339))
	if n.cfg.MaxListAge > 0 {
		text += "; there are no new pipes until somebody does (Config.MaxListAge)"
	}
	n.warnings.set(n.log, "revoked", text)
}
