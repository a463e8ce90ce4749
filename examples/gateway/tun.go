package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/idloc/idloc/idloc"
)

// hints tells how the programs of a host with a TUN device find names.
func hints(out io.Writer, s idloc.SelfStatus, limited bool) {
	fmt.Fprintf(out, "TUN device %s has %v and %v; DNS for %s at %v\n", s.TUN, s.LSI4, s.LSI6, s.Domain, s.DNS)
	if b := s.LSI4.As4(); s.LSI4.Is4() {
		fmt.Fprintf(out, "  with systemd-resolved: resolvectl dns %[1]s %[2]v && resolvectl domain %[1]s '~%[3]s' '~%[5]d.%[4]d.in-addr.arpa'\n", s.TUN, s.DNS, s.Domain, b[0], b[1])
	}
	fmt.Fprintf(out, "  without: make 'nameserver %v' the first line of /etc/resolv.conf; other names go to the servers it has now\n", s.DNS)
	if !limited {
		fmt.Fprintln(out, "  members reach every port on which a program of this host listens on all addresses; -allow tcp:22 and so on limits them")
	}
}

// explain says with which flag to do what an error wants of Config.
func explain(err error) error {
	var p *idloc.PrefixError
	if errors.As(err, &p) && p.Free.IsValid() {
		return fmt.Errorf("%w: say -lsi-prefix %v", err, p.Free)
	}
	return err
}

// admit makes Config.Admit of the -allow flags; nil admits all.
func admit(allow []string) (func(idloc.Flow) bool, error) {
	if len(allow) == 0 {
		return nil, nil
	}
	type ports struct {
		network     string
		first, last uint16
	}
	var may []ports
	for _, s := range allow {
		network, list, ok := strings.Cut(s, ":")
		from, to, several := strings.Cut(list, "-")
		if !several {
			to = from
		}
		first, err1 := strconv.ParseUint(from, 10, 16)
		last, err2 := strconv.ParseUint(to, 10, 16)
		if !ok || network != "tcp" && network != "udp" || err1 != nil || err2 != nil || first > last {
			return nil, fmt.Errorf("%q: want tcp:22 or udp:10000-20000", s)
		}
		may = append(may, ports{network, uint16(first), uint16(last)})
	}
	return func(f idloc.Flow) bool {
		for _, p := range may {
			if p.network == f.Network && p.first <= f.Local.Port() && f.Local.Port() <= p.last {
				return true
			}
		}
		return false
	}, nil
}
