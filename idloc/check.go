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
	"github.com/idloc/idloc/lsi"
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

// withDefaults checks cfg and fills in what is not the layers' business. A node that
// resumes is not stopped by what it was founded or joined with, before that was
// an error: those are the doubts, of which it only warns.
func (cfg Config) withDefaults(resumes bool) (_ Config, doubts []*ConfigError, err error) {
	cfg.Logger = logpace.New(cfg.Logger)
	for _, c := range []*ConfigError{
		{"Null", checkNull(cfg.Null, cfg.TUN)},
		{"Paths", checkPolicy(cfg.Paths, PathRelayOnly)},
		{"Repair", checkPolicy(cfg.Repair, RepairOff)},
		{"MaxListAge", checkListAge(cfg.MaxListAge)},
		{"Addrs", checkAddrs(cfg.Addrs)},
		{"Carrier", cfg.checkCarrier()},
	} {
		if c.Err != nil {
			return cfg, nil, c
		}
	}
	fail := func(field string, err error, accepted bool) error {
		if err != nil && accepted && resumes {
			doubts, err = append(doubts, &ConfigError{field, err}), nil
		}
		if err != nil {
			return &ConfigError{field, err}
		}
		return nil
	}
	if err = lsi.CheckPrefix(cfg.LSIPrefix); err != nil {
		return cfg, nil, fail("LSIPrefix", err, false)
	}
	if err = fail("LSIPrefix", checkPublic(cfg.LSIPrefix), true); err != nil {
		return cfg, nil, err
	}
	cfg.ICEServers = slices.DeleteFunc(slices.Clone(cfg.ICEServers), func(text string) bool {
		_, wrong := nat.ParseICEServer(text)
		if err == nil {
			err = fail("ICEServers", wrong, errors.Is(wrong, nat.ErrSlashes))
		}
		return wrong != nil
	})
	if err != nil {
		return cfg, nil, err
	}
	if cfg.reached, err = parseReached(cfg.Reached); err != nil {
		return cfg, nil, fail("Reached", err, false)
	}
	if cfg.Name != "" {
		label, wrong := checkName(cfg.Name)
		if err = fail("Name", wrong, true); err != nil {
			return cfg, nil, err
		}
		cfg.Name = label
	}
	return cfg, doubts, nil
}

func checkNull(p NullPolicy, tun string) error {
	if tun != "" && p != NullRefuse {
		return fmt.Errorf("null encapsulation with a TUN device: %w", errors.ErrUnsupported)
	}
	return checkPolicy(p, NullPlain)
}

func checkPolicy[P ~uint8](p, last P) error {
	if p > last {
		return fmt.Errorf("no policy %d", p)
	}
	return nil
}

func checkListAge(a time.Duration) error {
	if a != 0 && a < leastListAge {
		return fmt.Errorf("%v: at least %v, in which issuers can say several times that there is no newer list", a, leastListAge)
	}
	return nil
}

// checkAddrs refuses addresses that no interface has.
func checkAddrs(all []netip.Addr) error {
	for _, a := range all {
		switch a = a.Unmap(); {
		case !a.IsValid():
			return errors.New("the zero netip.Addr is no address; no Addrs are all addresses of this host")
		case a.IsUnspecified() || a.IsMulticast():
			return fmt.Errorf("no interface has the address %v; no Addrs are all addresses of this host", a)
		}
	}
	return nil
}

// checkName returns name in lower case, or an error if it could only be a member's
// name after a change.
func checkName(name string) (string, error) {
	label := strings.ToLower(name)
	if first, _, dotted := strings.Cut(label, "."); dotted && membership.CheckLabel(first) == nil {
		return "", fmt.Errorf("%w: %q has a dot: the label alone is wanted, %q", membership.ErrBadLabel, name, first)
	}
	err := membership.CheckLabel(label)
	if len(label) > nameRoom {
		err = fmt.Errorf("%w: %q is longer than %d characters, which leave room for -2 and so on", membership.ErrBadLabel, name, nameRoom)
	}
	if instead, _ := machineLabel(name); err != nil && instead != noLabel {
		err = fmt.Errorf("%w; %q would do", err, instead)
	}
	return label, err
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

// checkPublic refuses LSIs that are, or could be, addresses of hosts on the
// internet. What else a prefix must be is checked by package lsi.
func checkPublic(p netip.Prefix) error {
	if !p.IsValid() {
		return nil
	}
	for _, r := range notPublic {
		if r.Bits() <= p.Bits() && r.Contains(p.Addr()) {
			return nil
		}
	}
	return fmt.Errorf("%v is, at least in part, in use on the internet: take a part of 198.18.0.0/15, 100.64.0.0/10 or of a private range", p)
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
		label = noLabel
	}
	return label, label != host
}

// noLabel is the label of a machine whose name has nothing that could be in one.
const noLabel = "peer"

// machineName is what a node without a Config.Name is named after.
func machineName() string {
	host, err := os.Hostname()
	if err != nil {
		return ""
	}
	return host
}

// checkNamed warns of a node whose name is not what Config.Name, or without one the
// machine, would have it. A token and what is in Dir come before these, and a
// number that ends a tie is no surprise.
func (n *Node) checkNamed(asked, host string) {
	label, _, _ := strings.Cut(n.Name(), ".")
	base, changed := machineLabel(host)
	switch {
	case label == "":
	case asked != "" && !namedAfter(label, asked):
		n.warnings.set(n.log, "name", fmt.Sprintf("Config.Name %q is not used: this node is %q, as its token says, or since it entered the overlay", asked, label))
	case asked == "" && changed && namedAfter(label, base):
		n.warnings.set(n.log, "name", fmt.Sprintf("Config.Name is empty and the machine's name %q is no host label: %q is used", host, label))
	}
}

// namedAfter says whether a label is what was asked for, or that with the number
// that ends a tie.
func namedAfter(label, asked string) bool {
	number, tied := strings.CutPrefix(label, asked+"-")
	return label == asked || tied && number != "" && strings.Trim(number, "0123456789") == ""
}

// checkPresent warns of addresses of Config.Addrs that this host does not have now.
func (n *Node) checkPresent() {
	n.warnings.judge(n.log, "addrs", func() string {
		var missing []string
		for _, a := range n.cfg.Addrs {
			if n.sock.ConnOn(a) == nil {
				missing = append(missing, a.String())
			}
		}
		if missing == nil {
			return ""
		}
		return "Config.Addrs: this host does not have " + strings.Join(missing, ", ") + " now, and what comes there does not reach this node"
	})
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
	w.judge(log, about, func() string { return text })
}

func (w *warnings) clear(about string) { w.judge(nil, about, func() string { return "" }) }

// judge keeps the warning that text returns, or none if that is "", and logs it if
// there was none. Of several judgements of one thing the last counts.
func (w *warnings) judge(log *slog.Logger, about string, text func() string) {
	w.mu.Lock()
	now := text()
	_, known := w.texts[about]
	switch {
	case now == "":
		delete(w.texts, about)
	case w.texts == nil:
		w.texts = map[string]string{about: now}
	default:
		w.texts[about] = now
	}
	w.mu.Unlock()
	if now != "" && !known {
		log.Warn("this is probably not meant", "why", now)
	}
}

// all returns them in a fixed order.
func (w *warnings) all() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Values(w.texts))
}

// listAged warns while what is known of who was revoked is old.
func (n *Node) listAged(asOf time.Time, old bool) {
	n.checkAttended()
	if !old {
		n.warnings.clear("revoked")
		return
	}
	text := fmt.Sprintf("who was revoked is known as of %s: nobody has said since, on an authority's or a delegate's word, that it is all", asOf.UTC().Format(time.RFC3339))
	if n.cfg.MaxListAge > 0 {
		text += "; there are no new pipes until somebody does (Config.MaxListAge)"
	}
	n.warnings.set(n.log, "revoked", text)
}
